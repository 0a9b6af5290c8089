"""The distribution's `etcd grpc-proxy` in front of a member: it joins watches of one key into one, answers
progress itself and keeps leases alive for its clients, so it asks in ways that etcdctl does not.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.etcdlite.server.test_etcdctl import Ctl
from tests.ports import free_port

pytestmark = pytest.mark.skipif(
    shutil.which("etcd") is None or shutil.which("etcdctl") is None, reason="etcd is not installed"
)


@pytest.fixture
def proxy(store: str, tmp_path: Path) -> Iterator[str]:
    """The proxy's URL."""
    port = free_port()
    endpoints = store.removeprefix("http://")
    command = ["etcd", "grpc-proxy", "start", f"--endpoints={endpoints}", f"--listen-addr=127.0.0.1:{port}"]
    with (tmp_path / "proxy.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        _await_port(port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _await_port(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the proxy does not listen")


def _watch(url: str, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": url}
    return subprocess.Popen(["etcdctl", "watch", *words], stdout=subprocess.PIPE, text=True, env=environment)


def _lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


@pytest.mark.timeout(120)
def test_reads_writes_transactions_and_leases(proxy: str) -> None:
    ctl = Ctl(proxy)
    assert ctl("put", "/proxy/a", "1") == "OK\n"
    assert ctl("get", "/proxy/", "--prefix") == "/proxy/a\n1\n"
    script = 'value("/proxy/a") = "1"\n\nput /proxy/a 2\n\nget /proxy/a\n\n'
    assert ctl("txn", stdin=script).split() == ["SUCCESS", "OK"]
    assert ctl("get", "/proxy/a", "--print-value-only") == "2\n"  # not what the proxy had kept
    lease = ctl("lease", "grant", "60").split()[1]
    ctl("put", "/proxy/leased", "x", f"--lease={lease}")
    assert "attached keys([/proxy/leased])" in ctl("lease", "timetolive", lease, "--keys")
    assert "keepalived" in ctl("lease", "keep-alive", "--once", lease)
    ctl("lease", "revoke", lease)
    assert ctl("get", "/proxy/leased") == ""
    assert ctl("lock", "/proxy/lock", "echo", "locked") == "locked\n"
    assert ctl("del", "/proxy/", "--prefix").strip() == "1"


@pytest.mark.timeout(120)
def test_joined_watches_tell_each_watcher_what_it_asked_for(proxy: str) -> None:
    ctl = Ctl(proxy)
    revision = ctl.json("put", "/joined", "1")["header"]["revision"]
    watches = [_watch(proxy, "/joined", f"--rev={revision}") for _ in range(2)]
    try:
        for watch in watches:
            assert _lines(watch, 3) == ["PUT", "/joined", "1"]
        ctl("put", "/joined", "2")
        late = _watch(proxy, "--prefix", "/joined", f"--rev={revision + 1}")
        watches.append(late)
        for watch in watches:
            assert _lines(watch, 3) == ["PUT", "/joined", "2"]
        ctl("del", "/joined")
        for watch in watches:
            assert _lines(watch, 2) == ["DELETE", "/joined"]
    finally:
        for watch in watches:
            watch.kill()
            watch.communicate()
