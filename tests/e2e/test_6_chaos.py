"""`hardway chaos`: scenarios on a running cluster, faults by command, and a store that lies is found out."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import topology
from deploy.chaos import disks
from deploy.chaos.lab import Lab as ChaosLab
from deploy.control import Control
from deploy.state import State
from tests.e2e.lab import Lab, eventually, run

CONTROLLERS = [f"controller-{number}" for number in range(3)]
STALE = """\
name: stale
title: The leader is cut off from the other members, not from clients
length: 8s
faults:
  - {at: 1s, fault: partition, target: leader, for: 7s, with: {from: controllers}}
"""


def control(lab: Lab, host: str) -> Control:
    return Control(host, State("e2e", lab.state).socket(host))


def test_scenarios_lose_nothing(lab: Lab, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    text = lab.hardway("chaos", "run", "members-killed", "power-loss", "--report", str(report), timeout=600)
    print(text)
    assert "0 violations in 2 scenarios" in text
    page = report.read_text()
    assert "0 violations: everything held" in page
    assert page.count("<svg") == 2


def test_power_loss_and_up(lab: Lab) -> None:
    """kill -9 of every host at once, then `up`: objects are back, and pods run again."""
    lab.kubectl("create", "configmap", "survivor", "--from-literal=a=b")
    lab.kubectl("create", "deployment", "again", "--image=busybox:1.35", "--", "sleep", "3600")
    lab.kubectl("rollout", "status", "deployment/again", "--timeout=90s")
    names = [*CONTROLLERS, *(f"worker-{n}" for n in range(3)), "balancer"]
    run(["kill", "-9", *(str(control(lab, name).pid()) for name in names)])
    print(lab.hardway("up", timeout=300))
    assert lab.get("configmap", "survivor")["data"] == {"a": "b"}

    def runs() -> bool:
        pod = lab.get("pods", "-l", "app=again")["items"][0]["metadata"]["name"]
        return lab.kubectl("exec", pod, "--", "echo", "alive").strip() == "alive"

    eventually("the deployment's pod answers again", runs, 120)
    lab.kubectl("delete", "deployment/again", "configmap/survivor")


def test_a_store_that_serves_stale_reads_is_found_out(lab: Lab, tmp_path: Path) -> None:
    """All members are replaced by ones that answer reads without asking the others."""
    file = tmp_path / "stale.yaml"
    file.write_text(STALE)
    liar = f'shift 3; exec {shlex.quote(sys.executable)} -m tests.robustness.broken stale-reads "$@"'
    try:
        restart_store(lab, wrap=["sh", "-c", liar, "sh"])
        text = lab.hardway(
            "chaos", "run", str(file), "--report", str(tmp_path / "r.html"), timeout=600, code=1
        )
        print(text)
        assert "VIOLATED  linearizable" in text
        assert "replay: hardway chaos run stale --seed 1" in text
    finally:
        restart_store(lab)


def restart_store(lab: Lab, **changes: object) -> None:
    for host in CONTROLLERS:
        lab.hardway("stop", host, "etcdlite", "--signal", "KILL")
    for host in CONTROLLERS:
        control(lab, host).call("start", unit="etcdlite", **changes)
    eventually("the store serves again", lambda: lab.get("namespaces")["items"], 120)


def unit(lab: Lab, host: str, name: str) -> dict[str, object]:
    found: dict[str, object] = control(lab, host).call("status")["units"][name]
    return found


def test_a_fault_is_undone_by_itself_and_by_command(lab: Lab) -> None:
    lab.hardway("chaos", "kill", "worker-0/kubeproxy", "--detach", "--for", "3s")
    assert unit(lab, "worker-0", "kubeproxy")["state"] != "running"
    eventually("the keeper starts it again", lambda: unit(lab, "worker-0", "kubeproxy")["state"] == "running")
    assert lab.hardway("chaos", "active") == ""

    lab.hardway("chaos", "partition", "worker-0", "--detach")
    assert "chaos_" in lab.on_host("worker-0", "nft", "list", "tables")
    assert "partition worker-0" in lab.hardway("chaos", "active")
    assert "undone: partition worker-0" in lab.hardway("chaos", "undo")
    assert "chaos_" not in lab.on_host("worker-0", "nft", "list", "tables")


def serves(lab: Lab, host: str) -> bool:
    """Is this host's member healthy by its own account?"""
    return '"true"' in lab.on_host(host, "curl", "-s", "http://127.0.0.1:2381/health", code=None)


