"""`python -m deploy` is `hardway`."""

import sys

from deploy.cli import main

sys.exit(main())
