"""What happens to a node: its runtime dies, its certificate is asked for, a manifest is put down, it goes and
comes back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml

from tests.e2e.lab import Lab, Object, eventually

NODE, CONFIG = "worker-2", "/etc/kubernetes/kubelet-config.yaml"
SCHEDULED = "/run/systemd/shutdown/scheduled"
HERE = ("--image=busybox:1.35", "--overrides", json.dumps({"spec": {"nodeName": NODE}}))
STATIC = """
apiVersion: v1
kind: Pod
metadata: {name: manifest, namespace: default}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "busybox:1.35", command: [sleep, "3600"]}]
"""


def ready(lab: Lab) -> Object:
    conditions = lab.get("node", NODE)["status"]["conditions"]
    found: Object = next(each for each in conditions if each["type"] == "Ready")
    return found


def until_ready(lab: Lab) -> None:
    eventually(f"{NODE} is ready", lambda: ready(lab)["status"] == "True", 120)


def put(lab: Lab, path: str, text: str) -> None:
    lab.on_host(NODE, "sh", "-c", f'mkdir -p "$(dirname {path})"; printf %s "$1" > {path}', "sh", text)


@pytest.fixture
def configured(lab: Lab) -> Iterator[Lab]:
    """A kubelet that asks for its serving certificate, keeps little of what containers say, and gives its
    pods time when the machine goes.
    """
    before = lab.on_host(NODE, "cat", CONFIG)
    fields = {"serverTLSBootstrap": True, "shutdownGracePeriod": "20s"}
    fields |= {"containerLogMaxSize": "16Ki", "containerLogMaxFiles": 2}
    put(lab, CONFIG, yaml.safe_dump({**yaml.safe_load(before), **fields}))
    lab.hardway("restart", NODE, "kubelet")
    yield lab
    lab.on_host(NODE, "rm", "-f", SCHEDULED)
    put(lab, CONFIG, before)
    lab.hardway("restart", NODE, "kubelet")
    until_ready(lab)


def test_a_manifest_becomes_a_pod_and_leaves_with_its_file(lab: Lab) -> None:
    path = "/etc/kubernetes/manifests/one.yaml"
    put(lab, path, STATIC)
    mirror = f"pod/manifest-{NODE}"

    def runs() -> bool:
        found = lab.kubectl("get", mirror, "-o", "jsonpath={.status.phase}", code=None)
        return found == "Running"

    eventually("the mirror runs", runs, 90)
    lab.on_host(NODE, "rm", path)
    eventually("gone", lambda: "NotFound" in lab.kubectl("get", mirror, code=None), 90)


def test_containers_outlive_their_runtime(lab: Lab) -> None:
    lab.kubectl("run", "survivor", *HERE, "--", "sh", "-c", "while :; do sleep 1; done")
    try:
        lab.kubectl("wait", "--for=condition=Ready", "pod/survivor", "--timeout=120s")
        lab.hardway("stop", NODE, "containerd")
        eventually("NotReady", lambda: "container runtime is down" in ready(lab)["message"], 120)
        assert (ready(lab)["status"], ready(lab)["reason"]) == ("False", "KubeletNotReady")
        lab.hardway("start", NODE, "containerd")
        until_ready(lab)
        status = lab.get("pod", "survivor")["status"]["containerStatuses"][0]
        assert status["restartCount"] == 0 and "running" in status["state"]
        assert lab.kubectl("exec", "survivor", "--", "echo", "here").strip() == "here"
    finally:
        lab.kubectl("delete", "pod", "survivor", "--now", "--timeout=90s")


def test_a_serving_certificate_is_approved_and_a_going_node_ends_its_pods(configured: Lab) -> None:
    lab = configured
    lab.kubectl("run", "guest", "--restart=Never", *HERE, "--", "sh", "-c", "echo up; exec sleep 3600")
    talk = "seq 9999; until test -e /tmp/go; do sleep 0.2; done; seq 10000 10002; exec sleep 3600"
    lab.kubectl("run", "talker", "--restart=Never", *HERE, "--", "sh", "-c", talk)

    def asked() -> list[Object]:
        listed = lab.get("certificatesigningrequests")["items"]
        return [each for each in listed if each["spec"]["signerName"] == "kubernetes.io/kubelet-serving"]

    eventually("a request", lambda: len(asked()) == 1, 90)
    assert asked()[0]["spec"]["username"] == f"system:node:{NODE}"
    lab.kubectl("certificate", "approve", asked()[0]["metadata"]["name"])
    lab.kubectl("wait", "--for=condition=Ready", "pod/guest", "--timeout=120s")
    eventually("served", lambda: lab.kubectl("logs", "guest", code=None) == "up\n", 120)
    files = ("sh", "-c", "cd /var/log/pods/default_talker_*/talker && ls | wc -l")
    eventually("the log is set aside", lambda: lab.on_host(NODE, *files, code=None).strip() == "2", 90)
    lab.kubectl("exec", "talker", "--", "touch", "/tmp/go")
    eventually(
        "the new one is written", lambda: lab.kubectl("logs", "talker", "--tail=2") == "10001\n10002\n", 90
    )
    put(lab, SCHEDULED, "MODE=poweroff")
    try:
        eventually("node says so", lambda: "node is shutting down" in ready(lab)["message"], 90)
        eventually("pod ended", lambda: lab.get("pod", "guest")["status"].get("reason") == "Terminated", 90)
        assert lab.get("pod", "guest")["status"]["phase"] == "Failed"
        lab.on_host(NODE, "rm", SCHEDULED)
        until_ready(lab)
    finally:
        lab.kubectl("delete", "pod", "guest", "talker", "--now", "--timeout=90s")
        lab.kubectl("delete", "csr", "--all")
