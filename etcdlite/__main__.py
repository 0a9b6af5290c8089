"""`python -m etcdlite`: one member of the store."""

import sys

from etcdlite.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
