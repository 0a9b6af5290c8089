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
from tests.ports import free_port

README = Path(__file__).parents[2] / "README.md"
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```sh\n(.*?)```", README.read_text(), re.S))


def test_there_are_blocks() -> None:
    assert set(BLOCKS) == {"kubectl", "curl", "etcdctl", "realetcd"}


@pytest.mark.parametrize("name", ["kubectl", "curl", "etcdctl"])
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


def test_a_cluster_of_its_own_on_the_real_etcd(tmp_path: Path) -> None:
    """As written, but for where state goes and the port outside."""
    state = tmp_path / "state"
    state.mkdir()
    script = BLOCKS["realetcd"].replace(".state/", f"{state}/").replace(":6453", f":{free_port()}")
    script = script.replace(".venv/bin/hardway", f"{sys.executable} -m deploy")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"trap 'onetcd clean' EXIT; {script}"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=README.parent,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "etcd --name=controller-0" in done.stdout and "0 failed" in done.stdout, done.stdout
