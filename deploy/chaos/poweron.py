"""`python -m deploy.chaos.poweron TOPOLOGY STATE HOST...`: raise hosts of a running cluster, waiting for
nothing but their pid 1.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from deploy import topology
from deploy.goals import Reporter
from deploy.state import Busy, State
from deploy.up import Raise

LOCK_TIMEOUT = 60.0


def main(argv: list[str]) -> int:
    """Raise the hosts named."""
    loaded = topology.load(Path(argv[0]))
    state = State(loaded.name, Path(argv[1]))
    raising = Raise(loaded, state, Reporter())
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            with state.lock():
                wanted = [loaded.host(name) for name in argv[2:]]
                down = [host for host in wanted if not raising.control(host).is_up()]
                if down:
                    inventory = raising.certificates()
                    raising.warm(unit for host in down for unit in raising.units(host))
                    raising.raise_hosts(down, inventory)
                return 0
        except Busy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
