"""The apiserver's tests over the real etcd: `python -m tests.apiserver.on_etcd [arguments of pytest]`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.apiserver.devserver import ROOT
from tests.apiserver.test_storage import member


def main(arguments: list[str]) -> int:
    """Start a member, run the tests against it, end it. The exit status is pytest's."""
    with tempfile.TemporaryDirectory(prefix="hardway-etcd-") as folder, member(["etcd"], Path(folder)) as url:
        command = [sys.executable, "-m", "pytest", "-q", *(arguments or ["tests/apiserver"])]
        return subprocess.run(
            command, cwd=ROOT, env={**os.environ, "HARDWAY_ETCD_SERVERS": url}, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
