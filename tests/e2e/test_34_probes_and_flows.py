"""Probes that hold each other back and take pods out of their Services; UDP flows that follow an endpoint;
the other back ends of the proxy on one worker. Driven from outside; the cluster DNS image gives the Python
that busybox lacks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import yaml

from tests.e2e.lab import Lab, Object, eventually

NAMESPACE = "e2e-flows"
PROXY_CONFIG = "/etc/kubernetes/kube-proxy-config.yaml"
SWITCHED_NODE = "worker-0"

HEALTH = """
import asyncio, pathlib
from componentbase.grpcwire.server import Server, Unary

async def check(request, call):
    well = not pathlib.Path("/tmp/ill").exists()
    return bytes([8, 1 if well else 2])

async def main():
    async with Server({"/grpc.health.v1.Health/Check": Unary(check)}) as server:
        await server.listen("0.0.0.0", 9000)
        await asyncio.Event().wait()

asyncio.run(main())
"""
ECHO = """
import socket
listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listening.bind(("0.0.0.0", 5300))
while True:
    _, peer = listening.recvfrom(99)
    listening.sendto(socket.gethostname().encode(), peer)
"""
# One socket, so one flow, that never rests for as long as a connection tracker would need to forget it.
CALLER = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow:
    flow.settimeout(0.2)
    flow.connect((sys.argv[1], 5300))
    deadline, last = time.monotonic() + 120, ""
    while time.monotonic() < deadline and last != sys.argv[2]:
        try:
            flow.send(b"who")
            said = flow.recv(99).decode()
        except OSError:
            continue
        if said != last:
            print(said, flush=True)
        last = said
        time.sleep(0.05)
"""


def probed(image: str) -> list[Object]:
    """Pods whose probes look at files that the test makes and removes, and a Service of each."""

    def present(file: str, **more: int) -> Object:
        return {"exec": {"command": ["test", "-e", f"/tmp/{file}"]}, "periodSeconds": 1, **more}

    slow = {
        "name": "main",
        "image": "busybox:1.35",
        "command": ["sleep", "3600"],
        "startupProbe": present("started", failureThreshold=300),
        "livenessProbe": present("alive", failureThreshold=1),
        "readinessProbe": present("ready"),
    }
    asked = {
        "name": "main",
        "image": image,
        "command": ["python3", "-c", HEALTH],
        "readinessProbe": {"grpc": {"port": 9000}, "periodSeconds": 1, "failureThreshold": 1},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    objects: list[Object] = []
    for name, container in (("slow", slow), ("asked", asked)):
        metadata = {"name": name, "labels": {"app": name}}
        volumes = [{"name": "tmp", "emptyDir": {}}]
        spec = {"terminationGracePeriodSeconds": 0, "volumes": volumes, "containers": [container]}
        objects.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        service = {"selector": {"app": name}, "ports": [{"port": 80}]}
        objects.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": service})
    return objects


def talkers(image: str) -> list[Object]:
    """Two UDP servers on nodes of their own, and a Service that leads to the first."""
    objects: list[Object] = []
    for name, node in (("udp-a", "worker-0"), ("udp-b", "worker-1")):
        container = {"name": "main", "image": image, "command": ["python3", "-c", ECHO]}
        spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]}
        metadata = {"name": name, "labels": {"app": name}}
        objects.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    ports = [{"port": 5300, "protocol": "UDP"}]
    spec = {"selector": {"app": "udp-a"}, "ports": ports}
    objects.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "udp"}, "spec": spec})
    return objects


