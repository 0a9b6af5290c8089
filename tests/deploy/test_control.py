"""The command line into a host, against a supervisor that is slow to accept."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from deploy import control
from deploy.control import Control, HostDown


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "host.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(str(path))  # the queue is full now
            accepting = threading.Timer(0.05, lambda: listener.accept()[0].close())
            accepting.start()
            assert Control("host", path).is_up()
            accepting.join()


def test_a_queue_that_stays_full_is_a_host_that_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "TIMEOUT", 0.05)
    path = tmp_path / "host.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(str(path))
            with pytest.raises(HostDown, match="does not accept commands"):
                Control("host", path).pid()
