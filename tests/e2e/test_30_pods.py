"""What a kubelet does with pods, each thing once, as kubectl shows it (manifests/pods.yaml)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import Lab, Object, eventually

NAMESPACE = "e2e-pods"
MANIFEST = Path(__file__).parent / "manifests" / "pods.yaml"


class Pods:
    """The namespace with all of them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def kubectl(self, *arguments: str, **options: Any) -> str:
        return self.lab.kubectl("-n", NAMESPACE, *arguments, **options)

    def status(self, name: str) -> Object:
        found: Object = json.loads(self.kubectl("get", "pod", name, "-o", "json"))["status"]
        return found

    def container(self, name: str) -> Object:
        found: Object = self.status(name)["containerStatuses"][0]
        return found

    def condition(self, name: str, kind: str) -> str:
        conditions = self.status(name).get("conditions", [])
        return next((each["status"] for each in conditions if each["type"] == kind), "")

    def until_ready(self, name: str) -> None:
        eventually(f"{name} ready", lambda: self.condition(name, "Ready") == "True", 120)

    def run(self, name: str, command: str) -> str:
        return self.kubectl("exec", name, "-c", "main", "--", "sh", "-c", command).strip()

    def reasons(self, name: str) -> set[str]:
        """The reasons of the pod's events."""
        selector = f"involvedObject.name={name}"
        listed = self.kubectl("get", "events", "--field-selector", selector, "-o", "json")
        return {event["reason"] for event in json.loads(listed)["items"]}


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[Pods]:
    lab.kubectl("create", "namespace", NAMESPACE)
    made = Pods(lab)

    def account() -> bool:
        return "default" in made.kubectl("get", "serviceaccounts", "-o", "name")

    eventually("service account", account)
    made.kubectl("apply", "-f", str(MANIFEST))
    yield made
    lab.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")
    lab.kubectl("delete", "pv/e2e-hostpath", "runtimeclass/crun", "--timeout=60s")


def test_init_containers_sidecars_and_hooks_run_in_their_order(pods: Pods) -> None:
    pods.until_ready("phases")
    assert pods.run("phases", "cat /notes/order").split() == ["first", "sidecar", "last", "main"]
    assert pods.run("phases", "cat /notes/hook") == "started"
    states = {each["name"]: each["state"] for each in pods.status("phases")["initContainerStatuses"]}
    assert states["first"]["terminated"]["reason"] == states["last"]["terminated"]["reason"] == "Completed"
    assert "running" in states["sidecar"]


def test_a_lost_probe_restarts_its_container(pods: Pods) -> None:
    pods.until_ready("probed")
    pods.kubectl("exec", "probed", "--", "rm", "/w/health")
    eventually("a restart", lambda: pods.container("probed")["restartCount"] >= 1, 90)
    eventually("events", lambda: {"Unhealthy", "Killing"} <= pods.reasons("probed"))
    pods.until_ready("probed")


