"""`python -m controllers.localpath`."""

import sys

from controllers.localpath.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
