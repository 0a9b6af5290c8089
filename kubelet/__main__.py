"""`python -m kubelet`."""

import sys

from kubelet.app import main

sys.exit(main(sys.argv[1:]))