class Flows:
    """The namespace with all of them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def kubectl(self, *arguments: str, stdin: str | None = None, code: int | None = 0) -> str:
        return self.lab.kubectl("-n", NAMESPACE, *arguments, stdin=stdin, code=code)

    def touch(self, pod: str, file: str) -> None:
        self.kubectl("exec", pod, "--", "python3" if pod == "asked" else "touch", *self._made(pod, file))

    @staticmethod
    def _made(pod: str, file: str) -> list[str]:
        path = f"/tmp/{file}"
        return ["-c", f"open({path!r}, 'w')"] if pod == "asked" else [path]

    def container(self, pod: str) -> Object:
        found: Object = json.loads(self.kubectl("get", "pod", pod, "-o", "json"))["status"]
        statuses: list[Object] = found.get("containerStatuses") or [{}]
        return statuses[0]

    def serving(self, service: str) -> list[bool]:
        """The ready condition of each endpoint."""
        label = f"kubernetes.io/service-name={service}"
        listed = json.loads(self.kubectl("get", "endpointslices", "-l", label, "-o", "json"))["items"]
        return [bool(each["conditions"]["ready"]) for item in listed for each in item.get("endpoints") or ()]


@pytest.fixture(scope="module")
def flows(lab: Lab) -> Iterator[Flows]:
    lab.kubectl("create", "namespace", NAMESPACE)
    made = Flows(lab)
    eventually("account", lambda: "default" in made.kubectl("get", "serviceaccounts", "-o", "name"))
    where = "jsonpath={.spec.template.spec.containers[0].image}"
    image = lab.kubectl("-n", "kube-system", "get", "deployment", "clusterdns", "-o", where).strip()
    objects = [*probed(image), *talkers(image)]
    made.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))
    yield made
    lab.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")


def test_startup_holds_liveness_back_and_readiness_decides_who_serves(flows: Flows) -> None:
    eventually("it runs", lambda: "running" in flows.container("slow")["state"], 120)
    flows.touch("slow", "ready")
    # Liveness and readiness would both have an answer by now: neither is asked before startup is through.
    eventually("events", lambda: "Startup probe failed" in flows.kubectl("get", "events"), 60)
    held = flows.container("slow")
    assert (held["restartCount"], held["started"], held["ready"]) == (0, False, False)
    assert flows.serving("slow") == [False]
    flows.touch("slow", "alive")
    flows.touch("slow", "started")
    eventually("serving", lambda: flows.serving("slow") == [True], 60)
    assert flows.container("slow")["restartCount"] == 0
    flows.kubectl("exec", "slow", "--", "rm", "/tmp/ready")
    eventually("out of the Service", lambda: flows.serving("slow") == [False], 60)
    assert flows.container("slow")["restartCount"] == 0, "readiness restarts nobody"
    flows.kubectl("exec", "slow", "--", "rm", "/tmp/alive")
    eventually("restarted by liveness", lambda: flows.container("slow")["restartCount"] == 1, 60)


def test_grpc_health_decides_who_serves(flows: Flows) -> None:
    eventually("serving", lambda: flows.serving("asked") == [True], 120)
    flows.touch("asked", "ill")
    eventually("NOT_SERVING", lambda: flows.serving("asked") == [False], 60)
    eventually("event", lambda: "Readiness probe failed" in flows.kubectl("get", "events"), 60)
    flows.kubectl("exec", "asked", "--", "python3", "-c", "import os; os.remove('/tmp/ill')")
    eventually("serving again", lambda: flows.serving("asked") == [True], 60)


def test_a_udp_flow_follows_its_service(flows: Flows) -> None:
    flows.kubectl("wait", "--for=condition=Ready", "pod/udp-a", "pod/udp-b", "--timeout=120s")
    address = flows.kubectl("get", "service", "udp", "-o", "jsonpath={.spec.clusterIP}").strip()
    eventually("endpoint", lambda: flows.serving("udp") == [True], 60)
    lab = flows.lab
    where = ["--topology", str(lab.topology), "--state", str(lab.state)]
    command = [sys.executable, "-c", CALLER, address, "udp-b"]
    argv = [sys.executable, "-m", "deploy", *where, "exec", "worker-2", "--", *command]
    flow_moves(flows, argv, "udp-a", "udp-b")


def flow_moves(flows: Flows, argv: list[str], old: str, new: str) -> None:
    """The flow of a CALLER goes to the one server, then, when the Service does, to the other."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline().strip() == old
        flows.kubectl("patch", "service", "udp", "-p", json.dumps({"spec": {"selector": {"app": new}}}))
        assert caller.stdout.readline().strip() == new, "the old flow was forgotten"
        assert caller.wait(60) == 0


