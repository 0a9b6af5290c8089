"""`python -m controllers`."""

import sys

from controllers.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
