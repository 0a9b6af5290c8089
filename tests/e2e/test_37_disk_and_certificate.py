"""A node whose disk fills and a node whose certificate has ended: what is said, who must go, and that all is
well again when the cause is gone.

The lab bears 40 s of silence before it calls a node's state Unknown; the disk is filled meanwhile.
"""

from __future__ import annotations

import base64
import datetime
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.images.oci import Entry, Image, write_archive
from pki.ca import Authority, certificate_pem, key_pem, load_certificate, load_key, utc_now
from pki.certs import Profile
from tests.e2e.lab import Lab, Object, eventually
from tests.e2e.manifests import manifest, pod_spec
from tests.e2e.space import Space, space

SILENT, ASKING, SMALL = "worker-0", "worker-1", "worker-2"
CONFIG, KUBECONFIG = "/etc/kubernetes/kubelet-config.yaml", "/etc/kubernetes/kubelet.kubeconfig"
ROOM = 96  # MiB that are free on the small disk
THRESHOLD = 40
PKI, PIDFILE, NEWCOMER = "/var/lib/kubelet/pki", "/run/asking.pid", "e2e:newcomer"
JUNK = "example.test/junk:1"


@pytest.fixture(scope="module")
def here(lab: Lab) -> Iterator[Space]:
    with space(lab, "e2e-ends") as made:
        yield made


def pod(name: str, node: str, **more: Any) -> str:
    spec = pod_spec(nodeName=node, automountServiceAccountToken=False, **more)
    return manifest("v1", "Pod", name, spec=spec)


def put(lab: Lab, node: str, path: str, text: str) -> None:
    lab.on_host(node, "sh", "-c", f'umask 077; printf %s "$1" > {path}.new; mv {path}.new {path}', "sh", text)


def condition(lab: Lab, node: str, kind: str) -> Object:
    found = lab.get("node", node)["status"]["conditions"]
    return next(each for each in found if each["type"] == kind)


def node_reasons(lab: Lab, node: str) -> set[str]:
    events = lab.get("events", "-A", "--field-selector", f"involvedObject.name={node}")["items"]
    return {event["reason"] for event in events}


def issued(lab: Lab, name: str, group: str, began: int = 0) -> tuple[bytes, bytes]:
    """A client certificate for one day, that began so many days ago, and its key."""
    pki = lab.state / "pki"
    authority = Authority(load_certificate(pki / "ca.pem"), load_key(pki / "ca-key.pem"))
    profile = Profile(common_name=name, organizations=(group,), lifetime=datetime.timedelta(days=1))
    key, past = ec.generate_private_key(ec.SECP256R1()), utc_now() - datetime.timedelta(days=began)
    return certificate_pem(authority.issue(profile, key, now=past)), key_pem(key)


def worthless(lab: Lab, node: str) -> tuple[bytes, bytes]:
    """A certificate of the node that ended nine days ago."""
    return issued(lab, f"system:node:{node}", "system:nodes", began=10)


def with_user(kubeconfig: str, pair: tuple[bytes, bytes]) -> str:
    """The same kubeconfig for somebody else."""
    document = yaml.safe_load(kubeconfig)
    cert, key = (base64.b64encode(pem).decode() for pem in pair)
    document["users"][0]["user"] = {"client-certificate-data": cert, "client-key-data": key}
    return yaml.safe_dump(document)


@pytest.fixture(scope="module")
def silenced(here: Space) -> Iterator[str]:
    """A node whose kubeconfig is replaced by one that has ended; the kubeconfig that it had."""
    before = here.lab.on_host(SILENT, "cat", KUBECONFIG)
    here.apply(pod("stays", SILENT))
    here.wait("condition=Ready", "pod/stays")
    put(here.lab, SILENT, KUBECONFIG, with_user(before, worthless(here.lab, SILENT)))
    yield before
    put(here.lab, SILENT, KUBECONFIG, before)
    eventually("it is back", lambda: condition(here.lab, SILENT, "Ready")["status"] == "True", 90)


@contextmanager
def stopped(lab: Lab, node: str) -> Iterator[None]:
    for unit in ("kubelet", "containerd"):
        lab.hardway("stop", node, unit)
    yield
    for unit in ("containerd", "kubelet"):
        lab.hardway("start", node, unit)


@pytest.fixture(scope="module")
def small(here: Space, silenced: str) -> Iterator[Space]:
    """A worker all of whose data is on a disk with little room, in its own mount namespace alone."""
    lab = here.lab
    with stopped(lab, SMALL):
        lab.on_host(
            SMALL,
            "sh",
            "-ec",
            "size=$(($(du -smx /var/lib | cut -f1) + $1)); mkdir /run/small; "
            "mount -t tmpfs -o size=${size}m,mode=755 tmpfs /run/small; cp -ax /var/lib/. /run/small/; "
            "mount --move /run/small /var/lib; rmdir /run/small",
            "sh",
            str(ROOM),
        )
    try:
        asked = {"resources": {"requests": {"ephemeral-storage": "4Mi"}}}
        here.apply(pod("witness", SMALL, container=asked))
        here.wait("condition=Ready", "pod/witness")
        yield here
        here.kubectl("delete", "pod", f"--field-selector=spec.nodeName={SMALL}", "--now")
    finally:
        with stopped(lab, SMALL):
            lab.on_host(SMALL, "umount", "--recursive", "/var/lib")
    eventually("ready", lambda: condition(lab, SMALL, "Ready")["status"] == "True", 90)


