"""etcdctl, unmodified, against the members of the running cluster."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.e2e.lab import Lab

ENDPOINTS = "https://10.240.0.10:2379,https://10.240.0.11:2379,https://10.240.0.12:2379"


def test_status_of_all_members(lab: Lab) -> None:
    found = json.loads(
        lab.etcdctl("controller-1", "--endpoints", ENDPOINTS, "endpoint", "status", "-w", "json")
    )
    leaders = {each["Status"]["leader"] for each in found}
    members = {each["Status"]["header"]["member_id"] for each in found}
    assert len(found) == len(members) == 3
    assert len(leaders) == 1
    assert leaders <= members


def test_keys_of_the_cluster(lab: Lab) -> None:
    keys = lab.etcdctl("controller-2", "get", "/registry/minions/", "--prefix", "--keys-only").split()
    assert keys == [f"/registry/minions/worker-{number}" for number in range(3)]


def test_put_get_txn_and_compaction(lab: Lab) -> None:
    assert lab.etcdctl("controller-0", "put", "/e2e/a", "1").strip() == "OK"
    assert lab.etcdctl("controller-1", "get", "/e2e/a").split() == ["/e2e/a", "1"]
    assert lab.etcdctl("controller-1", "del", "/e2e/", "--prefix").strip() == "1"


def test_watch_sees_writes_made_elsewhere(lab: Lab) -> None:
    now = json.loads(lab.etcdctl("controller-0", "get", "/e2e/w", "-w", "json"))["header"]["revision"]
    where = ["--topology", str(lab.topology), "--state", str(lab.state)]
    tls = ["--cacert=/etc/etcd/ca.pem", "--cert=/etc/etcd/peer.pem", "--key=/etc/etcd/peer-key.pem"]
    inside = ["timeout", "30", "env", "ETCDCTL_API=3", "etcdctl", *tls, "watch", "/e2e/w", f"--rev={now + 1}"]
    argv = [sys.executable, "-m", "deploy", *where, "exec", "controller-0", "--", *inside]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        lab.etcdctl("controller-2", "put", "/e2e/w", "seen")
        assert [watcher.stdout.readline().strip() for _ in range(3)] == ["PUT", "/e2e/w", "seen"]
        watcher.terminate()


def test_snapshot(lab: Lab) -> None:
    lab.etcdctl("controller-0", "snapshot", "save", "/var/lib/e2e.snapshot")
    assert lab.on_host("controller-0", "rm", "-v", "/var/lib/e2e.snapshot")


def test_no_certificate_no_answer(lab: Lab) -> None:
    lab.on_host(
        "controller-0", "env", "ETCDCTL_API=3", "etcdctl", "--cacert=/etc/etcd/ca.pem",
        "--dial-timeout=2s", "--command-timeout=3s", "get", "/registry/secrets", "--prefix", code=1,
    )  # fmt: skip
