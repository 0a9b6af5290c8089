"""A member under cProfile: `python -m bench.profiled <file> <flags of etcdlite>`.

It counts CPU time of the loop's thread, so that neighbours on the machine do not show, and begins when all is
imported. Read it with `python -m pstats <file>`.
"""

from __future__ import annotations

import cProfile
import sys
import time

from etcdlite import app

if __name__ == "__main__":
    profile = cProfile.Profile(time.thread_time)
    status = profile.runcall(app.main, sys.argv[2:])
    profile.dump_stats(sys.argv[1])
    sys.exit(status)
