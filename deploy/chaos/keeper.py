"""`python -m deploy.chaos.keeper TOPOLOGY STATE`: ends faults whose time is over or whose owner has died."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy import topology
from deploy.chaos.active import keep
from deploy.chaos.lab import Lab
from deploy.state import State


def main(argv: list[str]) -> int:
    """Keep until no fault is in force."""
    file = Path(argv[0])
    loaded = topology.load(file)
    keep(Lab(loaded, State(loaded.name, Path(argv[1])), file))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
