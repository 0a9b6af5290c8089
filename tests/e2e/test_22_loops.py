"""Control loops whose work is objects and not processes: volumes, ranges, claims, owners, tokens, requests.

Everything is made in one go, on nodes that nobody runs; the tests play those who are not here (a driver of
volumes, a kubelet that wants to join) and judge.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e import hollow
from tests.e2e.lab import Lab, Object, eventually, run
from tests.e2e.space import Space, space

NODE, LOST = "loops-0", "loops-1"
LABEL = "e2e-loops"
DRIVER = "attach.example.com"
RANGE, ADDRESS = "10.33.0.0/28", "10.33.0.5"
MANAGED = "volumes.kubernetes.io/controller-managed-attach-detach"
OUT_OF_SERVICE = {"key": "node.kubernetes.io/out-of-service", "value": "gone", "effect": "NoExecute"}


def thing(api_version: str, kind: str, name: str, **parts: Any) -> Object:
    metadata = {"name": name, "labels": {LABEL: ""}, **parts.pop("metadata", {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **parts}


def volume(name: str, **source: Any) -> Object:
    spec = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Mi"}, "storageClassName": ""}
    return thing("v1", "PersistentVolume", name, spec={**spec, **source})


def claim(name: str, **more: Any) -> Object:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    spec |= {"storageClassName": "", **more}
    return thing("v1", "PersistentVolumeClaim", name, spec=spec)


def using(name: str) -> list[Object]:
    return [{"name": "v", "persistentVolumeClaim": {"claimName": name}}]


def nodes() -> list[Object]:
    return [
        hollow.node(NODE, annotations={MANAGED: "true"}),
        hollow.node(LOST, ready=False, taints=[OUT_OF_SERVICE]),
    ]


def volumes() -> list[Object]:
    csi = {"driver": DRIVER, "volumeHandle": "disk-1"}
    return [
        volume("loops-disk", csi=csi),
        claim("disk", volumeName="loops-disk"),
        hollow.pod("has-disk", nodeName=NODE, volumes=using("disk")),
        volume("loops-plain", hostPath={"path": "/tmp"}),
        claim("plain", volumeName="loops-plain"),
        hollow.pod("holder", nodeName=NODE, volumes=using("plain")),
        thing(
            "storage.k8s.io/v1",
            "VolumeAttributesClass",
            "loops-gold",
            driverName=DRIVER,
            parameters={"a": "b"},
        ),
        claim("golden", volumeName="loops-nowhere", volumeAttributesClassName="loops-gold"),
    ]


def others() -> list[Object]:
    selected = {"metadata": {"labels": {"app": "old"}}, "spec": hollow.pod_spec(nodeName=NODE)}
    request = {"name": "g", "exactly": {"deviceClassName": "gpu"}}
    device = {"resources": {"claims": [{"name": "gpu"}]}}
    wanted = [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]
    return [
        thing("networking.k8s.io/v1", "ServiceCIDR", "loops-range", spec={"cidrs": [RANGE]}),
        thing("v1", "ReplicationController", "old", spec={"replicas": 2, "template": selected}),
        thing(
            "resource.k8s.io/v1",
            "ResourceClaimTemplate",
            "gpu",
            spec={"spec": {"devices": {"requests": [request]}}},
        ),
        hollow.pod("has-device", nodeName=NODE, resourceClaims=wanted, container=device),
        hollow.pod("on-a-dead-node", nodeName=LOST, terminationGracePeriodSeconds=300),
        token("loops1", dt.timedelta(seconds=4)),
    ]


def token(identity: str, lives: dt.timedelta) -> Object:
    ends = (dt.datetime.now(dt.UTC) + lives).strftime("%Y-%m-%dT%H:%M:%SZ")
    data = {"token-id": identity, "token-secret": "0123456789abcdef", "expiration": ends}
    metadata = {"name": f"bootstrap-token-{identity}", "namespace": "kube-system"}
    kind = "bootstrap.kubernetes.io/token"
    return thing("v1", "Secret", "", metadata=metadata, type=kind, stringData=data)


@pytest.fixture(scope="module")
def here(lab: Lab) -> Iterator[Space]:
    try:
        with space(lab, "loops") as made:
            create(made, [*nodes(), *volumes(), *others()])
            made.kubectl("delete", "pod", "on-a-dead-node", "--wait=false")
            yield made
    finally:
        hollow.remove(lab)
        kinds = "persistentvolumes,volumeattributesclasses,servicecidrs,csr,clusterroles,clusterrolebindings"
        lab.kubectl("delete", kinds, "-l", LABEL, "--timeout=60s", code=None)


def create(made: Space, objects: list[Object]) -> None:
    for each in objects:
        if each["kind"] != "Node" and each["kind"] not in ("PersistentVolume", "VolumeAttributesClass"):
            each["metadata"].setdefault("namespace", made.name)
    made.lab.kubectl("create", "-f", "-", stdin="\n".join(map(json.dumps, objects)))


def finalizers(found: Object) -> list[str]:
    return list(found["metadata"].get("finalizers") or [])


# -- addresses of Services -----------------------------------------------------------------------------------


def test_a_range_in_use_waits_for_its_last_service(here: Space) -> None:
    spec = {"clusterIP": ADDRESS, "ports": [{"port": 80}]}
    service = json.dumps(thing("v1", "Service", "in-range", spec=spec))
    here.lab.kubectl("wait", "--for=condition=Ready", "servicecidr/loops-range", "--timeout=60s")
    eventually(
        "every server knows it",
        lambda: not here.kubectl("apply", "-f", "-", stdin=service, code=None).count("rror"),
    )
    here.lab.kubectl("delete", "servicecidr", "loops-range", "--wait=false")
    here.lab.kubectl("wait", "--for=condition=Ready=false", "servicecidr/loops-range", "--timeout=60s")
    assert here.get("service", "in-range")["spec"]["clusterIP"] == ADDRESS
    here.kubectl("delete", "service", "in-range")  # the range is seen to go at the end of this file


# -- nodes ---------------------------------------------------------------------------------------------------


def test_a_new_node_gets_a_range_of_addresses_and_a_ttl(here: Space) -> None:
    def served() -> bool:
        found = {item["metadata"]["name"]: item for item in here.lab.get("nodes")["items"]}
        ranges = [item["spec"].get("podCIDR") for item in found.values()]
        assert None not in ranges and len(set(ranges)) == len(ranges) == 5
        assert all(each.startswith("10.200.") and each.endswith("/24") for each in ranges)
        return found[NODE]["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] == "0"

    eventually("every node has its own", served)


# -- volumes -------------------------------------------------------------------------------------------------


def attachments(here: Space) -> list[Object]:
    return [each for each in here.lab.get("volumeattachments")["items"] if each["spec"]["nodeName"] == NODE]


def attached(here: Space) -> list[str]:
    found = here.lab.get("node", NODE)["status"].get("volumesAttached") or []
    return [each["name"] for each in found]


def test_a_volume_is_attached_for_its_pod_and_detached_after_it(here: Space) -> None:
    eventually("asked for", lambda: len(attachments(here)) == 1)
    [asked] = attachments(here)
    assert asked["spec"]["attacher"] == DRIVER
    assert asked["spec"]["source"]["persistentVolumeName"] == "loops-disk"
    assert attached(here) == []
    name = asked["metadata"]["name"]
    done = '{"status":{"attached":true}}'  # the driver's attacher has done it
    here.lab.kubectl("patch", "volumeattachment", name, "--subresource=status", "--type=merge", "-p", done)
    eventually("the kubelet is told", lambda: attached(here) == [f"kubernetes.io/csi/{DRIVER}^disk-1"])
    eventually("the event", lambda: "SuccessfulAttachVolume" in here.reasons("has-disk"))
    here.kubectl("delete", "pod", "has-disk")
    eventually("given back", lambda: attachments(here) == [] and attached(here) == [])


def test_what_is_in_use_is_not_removed(here: Space) -> None:
    """A claim that a pod has, the volume that it is bound to, and a class of attributes that one names."""
    eventually("bound", lambda: here.get("pvc", "plain")["status"]["phase"] == "Bound")
    here.kubectl("delete", "pvc", "plain", "--wait=false")
    here.lab.kubectl("delete", "pv", "loops-plain", "--wait=false")
    here.lab.kubectl("delete", "volumeattributesclass", "loops-gold", "--wait=false")
    held = {
        "kubernetes.io/pvc-protection": ("-n", here.name, "pvc", "plain"),
        "kubernetes.io/pv-protection": ("pv", "loops-plain"),
        "kubernetes.io/vac-protection": ("volumeattributesclass", "loops-gold"),
    }
    for finalizer, what in held.items():
        found = here.lab.get(*what)
        assert found["metadata"].get("deletionTimestamp") and finalizer in finalizers(found), what
    here.kubectl("delete", "pod", "holder")
    here.kubectl("delete", "pvc", "golden", "--wait=false")
    for what in held.values():
        where = what[:2] if what[0] == "-n" else ()
        here.lab.kubectl(*where, "wait", "--for=delete", f"{what[-2]}/{what[-1]}", "--timeout=60s")


def test_a_pods_device_is_claimed_and_the_claim_goes_with_it(here: Space) -> None:
    def claimed() -> bool:
        [recorded] = here.get("pod", "has-device")["status"]["resourceClaimStatuses"]
        return here.names("resourceclaims") == [recorded["resourceClaimName"]] and recorded["name"] == "gpu"

    eventually("a claim was made and noted", claimed)
    here.kubectl("delete", "pod", "has-device")
    eventually("the claim is gone", lambda: here.names("resourceclaims") == [])


# -- owners --------------------------------------------------------------------------------------------------


def owned_by(owner: Object) -> Object:
    reference = {part: owner["metadata"][part] for part in ("name", "uid")}
    return {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", **reference}]}


def wrongly_owned(here: Space) -> set[str]:
    found = here.lab.get("events", "-A", "--field-selector=reason=OwnerRefInvalidNamespace")["items"]
    return {each["involvedObject"]["name"] for each in found}


def test_an_owner_is_looked_for_in_the_namespace_of_what_it_owns(here: Space) -> None:
    """One of another namespace is none: what names it is garbage, unless it is of no namespace itself."""
    here.lab.kubectl("create", "configmap", "loops-owner", "-n", "default")
    here.kubectl("create", "configmap", "loops-owner")
    try:
        foreign = owned_by(here.lab.get("configmap", "loops-owner", "-n", "default"))
        own = owned_by(here.get("configmap", "loops-owner"))
        create(
            here,
            [
                thing("v1", "ConfigMap", name, metadata={"name": name, **owner})
                for name, owner in (("foreign", foreign), ("own", own))
            ],
        )
        role = thing("rbac.authorization.k8s.io/v1", "ClusterRole", "loops-owned", rules=[])
        role["metadata"] |= own
        here.lab.kubectl("create", "-f", "-", stdin=json.dumps(role))
        eventually("the stranger's is gone", lambda: "foreign" not in here.names("configmaps"))
        eventually("both are said to be wrong", lambda: {"foreign", "loops-owned"} <= wrongly_owned(here))
        assert "own" in here.names("configmaps")
        here.lab.kubectl("get", "clusterrole", "loops-owned")
        here.kubectl("delete", "configmap", "loops-owner")
        eventually("what was its own is gone", lambda: "own" not in here.names("configmaps"))
    finally:
        here.lab.kubectl("delete", "configmap", "loops-owner", "-n", "default")


def test_a_replicationcontroller_keeps_its_number(here: Space) -> None:
    eventually("two", lambda: len(here.living("old")) == 2)
    here.kubectl("scale", "rc", "old", "--replicas=3")
    here.wait("jsonpath={.status.replicas}=3", "rc/old")
    here.kubectl("delete", "pod", here.living("old")[0]["metadata"]["name"])
    eventually("three again", lambda: len(here.living("old")) == 3)
    here.kubectl("delete", "rc", "old", "--cascade=foreground")
    assert here.living("old") == []


# -- who may come in -----------------------------------------------------------------------------------------


def test_a_bootstrap_token_ends_at_its_time(here: Space) -> None:
    secrets = ("-n", "kube-system", "get", "secrets", "-o", "name")
    eventually("the token is gone", lambda: "bootstrap-token-loops1" not in here.lab.kubectl(*secrets))


def test_a_new_kubelet_gets_its_certificate_by_itself(here: Space) -> None:
    """A bootstrapper may ask for a node's client certificate if it was given the role for it."""
    role = "system:certificates.k8s.io:certificatesigningrequests:nodeclient"
    group = ("--group=system:bootstrappers:e2e",)
    here.lab.kubectl("create", "clusterrolebinding", "loops-join", f"--clusterrole={role}", *group)
    here.lab.kubectl(
        "create", "clusterrolebinding", "loops-ask", "--clusterrole=system:node-bootstrapper", *group
    )
    here.lab.kubectl("label", "clusterrolebinding", "loops-join", "loops-ask", f"{LABEL}=")
    key = ec.generate_private_key(ec.SECP256R1())
    names = {NameOID.ORGANIZATION_NAME: "system:nodes", NameOID.COMMON_NAME: "system:node:loops-9"}
    subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in names.items()])
    pem = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    spec = {
        "request": base64.b64encode(pem.public_bytes(serialization.Encoding.PEM)).decode(),
        "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
        "usages": ["digital signature", "client auth"],
    }
    request = json.dumps(thing("certificates.k8s.io/v1", "CertificateSigningRequest", "loops-9", spec=spec))
    bootstrapper = ("--as=system:bootstrap:abcdef", "--as-group=system:bootstrappers:e2e")
    here.lab.kubectl("create", "-f", "-", *bootstrapper, stdin=request)
    eventually("signed", lambda: "certificate" in here.lab.get("csr", "loops-9")["status"])
    found = here.lab.get("csr", "loops-9")
    [approval] = found["status"]["conditions"]
    assert (approval["type"], approval["reason"]) == ("Approved", "AutoApproved")
    issued = x509.load_pem_x509_certificate(base64.b64decode(found["status"]["certificate"]))
    assert issued.subject == subject and issued.public_key() == key.public_key()