@pytest.fixture(scope="module")
def switch(flows: Flows) -> Iterator[Callable[[str], None]]:
    """Gives one worker's proxy another back end: one line of its configuration."""
    lab = flows.lab
    before = lab.on_host(SWITCHED_NODE, "cat", PROXY_CONFIG)
    now = [yaml.safe_load(before)["mode"]]

    def put(mode: str) -> None:
        text = yaml.safe_dump({**yaml.safe_load(before), "mode": mode})
        lab.on_host(SWITCHED_NODE, "sh", "-c", f'printf %s "$1" > {PROXY_CONFIG}', "sh", text)
        lab.hardway("restart", SWITCHED_NODE, "kubeproxy")
        now.append(mode)

    yield put
    if now[-1] != now[0]:
        put(now[0])


def left(lab: Lab) -> set[str]:
    """The modes that something is there of on the node, and policies."""
    looks = "nft list tables; iptables-save -t nat 2>/dev/null; ip -4 address show dev lo"
    found = lab.on_host(SWITCHED_NODE, "sh", "-c", looks)
    signs = {
        "nftables": "table ip kube-proxy",
        "iptables": "KUBE-SVC",
        "userspace": "lo:kubeproxy",
        "policies": "table ip hardway-policy",
    }
    return {mode for mode, sign in signs.items() if sign in found}


def test_the_other_back_end_takes_over(flows: Flows, switch: Callable[[str], None]) -> None:
    lab = flows.lab
    switch("iptables")
    eventually("only rules of iptables", lambda: left(lab) == {"iptables", "policies"}, 90)
    saved = lab.on_host(SWITCHED_NODE, "iptables-save", "-t", "nat")
    assert f"{NAMESPACE}/udp" in saved
    answers = ["curl", "-sk", "-m", "5", "https://10.32.0.1/version"]
    eventually("a Service through them", lambda: "gitVersion" in lab.on_host(SWITCHED_NODE, *answers), 60)


def test_without_a_packet_filter_the_proxy_relays(flows: Flows, switch: Callable[[str], None]) -> None:
    lab = flows.lab
    switch("userspace")
    eventually("no rules at all, addresses instead", lambda: left(lab) == {"userspace"}, 90)
    talking = ["-n", NAMESPACE, "exec", "udp-a", "--", "python3", "-c"]
    tls = (
        "import ssl, urllib.request as r; ssl._create_default_https_context = ssl._create_unverified_context"
    )
    ask = f"{tls}; print(r.urlopen('https://kubernetes.default.svc.cluster.local/version', timeout=9).read())"
    assert "gitVersion" in lab.kubectl(*talking, ask), "DNS over UDP, then TCP, both by a pod of this node"
    traced = lab.hardway("trace", f"pod/{NAMESPACE}/udp-a", f"svc/{NAMESPACE}/udp", code=1)
    assert f"{SWITCHED_NODE} relays" in traced, "the mode is this node's alone"
    # The pod is one of the two servers itself: one of the ways leads back to where it began.
    old = flows.kubectl("get", "service", "udp", "-o", "jsonpath={.spec.selector.app}").strip()
    new = "udp-b" if old == "udp-a" else "udp-a"
    flow_moves(
        flows, ["kubectl", "--kubeconfig", str(lab.kubeconfig), *talking, CALLER, "udp", new], old, new
    )


def test_nothing_is_left_of_the_other_back_ends(flows: Flows, switch: Callable[[str], None]) -> None:
    switch("nftables")
    eventually("nftables again", lambda: left(flows.lab) == {"nftables", "policies"}, 90)
