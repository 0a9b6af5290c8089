"""`python -m cloudcontroller`."""

import sys

from cloudcontroller.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