def message(here: Space, name: str) -> str:
    events = here.items("events", f"--field-selector=involvedObject.name={name}")
    return " ".join(event.get("message") or "" for event in events)


def test_a_full_disk_is_named_and_waited_for(small: Space) -> None:
    """Nothing is evicted here: the lab's kubelets have no thresholds for the disk."""
    full = {"volumes": [{"name": "d", "emptyDir": {}}]}
    mounted = {"volumeMounts": [{"name": "d", "mountPath": "/d"}]}
    small.apply(pod("filler", SMALL, **full, container=mounted))
    small.wait("condition=Ready", "pod/filler")
    fill = ("exec", "filler", "--", "sh", "-c", "cat /dev/zero > /d/all")
    assert "No space left on device" in small.kubectl(*fill, code=1)
    small.kubectl("create", "configmap", "large", f"--from-literal=text={'x' * 100_000}")
    configured = {"volumes": [{"name": "d", "configMap": {"name": "large"}}]}
    small.apply(pod("bare", SMALL), pod("configured", SMALL, **configured, container=mounted))

    def said(name: str, reason: str) -> bool:
        return reason in small.reasons(name) and "no space left on device" in message(small, name).lower()

    eventually("no sandbox", lambda: said("bare", "FailedCreatePodSandBox"), 60)
    eventually("no volume", lambda: said("configured", "FailedMount"), 60)
    # Not by deleting the pod: containerd itself cannot note a container's end on a full disk.
    small.kubectl("exec", "filler", "--", "rm", "/d/all")
    small.wait("condition=Ready", "pod/bare", "pod/configured")
    small.kubectl("delete", "pod", "bare", "configured", "filler", "--now")


def leave(small: Space, room: int) -> None:
    """Have the writer write into its own layer until no more than `room` MiB are free."""
    script = (
        f"free=$(df -m / | tail -n 1 | awk '{{print $4}}'); head -c $((free - {room}))m /dev/zero >> /big"
    )
    small.kubectl("exec", "writer", "--", "sh", "-c", script)


@pytest.fixture
def guarded(small: Space) -> Iterator[Space]:
    """The kubelet of the small disk wants room kept free; there is less, and an image that nobody uses."""
    lab = small.lab
    entries = [Entry("junk", 0o644, content=b"junk" * (1 << 20))]
    image = Image(references=(JUNK,), entries=entries, machine=platform.machine())
    archive = lab.state / "images" / "junk.tar"
    write_archive([image], archive)
    lab.on_host(SMALL, "ctr", "-n", "k8s.io", "images", "import", "/run/hardway/images/junk.tar")
    archive.unlink()
    small.apply(pod("writer", SMALL))
    small.wait("condition=Ready", "pod/writer")
    leave(small, THRESHOLD - 4)
    before = lab.on_host(SMALL, "cat", CONFIG)
    wanted = f"{THRESHOLD}Mi"
    fields = {
        "evictionHard": {"nodefs.available": wanted, "imagefs.available": wanted},
        "evictionPressureTransitionPeriod": "12s",
    }
    put(lab, SMALL, CONFIG, yaml.safe_dump({**yaml.safe_load(before), **fields}))
    lab.hardway("restart", SMALL, "kubelet")
    yield small
    put(lab, SMALL, CONFIG, before)


