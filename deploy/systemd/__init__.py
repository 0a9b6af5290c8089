"""The service files of every daemon, and what makes a host of the lab obey them.

The `.service` files serve on real machines as they are. On a host of the lab `unitfile` reads them and
`systemctl` asks for them.
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
# On a host, as systemd.unit(5) has it.
DIRECTORY = "/etc/systemd/system"
WANTS = f"{DIRECTORY}/multi-user.target.wants"
NAME = re.compile(r"[a-z][a-z0-9-]*")


def is_name(name: str) -> bool:
    """Can this be a unit's name, rather than a path or nothing?"""
    return NAME.fullmatch(name) is not None
