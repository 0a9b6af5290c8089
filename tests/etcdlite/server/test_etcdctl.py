"""The distribution's etcdctl is a client like any other: each command, on etcdlite and on the real etcd."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(shutil.which("etcdctl") is None, reason="etcdctl is not installed")


class Ctl:
    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, *words: str, stdin: str = "") -> str:
        """Run a command; its output. Fails when the command does."""
        environment = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": self._url}
        done = subprocess.run(
            ["etcdctl", *words], input=stdin, capture_output=True, text=True, timeout=30, env=environment
        )
        assert done.returncode == 0, f"etcdctl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "-w", "json"))


@pytest.fixture
def ctl(store: str) -> Ctl:
    return Ctl(store)


def test_put_get_delete(ctl: Ctl) -> None:
    assert ctl("put", "/ctl/a", "1") == "OK\n"
    assert ctl("put", "/ctl/b", "2") == "OK\n"
    assert ctl("get", "/ctl/", "--prefix") == "/ctl/a\n1\n/ctl/b\n2\n"
    assert ctl("get", "/ctl/", "--prefix", "--keys-only", "--order=DESCEND") == "/ctl/b\n\n/ctl/a\n\n"
    assert (
        ctl("get", "/ctl/", "--prefix", "--sort-by=MODIFY", "--order=DESCEND", "--limit=1") == "/ctl/b\n2\n"
    )
    assert ctl("get", "--from-key", "/ctl/b", "--print-value-only", "--limit=1") == "2\n"
    assert ctl("put", "--prev-kv", "/ctl/a", "3") == "OK\n/ctl/a\n1\n"
    assert ctl("del", "/ctl/", "--prefix", "--prev-kv") == "2\n/ctl/a\n3\n/ctl/b\n2\n"


def test_txn(ctl: Ctl) -> None:
    ctl("put", "/txn", "x")
    script = 'value("/txn") = "x"\n\nput /txn y\nget /txn\n\nput /txn z\n\n'
    assert ctl("txn", stdin=script).split() == ["SUCCESS", "OK", "/txn", "y"]
    assert ctl("txn", stdin=script).split() == ["FAILURE", "OK"]


def test_watch(store: str, ctl: Ctl) -> None:
    revision = ctl.json("get", "/watch")["header"]["revision"]
    for number in range(3):
        ctl("put", "/watch", str(number))
    ctl("del", "/watch")
    environment = {**os.environ, "ETCDCTL_API": "3"}
    command = ["etcdctl", "--endpoints", store, "watch", "/watch", f"--rev={revision + 1}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as watch:
        assert watch.stdout is not None
        lines = [watch.stdout.readline().strip() for _ in range(12)]
        watch.kill()
    assert lines == [word for n in "012" for word in ("PUT", "/watch", n)] + ["DELETE", "/watch", ""]


def test_lease(ctl: Ctl) -> None:
    lease = ctl("lease", "grant", "100").split()[1]
    ctl("put", f"--lease={lease}", "/lease", "x")
    assert "attached keys([/lease])" in ctl("lease", "timetolive", lease, "--keys")
    assert "TTL(100)" in ctl("lease", "keep-alive", "--once", lease)
    assert lease in ctl("lease", "list")
    assert ctl("lease", "revoke", lease) == f"lease {lease} revoked\n"
    assert ctl("get", "/lease") == ""


def test_compaction(ctl: Ctl) -> None:
    ctl("put", "/compact", "1")
    revision = ctl.json("put", "/compact", "2")["header"]["revision"]
    assert ctl("compaction", "--physical", str(revision)) == f"compacted revision {revision}\n"
    with pytest.raises(AssertionError, match="required revision has been compacted"):
        ctl("get", "/compact", f"--rev={revision - 1}")


def test_endpoints_and_members(ctl: Ctl) -> None:
    [status] = ctl.json("endpoint", "status")
    assert status["Status"]["leader"] == status["Status"]["header"]["member_id"]
    assert status["Status"]["dbSize"] > 0
    [health] = ctl.json("endpoint", "health")
    assert health["health"] is True
    [member] = ctl.json("member", "list")["members"]
    assert member["name"] == "m0"
    assert isinstance(ctl.json("endpoint", "hashkv")[0]["HashKV"]["hash"], int)
    assert ctl("alarm", "list") == ""
    assert "Finished defragmenting" in ctl("defrag")


def test_snapshot(ctl: Ctl, tmp_path: Path) -> None:
    ctl("put", "/snapshot", "x" * 1000)
    target = tmp_path / "backup.db"
    ctl("snapshot", "save", str(target))
    assert target.stat().st_size % 512 == 32  # sectors, and the SHA-256 that newer versions look for
