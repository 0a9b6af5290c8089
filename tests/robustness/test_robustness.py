"""A short round on etcdlite keeps every promise, and stores that lie are caught.

`make robustness` is the long form. Each run is a process of its own, since it leaves the machine's network.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.robustness import lab
from tests.robustness.broken import BROKEN
from tests.robustness.members import ROOT

LACKING = lab.check_tools()
pytestmark = [
    pytest.mark.root,
    pytest.mark.serial,
    pytest.mark.timeout(600),
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]


def run(folder: Path, store: str, seconds: float, *more: str) -> tuple[int, str]:
    """One round; its exit status and what it printed."""
    length = [f"--minutes={seconds / 60}", f"--round-seconds={seconds}"]
    argv = ["-m", "tests.robustness", "--store", store, "--folder", str(folder), *length, *more]
    done = subprocess.run(
        [sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, timeout=550, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_etcdlite_keeps_its_promises_under_faults(tmp_path: Path) -> None:
    status, said = run(tmp_path, "etcdlite", 20, "--seed=1", "--gap=1")
    assert status == 0, said
    assert "0 violations" in said
    assert "faults: none" not in said


@pytest.mark.parametrize(
    ("store", "rule"), [("stale-reads", "stale read"), ("skipped-event", "watch: reliable")]
)
def test_a_store_that_lies_is_caught(tmp_path: Path, store: str, rule: str) -> None:
    status, said = run(tmp_path, store, 6, "--scenario=calm", "--seed=1", "--pace=0.005")
    assert status == 1, said
    assert f"\n{rule}: " in said
    (saved,) = tmp_path.rglob("history.json.gz")
    again = subprocess.run(
        [sys.executable, "-m", "tests.robustness", "--replay-history", str(saved)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert again.returncode == 1
    assert f"{rule}: " in again.stdout


def test_an_unknown_store_is_refused(tmp_path: Path) -> None:
    status, said = run(tmp_path, "no-such-store", 1)
    assert status == 2
    assert all(name in said for name in BROKEN)
