"""The cluster under test, driven as a user drives it: by the `hardway` command and by unmodified clients."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.ports import free_port

Object = dict[str, Any]

# Where this run's API is reached; chosen anew, so that two runs on one machine do not meet.
OUTSIDE = f"127.0.0.1:{free_port()}"

LOG_LINE = re.compile(r"^[EW]\d{4} \d\d:\d\d:\d\d\.\d+ .*\n?", re.MULTILINE)


class CommandFailed(AssertionError):
    """A command ended with an unexpected code; the text holds what it printed."""


@dataclass(frozen=True)
class Lab:
    topology: Path
    state: Path
    front: tuple[str, ...] = ()  # where and as whom `hardway` is run

    @property
    def kubeconfig(self) -> Path:
        return self.state / "pki" / "admin.kubeconfig"

    def hardway(self, *arguments: str, timeout: float = 300, code: int | None = 0) -> str:
        where = ["--topology", str(self.topology), "--state", str(self.state)]
        return run(
            [*self.front, sys.executable, "-m", "deploy", *where, *arguments], timeout=timeout, code=code
        )

    def on_host(self, host: str, *command: str, timeout: float = 60, code: int | None = 0) -> str:
        return self.hardway("exec", host, "--", *command, timeout=timeout, code=code)

    def kubectl(
        self, *arguments: str, stdin: str | None = None, timeout: float = 120, code: int | None = 0
    ) -> str:
        """What it says, warnings of the server included; not what it logs about itself, such as the first
        message of an `exec` that came before it had made the stream (of a real server, too).
        """
        argv = ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        return LOG_LINE.sub("", run(argv, stdin=stdin, timeout=timeout, code=code))

    def get(self, *arguments: str) -> Object:
        argv = ["kubectl", "--kubeconfig", str(self.kubeconfig), "get", *arguments, "-o", "json"]
        found: Object = json.loads(run(argv, warnings=False))
        return found

    def etcdctl(self, host: str, *arguments: str, code: int | None = 0, timeout: float = 60) -> str:
        tls = ["--cacert=/etc/etcd/ca.pem", "--cert=/etc/etcd/peer.pem", "--key=/etc/etcd/peer-key.pem"]
        return self.on_host(
            host, "env", "ETCDCTL_API=3", "etcdctl", *tls, *arguments, code=code, timeout=timeout
        )


def run(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    timeout: float = 120,
    code: int | None = 0,
    warnings: bool = True,
) -> str:
    """Standard output (and, with `warnings`, standard error after it) of a command that must end with `code`
    (None: any).
    """
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    text = done.stdout + done.stderr
    if code is not None and done.returncode != code:
        raise CommandFailed(f"{' '.join(argv)}\nended with {done.returncode}, not {code}:\n{text}")
    return text if warnings else done.stdout


def eventually(what: str, probe: Callable[[], object], timeout: float = 60) -> None:
    """Wait until the probe is true; a failing assertion inside it counts as not yet."""
    deadline = time.monotonic() + timeout
    last = ""
    while time.monotonic() < deadline:
        try:
            if probe():
                return
        except (AssertionError, KeyError, IndexError, ValueError) as error:
            last = f"\nlast: {error}"
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {timeout:g} s{last}")
