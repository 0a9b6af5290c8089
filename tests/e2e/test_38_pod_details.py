"""What a kubelet does with pods, the details (manifests/details.yaml): all are applied at once and judged one
after the other. Beside that what its server tells, to whom, and that its death harms no container.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e import registry
from tests.e2e.lab import Lab, Object, eventually
from tests.e2e.manifests import manifest
from tests.e2e.space import Space, space

NODE, ADDRESS = "worker-1", "10.240.0.21"
MANIFEST = Path(__file__).parent / "manifests" / "details.yaml"
SERVER = f"https://{ADDRESS}:10250"
IMAGE = "jsonpath={.spec.template.spec.containers[0].image}"


@pytest.fixture(scope="module")
def here(lab: Lab) -> Iterator[Space]:
    with space(lab, "e2e-details") as made:
        code = Path(registry.__file__).read_text()
        made.apply(manifest("v1", "ConfigMap", "registry", data={"registry.py": code}))
        python = lab.kubectl("-n", "kube-system", "get", "deployment", "clusterdns", "-o", IMAGE)
        made.apply(MANIFEST.read_text().replace("NODE", NODE).replace("PYTHON", python.strip()))
        yield made
        lab.on_host(NODE, "rm", "-rf", "/var/lib/e2e-farewell", "/var/lib/e2e-comes-later")


def status(here: Space, name: str) -> Object:
    found: Object = here.get("pod", name)["status"]
    return found


def container(here: Space, name: str, number: int = 0) -> Object:
    found: Object = status(here, name)["containerStatuses"][number]
    return found


def condition(here: Space, name: str, kind: str) -> Object:
    return next((each for each in status(here, name).get("conditions", []) if each["type"] == kind), {})


def run(here: Space, name: str, command: str, where: str = "main") -> str:
    return here.kubectl("exec", name, "-c", where, "--", "sh", "-c", command).strip()


def failed(here: Space, name: str, reason: str) -> str:
    """The message of a pod that failed for that reason."""
    eventually(f"{name}: {reason}", lambda: status(here, name).get("reason") == reason, 120)
    assert status(here, name)["phase"] == "Failed"
    return str(status(here, name)["message"])


def waits(here: Space, name: str, reason: str) -> str:
    """The message of a container that waits for that reason."""

    def held() -> Object:
        found: Object = container(here, name)["state"]["waiting"]
        return found

    eventually(f"{name}: {reason}", lambda: held()["reason"] == reason, 90)
    return str(held().get("message") or "")


def event(here: Space, name: str, reason: str) -> str:
    """The message of the event of that reason about a pod, once there is one."""
    found: list[str] = []

    def there() -> bool:
        events = here.items("events", f"--field-selector=involvedObject.name={name},reason={reason}")
        found[:] = [str(each["message"]) for each in events]
        return bool(found)

    eventually(f"{name}: event {reason}", there, 90)
    return found[0]


def test_a_gate_keeps_a_pod_from_being_ready(here: Space) -> None:
    eventually("containers", lambda: condition(here, "gated", "ContainersReady").get("status") == "True", 120)
    ready = condition(here, "gated", "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ReadinessGatesNotReady")
    lit = {"status": {"conditions": [{"type": "example.test/lit", "status": "True"}]}}
    here.kubectl("patch", "pod", "gated", "--subresource=status", "-p", json.dumps(lit))
    here.wait("condition=Ready", "pod/gated")


def test_labels_paths_and_what_is_optional(here: Space) -> None:
    here.wait("condition=ContainersReady", "pod/gated")
    assert run(here, "gated", "cat /about/labels") == 'colour="blue"'
    here.kubectl("label", "pod", "gated", "--overwrite", "colour=red")
    eventually("renewed", lambda: run(here, "gated", "cat /about/labels") == 'colour="red"', 90)
    assert run(here, "gated", "touch /mine/x; ls /all/of-gated; ls /perhaps | wc -l").split() == ["x", "0"]
    assert "Read-only file system" in run(here, "gated", "touch /all/y 2>&1 || true")


def test_classes_of_service(here: Space) -> None:
    here.wait("condition=ContainersReady", "pod/gated", "pod/equal", "pod/hostdns")
    found = {
        name: (status(here, name)["qosClass"], run(here, name, "cat /proc/self/oom_score_adj"))
        for name in ("equal", "hostdns")
    }
    assert found["hostdns"] == ("BestEffort", "1000")
    # Nobody may be given a better score than the runtime has where privileges are limited.
    assert found["equal"] in (("Guaranteed", "-997"), ("Guaranteed", "0"))
    assert status(here, "gated")["qosClass"] == "Burstable"
    assert 2 <= int(run(here, "gated", "cat /proc/self/oom_score_adj")) <= 999


def test_processes_are_shared_and_names_are_looked_up_where_the_policy_says(here: Space) -> None:
    here.wait("condition=Ready", "pod/equal", "pod/hostdns")
    assert "sleep 3602" in run(here, "equal", "ps")
    resolvers = {
        name: run(here, name, "grep nameserver /etc/resolv.conf").split()[1:] for name in ("gated", "hostdns")
    }
    assert resolvers == {"gated": ["10.32.0.10"], "hostdns": ["10.32.0.10"]}
    searched = run(here, "hostdns", "grep search /etc/resolv.conf").split()[1:]
    assert searched[:3] == ["e2e-details.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    assert "10.32.0.10" not in run(here, "equal", "cat /etc/resolv.conf")


def test_a_pod_that_goes_runs_its_hook_and_is_then_told_to_end(here: Space) -> None:
    here.wait("condition=Ready", "pod/farewell")
    here.kubectl("delete", "pod", "farewell", "--timeout=60s")
    assert here.lab.on_host(NODE, "cat", "/var/lib/e2e-farewell/order").split() == ["hook", "term"]


def test_only_failures_are_tried_again(here: Space) -> None:
    eventually("it succeeded", lambda: status(here, "second-try").get("phase") == "Succeeded", 120)
    assert container(here, "second-try")["restartCount"] == 1


def test_last_messages(here: Space) -> None:
    eventually("ended", lambda: status(here, "messages").get("phase") == "Failed", 120)
    ended = [container(here, "messages", number)["state"]["terminated"] for number in (0, 1)]
    assert [(each["exitCode"], each["message"].strip()) for each in ended] == (
        [(2, "custom"), (3, "last words")]
    )


def test_what_a_node_refuses(here: Space) -> None:
    assert 'forbidden sysctl: "kernel.msgmax" not allowlisted' in failed(here, "unsafe", "SysctlForbidden")
    assert "Node didn't have enough resource: cpu" in failed(here, "huge", "OutOfcpu")
    assert "will run as root" in waits(here, "as-root", "CreateContainerConfigError")
    assert "pull policy of Never" in waits(here, "never-pulled", "ErrImageNeverPull")
    assert event(here, "never-pulled", "ErrImageNeverPull")


def test_who_writes_more_than_was_agreed_must_go(here: Space) -> None:
    said = failed(here, "full-volume", "Evicted")
    assert said == 'Usage of EmptyDir volume "small" exceeds the limit "1Mi". '
    said = failed(here, "full-layer", "Evicted")
    assert said == 'Container main exceeded its local ephemeral storage limit "2Mi". '
    assert event(here, "full-layer", "Evicted") == said


def test_volumes_that_come_later(here: Space) -> None:
    said = event(here, "pathless", "FailedMount")
    assert 'MountVolume.SetUp failed for volume "path" : hostPath type check failed' in said
    assert 'secret "comes-later" not found' in event(here, "secretless", "FailedMount")
    assert waits(here, "secretless", "ContainerCreating") == ""
    here.lab.on_host(NODE, "mkdir", "-p", "/var/lib/e2e-comes-later")
    here.kubectl("create", "secret", "generic", "comes-later", "--from-literal=word=sesame")
    here.wait("condition=Ready", "pod/pathless", "pod/secretless")
    assert run(here, "secretless", "cat /hidden/deep/word; stat -Lc '%g %a' /hidden/deep/word").split() == (
        ["sesame2000", "440"]
    )


def test_an_image_is_pulled_with_a_secret(here: Space) -> None:
    here.wait("condition=Ready", "pod/registry")
    # Before the registry was up it was refused otherwise.
    eventually("refused", lambda: "401" in waits(here, "private", "ImagePullBackOff"), 90)
    assert 'Back-off pulling image "127.0.0.1:5055/private:1"' in waits(here, "private", "ImagePullBackOff")
    assert event(here, "private", "BackOff") and event(here, "private", "Failed")
    auth = {"auths": {"127.0.0.1:5055": {"username": registry.USER, "password": registry.PASSWORD}}}
    kind = {"type": "kubernetes.io/dockerconfigjson"}
    data = {".dockerconfigjson": base64.b64encode(json.dumps(auth).encode()).decode()}
    here.apply(manifest("v1", "Secret", "registry", data=data, **kind))
    container = {"name": "main", "image": "127.0.0.1:5055/private:1"}
    spec = {"nodeName": NODE, "imagePullSecrets": [{"name": "registry"}], "containers": [container]}
    # A pod of its own: the other one's back-off is minutes by now.
    here.apply(manifest("v1", "Pod", "let-in", spec={**spec, "terminationGracePeriodSeconds": 0}))
    here.wait("condition=Ready", "pod/let-in")
    assert "Successfully pulled image" in event(here, "let-in", "Pulled")


def test_logs_by_time_and_size(here: Space) -> None:
    here.wait("condition=ContainersReady", "pod/gated")
    assert here.kubectl("logs", "gated") == "early\n"
    assert here.kubectl("logs", "gated", "--since-time=2099-01-01T00:00:00Z") == ""
    assert here.kubectl("logs", "gated", "--since=1h", "--limit-bytes=3") == "ear"


def test_the_kubelets_server_tells_what_it_knows(here: Space) -> None:
    here.wait("condition=ContainersReady", "pod/gated")
    node = f"/api/v1/nodes/{NODE}/proxy"

    def raw(path: str) -> str:
        return here.lab.kubectl("get", "--raw", f"{node}/{path}")

    assert raw("healthz") == "ok"
    names = {each["metadata"]["name"] for each in json.loads(raw("pods"))["items"]}
    assert {"gated", "equal"} <= names

    def measured() -> bool:
        pods = json.loads(raw("stats/summary"))["pods"]
        of_gated = [each for each in pods if each["podRef"]["name"] == "gated"]
        return bool(of_gated and of_gated[0]["containers"][0]["memory"]["workingSetBytes"] > 0)

    eventually("measured", measured, 60)
    assert 'container="main",namespace="e2e-details",pod="gated"' in raw("metrics/resource")
    assert "rest_client_requests_total" in raw("metrics")
    ran = here.lab.kubectl("create", "--raw", f"{node}/run/e2e-details/gated/main?cmd=hostname", "-f", "-")
    assert ran.strip() == "gated"


def test_the_kubelets_server_asks_who_you_are_and_whether_you_may(here: Space) -> None:
    ask = ["curl", "-sk", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}", f"{SERVER}/pods"]
    assert here.lab.on_host("worker-0", *ask) == "401"
    token = here.kubectl("create", "token", "default").strip()
    assert here.lab.on_host("worker-0", *ask, "-H", f"Authorization: Bearer {token}") == "403"


def test_a_node_is_told_to_be_alive_by_its_lease(here: Space) -> None:
    lease = here.lab.get("lease", NODE, "-n", "kube-node-lease")["spec"]
    age = datetime.now(UTC) - datetime.fromisoformat(lease["renewTime"])
    assert lease["holderIdentity"] == NODE and age.total_seconds() < lease["leaseDurationSeconds"]
    held = here.lab.get("node", NODE)["status"]
    assert held["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    assert held["capacity"]["pods"] == "110" and held["allocatable"]["memory"] < held["capacity"]["memory"]


def test_containers_outlive_their_kubelet(here: Space) -> None:
    here.wait("condition=ContainersReady", "pod/gated")
    before = container(here, "gated")
    here.lab.hardway("kill", NODE, "kubelet")
    ask = ("exec", "gated", "--", "hostname")
    eventually("it answers again", lambda: here.kubectl(*ask, code=None).strip() == "gated", 90)
    after = container(here, "gated")
    assert (after["containerID"], after["restartCount"]) == (before["containerID"], 0)
    assert here.reasons("gated") & {"Killing", "BackOff"} == set()


def test_hollow_nodes_join_and_run_pods(here: Space, tmp_path: Path) -> None:
    flags = ("--hollow", "--hollow-nodes=2", "--hollow-prefix=e2e-hollow-")
    argv = [sys.executable, "-m", "kubelet", *flags, f"--kubeconfig={here.lab.kubeconfig}"]
    nodes = ("node/e2e-hollow-0", "node/e2e-hollow-1")
    with (tmp_path / "log").open("w") as log:
        herd = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        eventually("they are there", lambda: "Ready" in here.lab.kubectl("get", *nodes, code=None), 60)
        here.lab.kubectl("wait", "--for=condition=Ready", *nodes, "--timeout=90s")
        spec = {"nodeName": "e2e-hollow-1", "containers": [{"name": "main", "image": "never.test/pulled"}]}
        here.apply(manifest("v1", "Pod", "hollow", spec=spec))
        here.wait("condition=Ready", "pod/hollow")
        here.kubectl("delete", "pod", "hollow", "--now", "--timeout=60s")
    finally:
        herd.terminate()
        herd.wait(60)
        here.lab.kubectl("delete", *nodes, "--ignore-not-found")
