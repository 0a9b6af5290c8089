"""Do what a DESIGN.md says about adding something, with a copy of the room, and run the copy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FUTURE = "from __future__ import annotations\n"


def blocks(document: Path, heading: str) -> list[str]:
    """The indented blocks of code below a heading, as they would be typed."""
    text = document.read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found: list[str] = []
    now: list[str] = []
    for line in [*text.splitlines(), "end"]:
        if line.startswith("    ") or (not line and now):
            now.append(line[4:])
        elif now:
            found.append("\n".join(now).strip("\n") + "\n")
            now = []
    return found


def added(room: str, heading: str, file: str, table: str, above: str, to: Path) -> None:
    """A copy of the room below `to` with the new file, and in `table` its line (above the line that begins
    with `above`) and the import of the class.
    """
    shutil.copytree(ROOT / room, to / room, ignore=shutil.ignore_patterns("__pycache__"))
    source, line = blocks(to / room / "DESIGN.md", heading)
    (to / room / file).write_text(source)
    match = re.search(r"^class (\w+)", source, re.M)
    assert match is not None and len(line.splitlines()) == 1
    imported = f"from {room}.{file.removesuffix('.py').replace('/', '.')} import {match[1]}\n"
    path = to / room / table
    before, first, after = path.read_text().partition(f"\n    {above}")
    assert first, f"{table} has no line that begins with {above}"
    before = before.replace(FUTURE, f"{FUTURE}\n{imported}", 1)
    path.write_text(f"{before}\n    {line.strip()}{first}{after}")


def run(script: str, to: Path) -> str:
    """What a script prints that is run with the copy in place of the room."""
    environment = {**os.environ, "PYTHONPATH": f"{to}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment, cwd=to
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
