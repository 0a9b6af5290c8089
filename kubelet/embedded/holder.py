"""The program that keeps a pod's namespaces: `holder <directory>`. Standard library only.

What it starts waits for ever in an almost empty tree and holds the lock itself, so nothing of Python stays.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from kubelet.embedded import detach, process


def _live(spec: dict[str, Any], lock: int, report: int) -> int:
    process.enter_spaces({"pid": spec["spaces"]["pid"]})
    os.set_inheritable(lock, True)
    os.dup2(0, 2)

    def become(keep: set[int]) -> NoReturn:
        process.become(spec, keep)

    pid, problem = detach.first_process(become, {lock})
    if problem:
        os.write(report, f"{problem}\n".encode())
        return 1
    detach.write_whole(f"{spec['directory']}/{detach.STARTED}", {"pid": pid})
    os.write(report, detach.STARTED_LINE)
    return 0


def main() -> NoReturn:
    """Run with the sandbox's directory as the only argument."""
    detach.detached(sys.argv[1], _live)
