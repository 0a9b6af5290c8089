"""Run seeds, stop at the first that breaks a rule."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from dataclasses import fields

from tests.etcdlite.simulation.scenario import Outcome, Scenario


def main() -> int:
    """Exit status 1 and the seed, if one fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.etcdlite.simulation")
    parser.add_argument("--seeds", type=int, default=300, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first")
    options = parser.parse_args()
    began, outcomes = time.monotonic(), []
    for seed in range(options.start, options.start + options.seeds):
        try:
            outcomes.append(Scenario(seed).run())
        except Exception:
            traceback.print_exc()
            print(f"seed {seed} FAILED; replay: python -m tests.etcdlite.simulation --seeds 1 --start {seed}")
            return 1
    print(f"{options.seeds} seeds in {time.monotonic() - began:.1f} s, 0 violations")
    for name in [field.name for field in fields(Outcome) if field.name != "seed"]:
        print(f"{sum(getattr(outcome, name) for outcome in outcomes):>10} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