def test_a_disk_under_pressure_loses_images_first_and_then_who_wrote_most(guarded: Space) -> None:
    lab = guarded.lab
    images = ("ctr", "-n", "k8s.io", "images", "ls", "-q")
    eventually("the image goes", lambda: JUNK not in lab.on_host(SMALL, *images), 90)
    assert guarded.get("pod", "writer")["status"]["phase"] == "Running", "that made room enough"
    leave(guarded, THRESHOLD // 2)
    eventually("evicted", lambda: guarded.get("pod", "writer")["status"].get("reason") == "Evicted", 90)
    status = guarded.get("pod", "writer")["status"]
    said = rf"The node was low on resource: ephemeral-storage\. Threshold quantity: {THRESHOLD}Mi, "
    said += r"available: \d+(Ki|Mi)?\. Container c was using \d+(Ki|Mi)?, request is 0, "
    said += r"has larger consumption of ephemeral-storage\. $"
    assert status["phase"] == "Failed" and re.match(said, status["message"]), status["message"]
    eventually("event", lambda: "Evicted" in guarded.reasons("writer"), 60)
    eventually("condition", lambda: condition(lab, SMALL, "DiskPressure")["status"] == "True", 60)
    assert condition(lab, SMALL, "DiskPressure")["reason"] == "KubeletHasDiskPressure"
    eventually("events", lambda: {"EvictionThresholdMet", "NodeHasDiskPressure"} <= node_reasons(lab, SMALL))
    chosen = pod_spec(nodeSelector={"kubernetes.io/hostname": SMALL})
    guarded.apply(manifest("v1", "Pod", "after", spec=chosen))
    eventually("held back", lambda: "disk-pressure" in message(guarded, "after"), 60)
    guarded.wait("condition=Ready", "pod/after")
    assert guarded.get("pod", "witness")["status"]["phase"] == "Running"
    assert condition(lab, SMALL, "DiskPressure")["status"] == "False"


@pytest.fixture
def asking(here: Space, silenced: str) -> Iterator[Lab]:
    """A worker whose kubelet, started by hand, has to ask for its certificate."""
    lab = here.lab
    bound = ("--clusterrole=system:node-bootstrapper", "--group=system:bootstrappers")
    lab.kubectl("create", "clusterrolebinding", "e2e-bootstrap", *bound)
    first = issued(lab, NEWCOMER, "system:bootstrappers")
    ready_made = lab.on_host(ASKING, "cat", KUBECONFIG)
    put(lab, ASKING, "/etc/kubernetes/bootstrap.kubeconfig", with_user(ready_made, first))
    lab.hardway("stop", ASKING, "kubelet")
    try:
        with by_hand(lab):
            yield lab
    finally:
        lab.on_host(ASKING, "rm", "-rf", PKI)
        lab.hardway("start", ASKING, "kubelet")
        lab.kubectl("delete", "csr", "--all")
        lab.kubectl("delete", "clusterrolebinding", "e2e-bootstrap")


@contextmanager
def by_hand(lab: Lab) -> Iterator[None]:
    flags = {
        "config": CONFIG,
        "kubeconfig": f"{PKI}/asked.kubeconfig",
        "bootstrap-kubeconfig": "/etc/kubernetes/bootstrap.kubeconfig",
        "hostname-override": ASKING,
        "node-ip": "10.240.0.21",
        "cloud-provider": "external",
        "container-runtime-endpoint": "unix:///run/containerd/containerd.sock",
    }
    given = " ".join(f"--{name}={value}" for name, value in flags.items())
    script = f". /etc/hardway/host.env; echo $$ > {PIDFILE}; "
    script += f"exec {sys.executable} -m kubelet {given} --cgroup-root=$CGROUP_ROOT"
    where = ["--topology", str(lab.topology), "--state", str(lab.state)]
    argv = [sys.executable, "-m", "deploy", *where, "exec", ASKING, "--", "sh", "-c", script]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        lab.on_host(ASKING, "sh", "-c", f"kill $(cat {PIDFILE})")
        process.wait(60)


def test_a_kubelet_asks_for_a_certificate_and_anew_when_that_has_expired(here: Space, asking: Lab) -> None:
    current = f"{PKI}/kubelet-client-current.pem"

    def requests() -> list[Object]:
        found = asking.get("certificatesigningrequests")["items"]
        return [each for each in found if each["spec"]["signerName"].endswith("client-kubelet")]

    def signed(number: int) -> bool:
        """All that were made, which an administrator approves, are signed."""
        for each in requests():
            if not each.get("status"):
                asking.kubectl("certificate", "approve", each["metadata"]["name"])
        return [bool(each["status"].get("certificate")) for each in requests()] == [True] * number

    eventually("signed", lambda: signed(1), 90)
    assert requests()[0]["spec"]["username"] == NEWCOMER
    here.apply(pod("first", ASKING))
    here.wait("condition=Ready", "pod/first")
    first = asking.on_host(ASKING, "readlink", current)
    put(asking, ASKING, f"{PKI}/{first.strip()}", b"".join(worthless(asking, ASKING)).decode())
    eventually("signed again", lambda: signed(2), 90)
    assert {each["spec"]["username"] for each in requests()} == {NEWCOMER}, "not by what had expired"
    eventually("in use", lambda: asking.on_host(ASKING, "readlink", current) != first, 60)
    here.apply(pod("second", ASKING))
    here.wait("condition=Ready", "pod/second")
    assert here.get("pod", "first")["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_node_whose_certificate_has_expired_is_unknown_until_it_is_replaced(
    here: Space, silenced: str
) -> None:
    lab = here.lab
    eventually("unknown", lambda: condition(lab, SILENT, "Ready")["status"] == "Unknown", 120)
    found = condition(lab, SILENT, "Ready")
    assert (found["reason"], found["message"]) == (
        "NodeStatusUnknown",
        "Kubelet stopped posting node status.",
    )
    assert f"the client certificate of {KUBECONFIG} has expired" in lab.hardway(
        "logs", SILENT, "kubelet", "-n", "500"
    )
    eventually("event", lambda: "NodeNotReady" in node_reasons(lab, SILENT), 60)
    put(lab, SILENT, KUBECONFIG, silenced)
    eventually("it is back", lambda: condition(lab, SILENT, "Ready")["status"] == "True", 90)
    eventually("no taints", lambda: not lab.get("node", SILENT)["spec"].get("taints"), 60)
    status = here.get("pod", "stays")["status"]["containerStatuses"][0]
    assert status["restartCount"] == 0 and "running" in status["state"], "it ran on"
