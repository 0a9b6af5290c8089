"""The leading manager and the leading scheduler are frozen in the middle of their work (SIGSTOP), others take
over, and then they are thawed: nothing is made twice and nothing is bound twice.

What happens meanwhile is found by the successors as it is: a zone gone dark, a request that has served.
"""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.control import Control, Refused
from deploy.state import State
from tests.e2e import hollow
from tests.e2e.lab import Lab, eventually
from tests.e2e.manifests import manifest
from tests.e2e.space import Space, space

PODS, MORE, JOBS = 120, 150, 10
ROOM = [f"room-{number}" for number in range(2)]
ZONE, DARK, LAST = "topology.kubernetes.io/zone", [f"dark-{number}" for number in range(3)], "dark-last"
READY = {"e2e-room": "yes"}


def crowd(replicas: int) -> str:
    template = {
        "metadata": {"labels": {"app": "crowd"}},
        "spec": hollow.pod_spec(nodeSelector=READY, container={"resources": {"requests": {"cpu": "100m"}}}),
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "crowd"}}, "template": template}
    return manifest("apps/v1", "ReplicaSet", "crowd", spec=spec)


def batch() -> str:
    pod = hollow.pod_spec(nodeSelector=READY, restartPolicy="Never")
    template = {"metadata": {"labels": {"app": "batch"}}, "spec": pod}
    spec = {"completions": JOBS, "parallelism": JOBS, "template": template}
    return manifest("batch/v1", "Job", "batch", spec=spec)


class Ledger:
    """Every pod there ever was, by a watch: its owner's kind, and all nodes it ever had."""

    LINE = '{.metadata.uid} {.metadata.ownerReferences[0].kind} {.spec.nodeName}{"\\n"}'

    def __init__(self, here: Space, file: Path) -> None:
        kubeconfig = ("--kubeconfig", str(here.lab.kubeconfig), "-n", here.name)
        self._argv = ["kubectl", *kubeconfig, "get", "pods", "--watch", "-o", f"jsonpath={self.LINE}"]
        self._file = file
        self.struck: dict[Leader, int | None] = {}  # and what their processes were

    def __enter__(self) -> Ledger:
        with self._file.open("wb") as out:
            self._watch = subprocess.Popen(self._argv, stdout=out)
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.terminate()
        self._watch.wait(30)

    def _lines(self) -> list[list[str]]:
        whole = self._file.read_text().rpartition("\n")[0]
        return [line.split(" ") for line in whole.splitlines()]

    def owners(self) -> Counter[str]:
        return Counter({uid: kind for uid, kind, _ in self._lines()}.values())

    def wait_for_the_first(self, kind: str) -> None:
        """Looked for without a pause: those after it are being made."""
        deadline = time.monotonic() + 60
        while not self.owners()[kind]:
            assert time.monotonic() < deadline, f"no pod of a {kind}"
            time.sleep(0.005)

    def nodes(self) -> dict[str, set[str]]:
        """Of those that have one."""
        assert self._watch.poll() is None, "the watch has ended"
        found: dict[str, set[str]] = defaultdict(set)
        for uid, _, node in self._lines():
            if node:
                found[uid].add(node)
        return found


@pytest.fixture(scope="module")
def here(lab: Lab) -> Iterator[Space]:
    try:
        with space(lab, "contention") as made:
            lab.kubectl(
                "create", "-f", "-", stdin="\n".join(json.dumps(hollow.node(n, **READY)) for n in ROOM)
            )
            yield made
    finally:
        hollow.remove(lab)
        lab.kubectl("delete", "csr", "served", "--ignore-not-found", code=None)


def leader(lab: Lab, name: str) -> str:
    return str(lab.get("lease", name, "-n", "kube-system")["spec"]["holderIdentity"])


@dataclass(frozen=True)
class Leader:
    """Who holds a lease, and the process behind it."""

    holder: str
    unit: str
    control: Control

    @classmethod
    def of(cls, lab: Lab, lease: str) -> Leader:
        holder, name = leader(lab, lease), yaml.safe_load(lab.topology.read_text())["name"]
        host = holder.partition("_")[0]
        return cls(holder, LEASES[lease], Control(host, State(name, lab.state).socket(host)))

    def send(self, number: signal.Signals) -> None:
        with suppress(Refused):  # between two lives
            self.control.call("signal", unit=self.unit, signal=int(number))

    def pid(self) -> int | None:
        found: int | None = self.control.call("status")["units"][self.unit]["pid"]
        return found


@contextmanager
def frozen(*leaders: Leader) -> Iterator[None]:
    """At once, since they are in the middle of something."""
    try:
        for each in leaders:
            each.send(signal.SIGSTOP)
        yield
    finally:
        for each in leaders:
            each.send(signal.SIGCONT)


def is_led_by_another(lab: Lab, name: str, than: str) -> bool:
    return leader(lab, name) != than


LEASES = {"kube-controller-manager": "controllers", "kube-scheduler": "scheduler"}


def go_dark(here: Space) -> None:
    """Three of a zone's four nodes say that they are not ready."""
    nodes = [hollow.node(LAST, **{ZONE: "dark"})]
    nodes += [hollow.node(name, ready=False, **{ZONE: "dark"}) for name in DARK]
    here.lab.kubectl("create", "-f", "-", stdin="\n".join(map(json.dumps, nodes)))


