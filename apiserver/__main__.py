"""`python -m apiserver`."""

import sys

from apiserver.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
