"""`python -m deploy.etcdtools etcd snapshot restore ...`."""

import sys

from deploy.etcdtools import main

if __name__ == "__main__":
    sys.exit(main())
