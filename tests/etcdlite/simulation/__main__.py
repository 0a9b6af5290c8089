"""`python -m tests.etcdlite.simulation --seeds N --start S`: run seeds, stop at the first that breaks a rule."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.etcdlite.simulation.scenario import Scenario


def main() -> int:
    """Exit status 1 and the seed, if one fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.etcdlite.simulation")
    parser.add_argument("--seeds", type=int, default=300, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first")
    options = parser.parse_args()
    began, totals = time.monotonic(), [0, 0, 0, 0, 0, 0]
    for seed in range(options.start, options.start + options.seeds):
        try:
            outcome = Scenario(seed).run()
        except Exception:
            traceback.print_exc()
            print(f"seed {seed} FAILED; replay: python -m tests.etcdlite.simulation --seeds 1 --start {seed}")
            return 1
        for position, name in enumerate(("terms", "committed", "acknowledged", "reads", "crashes", "snapshots")):
            totals[position] += getattr(outcome, name)
    print(
        "{} seeds in {:.1f} s, 0 violations: {} terms, {} entries committed, {} writes acknowledged, {} reads,"
        " {} crashes, {} members with a compacted log".format(options.seeds, time.monotonic() - began, *totals)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
