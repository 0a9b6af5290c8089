"""`python -m scheduler`."""

import sys

from scheduler.app import main

sys.exit(main(sys.argv[1:]))