def test_disks(lab: Lab) -> None:
    """Full, slow and corrupt, each seen from inside the host; and then as before."""
    host = "controller-1"
    chaos = ChaosLab(topology.load(lab.topology), State("e2e", lab.state), lab.topology)
    lab.hardway("chaos", "disk-full", host, "--detach")
    write = ["sh", "-c", "head -c 100000 /dev/zero > /var/lib/etcd/probe"]
    assert "No space left on device" in lab.on_host(host, *write, code=1)
    lab.hardway("chaos", "undo")
    assert not disks.is_small(chaos, host)

    lab.hardway("chaos", "disk-slow", host, "--ms", "50", "--detach")
    assert disks.is_watched(chaos, host)
    assert "0.05" in lab.on_host(host, "cat", disks.RULE)
    eventually("a member on a slow disk serves", lambda: serves(lab, host), 120)
    lab.hardway("chaos", "undo")
    assert not disks.is_watched(chaos, host)

    lab.hardway("chaos", "corrupt-wal", host, "--detach")
    eventually("the member refuses", lambda: "damaged at offset" in lab.hardway("logs", host, "etcdlite"))
    lab.hardway("chaos", "undo")
    eventually("the member serves again", lambda: serves(lab, host), 120)


def test_a_wrong_clock_is_the_units_alone(lab: Lab) -> None:
    lab.hardway("chaos", "clock", "controller-1/scheduler", "--seconds", "86400", "--detach")
    number = unit(lab, "controller-1", "scheduler")["pid"]
    assert "FAKETIME=+86400" in lab.on_host("controller-1", "cat", f"/proc/{number}/environ")
    lab.hardway("chaos", "undo")
    number = unit(lab, "controller-1", "scheduler")["pid"]
    assert "FAKETIME" not in lab.on_host("controller-1", "cat", f"/proc/{number}/environ")


def test_a_worthless_certificate_is_refused_and_replaced(lab: Lab) -> None:
    ask = ["curl", "-sS", "--cacert", "/etc/kubernetes/pki/ca.pem", "https://controller-2:6443/livez"]
    lab.hardway("chaos", "certificate", "controller-2/apiserver", "--flaw", "expired", "--detach")
    eventually("it is refused", lambda: "expired" in lab.on_host("controller-2", *ask, code=60))
    lab.hardway("chaos", "undo")
    eventually("it is trusted", lambda: "ok" in lab.on_host("controller-2", *ask, code=None))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["kill", "worker-9/kubelet"], "'worker-9' is neither a host"),
        (["delay", "controller-0/etcdlite"], "delay: strikes a whole host"),
        (["clock", "worker-0/containerd"], "not one of Hardway's own daemons"),
        (["certificate", "worker-0/kubeproxy"], "kubeproxy has no serving certificate"),
        (["undo", "nonsense"], "no fault 'nonsense' is in force"),
        (["run", "sunshine"], "no scenario is called 'sunshine'"),
        (["disk-slow", "controller-0", "--ms", "slow"], "ms: 'slow' is not a number"),
    ],
)
def test_bad_input_is_refused_by_name(lab: Lab, arguments: list[str], words: str) -> None:
    assert words in lab.hardway("chaos", *arguments, code=1)


def test_a_fault_ends_with_its_command(lab: Lab) -> None:
    """Ctrl-C, and worse: the command is killed, and the keeper undoes what it did."""
    where = ["--topology", str(lab.topology), "--state", str(lab.state)]
    argv = [sys.executable, "-m", "deploy", *where, "chaos", "pause", "worker-1/kubeproxy"]
    for number in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert "in force until you press Ctrl-C" in process.stdout.readline()
        process.send_signal(number)
        process.communicate(timeout=60)
        eventually("it is undone", lambda: lab.hardway("chaos", "active") == "")