def old_request(here: Space) -> None:
    """Denied long ago: its hour is over."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "served")])
    pem = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    spec = {
        "request": base64.b64encode(pem.public_bytes(serialization.Encoding.PEM)).decode(),
        "signerName": "kubernetes.io/kube-apiserver-client",
        "usages": ["client auth"],
    }
    here.lab.kubectl(
        "create",
        "-f",
        "-",
        stdin=manifest("certificates.k8s.io/v1", "CertificateSigningRequest", "served", spec=spec),
    )
    long_ago = {"type": "Denied", "status": "True", "reason": "e2e", "lastUpdateTime": "2020-01-01T00:00:00Z"}
    patch = json.dumps({"status": {"conditions": [long_ago]}})
    here.lab.kubectl("patch", "csr", "served", "--subresource=approval", "--type=merge", "-p", patch)


@pytest.fixture(scope="module")
def taken_over(here: Space, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """Both leaders were frozen with pods half made and half bound; others lead now, and they are thawed."""
    with Ledger(here, tmp_path_factory.mktemp("ledger") / "pods") as ledger:
        before = {lease: Leader.of(here.lab, lease) for lease in LEASES}
        ledger.struck = {each: each.pid() for each in before.values()}
        here.apply(batch(), crowd(PODS))
        ledger.wait_for_the_first("ReplicaSet")
        with frozen(*before.values()):
            go_dark(here)
            old_request(here)
            for lease, each in before.items():
                another = partial(is_led_by_another, here.lab, lease, each.holder)
                eventually(f"another holds {lease}", another, 90)
            eventually("all are bound", lambda: len(ledger.nodes()) >= PODS + JOBS, 90)
        here.kubectl("scale", "replicaset/crowd", f"--replicas={MORE}")  # the thawed ones hear of it, too
        eventually("all are bound again", lambda: len(ledger.nodes()) >= MORE + JOBS, 90)
        yield ledger


def test_nothing_is_made_twice_and_nothing_is_bound_twice(here: Space, taken_over: Ledger) -> None:
    living = here.living("crowd")
    assert len(living) == MORE and {pod["spec"]["nodeName"] for pod in living} <= set(ROOM)
    assert len(here.living("batch")) == JOBS
    assert taken_over.owners() == {"ReplicaSet": MORE, "Job": JOBS}
    assert all(len(nodes) == 1 for nodes in taken_over.nodes().values())
    events = here.items("events", "--field-selector=reason=Scheduled")
    said: dict[str, set[str]] = defaultdict(set)
    for event in events:
        said[event["involvedObject"]["name"]].add(event["message"].rpartition(" ")[2])
    assert said and all(len(nodes) == 1 for nodes in said.values())


def test_the_thawed_ones_are_candidates_again(here: Space, taken_over: Ledger) -> None:
    """Each found its lease lost and ended; its supervisor started it again."""
    for each, before in taken_over.struck.items():
        eventually(f"{each.holder} lives anew", lambda e=each, b=before: e.pid() not in (None, b))  # type: ignore[misc]
    for number in range(3):
        text = here.lab.on_host(
            f"controller-{number}",
            "sh",
            "-c",
            "curl -sk https://127.0.0.1:10257/healthz; echo; curl -sk https://127.0.0.1:10259/healthz",
        )
        assert text.split() == ["ok", "ok"], (number, text)


def taints(here: Space, *names: str) -> dict[str, set[str]]:
    """The effects of the taint of nodes that are not ready."""
    found = {item["metadata"]["name"]: item for item in here.lab.get("nodes", "-l", hollow.ROLE)["items"]}
    return {
        name: {
            t["effect"] for t in found[name]["spec"]["taints"] if t["key"] == "node.kubernetes.io/not-ready"
        }
        for name in names
    }


def registered(here: Space) -> bool:
    events = here.lab.get("events", "-A", "--field-selector=reason=RegisteredNode")["items"]
    return set(DARK) <= {event["involvedObject"]["name"] for event in events}


def test_a_zone_is_emptied_only_when_it_is_whole_that_is_gone(here: Space, taken_over: Ledger) -> None:
    """Most of a small zone not ready is a disturbance: nobody is driven out. All of it is an outage."""
    assert taken_over.nodes()
    eventually("the monitor has judged them", lambda: registered(here))
    eventually(
        "nobody new", lambda: set(map(frozenset, taints(here, *DARK).values())) == {frozenset({"NoSchedule"})}
    )
    down = '{"status":{"conditions":[{"type":"Ready","status":"False"}]}}'
    here.lab.kubectl("patch", "node", LAST, "--subresource=status", "-p", down)
    eventually(
        "out with the first", lambda: any("NoExecute" in each for each in taints(here, *DARK, LAST).values())
    )


def test_the_successor_clears_away_what_has_served(here: Space, taken_over: Ledger) -> None:
    assert taken_over.nodes()
    eventually("the request is gone", lambda: "served" not in here.lab.kubectl("get", "csr", "-o", "name"))