def test_crashes_back_off_and_leave_their_message(pods: Pods) -> None:
    def backing_off() -> bool:
        return bool(pods.container("crashes")["state"]["waiting"]["reason"] == "CrashLoopBackOff")

    eventually("CrashLoopBackOff", backing_off, 90)
    ended = pods.container("crashes")["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "gave up\n")
    assert pods.kubectl("logs", "crashes", "--previous") == "life\n"
    eventually("event", lambda: "BackOff" in pods.reasons("crashes"))


def test_ends_are_named_as_kubernetes_names_them(pods: Pods) -> None:
    def ended(name: str) -> Any:
        state = pods.container(name)["state"].get("terminated")
        return state and (state["reason"], state["exitCode"], pods.status(name)["phase"])

    eventually("OOMKilled", lambda: ended("greedy") == ("OOMKilled", 137, "Failed"))
    eventually("StartError", lambda: ended("badcommand") == ("StartError", 128, "Failed"))
    eventually("deadline", lambda: pods.status("late").get("reason") == "DeadlineExceeded")
    assert pods.status("late")["phase"] == "Failed"


def test_what_is_missing_is_waited_for_by_name(pods: Pods) -> None:
    def waiting(name: str) -> Object:
        found: Object = pods.container(name)["state"]["waiting"]
        return found

    eventually("image", lambda: waiting("imageless")["reason"] in ("ErrImagePull", "ImagePullBackOff"))
    eventually("event", lambda: "Failed" in pods.reasons("imageless"))
    eventually("configMap", lambda: waiting("unconfigured")["reason"] == "CreateContainerConfigError")
    assert 'configmap "comes-later" not found' in waiting("unconfigured")["message"]
    pods.kubectl("create", "configmap", "comes-later", "--from-literal=found=yes")
    pods.until_ready("unconfigured")
    assert pods.run("unconfigured", "echo $found") == "yes"


def test_crun_confines_a_pod_as_its_security_context_says(pods: Pods) -> None:
    pods.until_ready("confined")
    assert pods.run("confined", "id -u; id -g; id -G").split() == ["1000", "3000", "3000", "2000", "4000"]
    status = pods.run("confined", "cat /proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["CapBnd"], 16) == 1 << 10, "NET_BIND_SERVICE alone"
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert pods.run("confined", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == "80"
    assert "Read-only file system" in pods.run("confined", "touch /etc/x 2>&1 || true")
    ident = pods.container("confined")["containerID"].removeprefix("containerd://")
    asked = ("ctr", "-n", "k8s.io", "containers", "info", ident)
    options = json.loads(pods.lab.on_host(node_of(pods, "confined"), *asked))["Runtime"]["Options"]
    assert b"crun" in base64.b64decode(options["value"])


def node_of(pods: Pods, name: str) -> str:
    return pods.kubectl("get", "pod", name, "-o", "jsonpath={.spec.nodeName}").strip()


def test_volumes_and_environment(pods: Pods) -> None:
    pods.until_ready("confined")
    assert pods.run("confined", "stat -c '%g %a' /scratch").split()[0] == "2000"
    assert pods.run("confined", "touch /scratch/x && stat -c %g /scratch/x") == "2000"
    assert "tmpfs" in pods.run("confined", "grep ' /memory ' /proc/mounts")
    assert pods.run("confined", "cat /one/colour /settings/shape /hidden/word /about/name").split() == (
        ["blueroundsesameconfined"]
    )
    node_address = pods.status("confined")["hostIP"]
    assert pods.run("confined", "echo $COLOUR $NODE_ADDRESS $CPU_LIMIT") == f"blue {node_address} 200"


def test_names_that_the_pod_asked_for(pods: Pods) -> None:
    pods.until_ready("confined")
    assert pods.run("confined", "hostname") == "named"
    assert "192.0.2.7\tseven.example" in pods.run("confined", "cat /etc/hosts")
    resolver = pods.run("confined", "cat /etc/resolv.conf").splitlines()
    assert resolver == ["search example.org", "nameserver 10.32.0.10", "options ndots:3"]


def test_a_projected_token_is_of_its_audience_and_a_configmap_is_renewed(pods: Pods) -> None:
    pods.until_ready("confined")
    payload = pods.run("confined", "cat /about/token").split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["aud"] == ["e2e"] and claims["kubernetes.io"]["pod"]["name"] == "confined"
    assert 550 <= claims["exp"] - claims["iat"] <= 650
    pods.kubectl("patch", "configmap", "settings", "-p", '{"data":{"shape":"square"}}')
    eventually("renewed", lambda: pods.run("confined", "cat /settings/shape") == "square", 90)


def test_a_claim_holds_what_was_written_and_the_hosts_processes_are_seen(pods: Pods) -> None:
    pods.until_ready("hostly")
    # A process that ends between the shell's look and cat's makes cat fail: others' ends are not judged here.
    assert "kubelet" in pods.run("hostly", "cat /proc/[0-9]*/comm 2>/dev/null || true").split()
    assert pods.status("hostly")["podIP"] == "10.240.0.21"
    pods.run("hostly", "echo kept > /kept/word")
    assert pods.lab.on_host("worker-1", "cat", "/var/lib/e2e-volume/word").strip() == "kept"


def test_a_pod_is_resized_in_place(pods: Pods) -> None:
    pods.until_ready("sized")
    before = pods.container("sized")
    cpu = {"requests": {"cpu": "50m"}, "limits": {"cpu": "150m"}}
    patch = {"spec": {"containers": [{"name": "main", "resources": cpu}]}}
    pods.kubectl("patch", "pod", "sized", "--subresource=resize", "-p", json.dumps(patch))

    def resized() -> bool:
        held = pods.container("sized").get("resources", {})
        return bool(held.get("limits", {}).get("cpu") == "150m")

    eventually("resized", resized, 90)
    after = pods.container("sized")
    assert (after["containerID"], after["restartCount"]) == (before["containerID"], 0)
    quota = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max"
    assert pods.run("sized", quota) == "15000"


def test_a_pod_that_goes_stops_in_good_order(pods: Pods) -> None:
    pods.kubectl("delete", "pod", "phases", "--timeout=60s")
    eventually("killing", lambda: "Killing" in pods.reasons("phases"))