# -- tokens of old clusters ----------------------------------------------------------------------------------

INVALID_SINCE = "kubernetes.io/legacy-token-invalid-since"
TRACKING = ("-n", "kube-system", "configmap", "kube-apiserver-legacy-service-account-token-tracking")


@contextmanager
def cleaner(lab: Lab) -> Iterator[None]:
    """Another manager, whose one loop looks when it starts and bears a token for a second."""
    flags = ["--leader-elect=false", "--secure-port=0", "--legacy-service-account-token-clean-up-period=1s"]
    argv = [sys.executable, "-m", "controllers", f"--kubeconfig={lab.kubeconfig}", *flags]
    process = subprocess.Popen([*argv, "--controllers=legacy-service-account-token-cleaner"])
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def speaks(here: Space) -> bool:
    """Whether the token in the Secret is accepted."""
    token = base64.b64decode(here.get("secret", "old")["data"]["token"]).decode()
    server = here.lab.kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
    authority = f"--certificate-authority={here.lab.state / 'pki' / 'ca.pem'}"
    argv = ["kubectl", "--kubeconfig=/dev/null", f"--server={server}", authority, f"--token={token}"]
    return "loops:veteran" in run([*argv, "auth", "whoami"], code=None)


def test_a_token_that_nobody_uses_ends(here: Space) -> None:
    """One that its account names, as old clusters made it, is marked first, and nobody can use it; the day
    it was marked is then put back. The one that somebody made for himself stays.
    """
    tracked = here.lab.get(*TRACKING)["data"]["since"]
    metadata = {"annotations": {"kubernetes.io/service-account.name": "veteran"}}
    kind = "kubernetes.io/service-account-token"
    account = thing("v1", "ServiceAccount", "veteran", secrets=[{"name": "old"}])
    made = [thing("v1", "Secret", n, type=kind, metadata={"name": n, **metadata}) for n in ("old", "own")]
    create(here, [account, *made])
    eventually(
        "tokens", lambda: all("token" in here.get("secret", n).get("data", {}) for n in ("old", "own"))
    )
    here.lab.kubectl("patch", *TRACKING, "-p", '{"data":{"since":"2020-01-01"}}')
    try:
        with cleaner(here.lab):
            eventually("marked", lambda: INVALID_SINCE in here.get("secret", "old")["metadata"]["labels"])
        eventually("nobody", lambda: not speaks(here))
        here.kubectl("label", "secret", "old", "--overwrite", f"{INVALID_SINCE}=2020-01-01")
        with cleaner(here.lab):
            eventually("gone", lambda: "old" not in here.names("secrets"))
        assert "own" in here.names("secrets")
    finally:
        here.lab.kubectl("patch", *TRACKING, "-p", json.dumps({"data": {"since": tracked}}))


# -- what took its time -------------------------------------------------------------------------------------


def test_a_range_that_nobody_uses_goes(here: Space) -> None:
    here.lab.kubectl("wait", "--for=delete", "servicecidr/loops-range", "--timeout=60s")


def test_a_pod_of_a_node_that_is_out_of_service_is_let_go(here: Space) -> None:
    """Deleted when all this began; its kubelet would have 300 s, but somebody has said: there is none."""
    eventually("the pod is gone", lambda: "on-a-dead-node" not in here.names("pods"))
