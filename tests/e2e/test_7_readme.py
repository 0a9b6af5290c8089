"""Every command block of the README that is marked to be run, run."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.lab import OUTSIDE, Lab

README = Path(__file__).parents[2] / "README.md"
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```sh\n(.*?)```", README.read_text(), re.S))


def test_there_are_blocks() -> None:
    assert set(BLOCKS) == {"kubectl", "curl", "etcdctl"}


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_block(lab: Lab, tmp_path: Path, name: str) -> None:
    """Run as written, but for the cluster it speaks to: `.venv/bin/hardway` and the port are those of this
    lab.
    """
    wrapper = tmp_path / "hardway"
    command = f'exec {sys.executable} -m deploy --topology {lab.topology} --state {lab.state} "$@"'
    wrapper.write_text(f"#!/bin/sh\n{command}\n")
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    script = BLOCKS[name].replace(".venv/bin/hardway", str(wrapper)).replace("127.0.0.1:6443", OUTSIDE)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
