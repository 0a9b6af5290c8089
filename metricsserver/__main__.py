"""`python -m metricsserver`."""

import sys

from metricsserver.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
