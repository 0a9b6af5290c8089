"""`python -m kubeproxy`."""

import sys

from kubeproxy.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
