"""`python -m clusterdns`."""

import sys

from clusterdns.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
