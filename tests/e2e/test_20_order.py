"""What keeps a cluster in order: garbage, namespaces, quotas, accounts, certificates, roles, nodes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.lab import Lab, eventually, run
from tests.e2e.manifests import manifest, pod_spec, workload
from tests.e2e.space import Space, space


@pytest.fixture(scope="module")
def here(lab: Lab) -> Iterator[Space]:
    with space(lab, "order") as made:
        made.apply(manifest("v1", "Pod", "lost", spec=pod_spec(nodeName="nowhere")))
        yield made


# -- garbage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["background", "foreground"])
def test_what_an_owner_made_goes_with_it(here: Space, how: str) -> None:
    here.apply(workload("Deployment", how, replicas=2))
    here.rolled_out(f"deployment/{how}")
    here.kubectl("delete", "deployment", how, f"--cascade={how}", "--timeout=60s")
    if how == "foreground":  # the owner was the last to go
        assert here.items("replicasets,pods", "-l", f"app={how}") == []
    eventually("nothing left", lambda: here.items("replicasets,pods", "-l", f"app={how}") == [])


def test_orphans_stay_and_are_adopted(here: Space) -> None:
    here.apply(workload("Deployment", "parent", replicas=1))
    here.rolled_out("deployment/parent")
    before = here.names("pods", "-l", "app=parent")
    here.kubectl("delete", "deployment", "parent", "--cascade=orphan")
    [orphan] = here.items("replicasets", "-l", "app=parent")
    eventually(
        "no owner",
        lambda: not here.items("replicasets", "-l", "app=parent")[0]["metadata"].get("ownerReferences"),
    )
    here.apply(workload("Deployment", "parent", replicas=1))
    here.rolled_out("deployment/parent")
    [adopted] = here.items("replicasets", "-l", "app=parent")
    assert adopted["metadata"]["uid"] == orphan["metadata"]["uid"]
    assert here.names("pods", "-l", "app=parent") == before
    here.kubectl("delete", "deployment", "parent")


def test_a_namespace_goes_with_everything_in_it(lab: Lab) -> None:
    with space(lab, "doomed") as made:
        made.apply(workload("Deployment", "web", replicas=2), workload("StatefulSet", "db", serviceName="db"))
        made.kubectl("create", "configmap", "one", "--from-literal=a=b")
        made.rolled_out("deployment/web")
    assert "NotFound" in lab.kubectl("get", "namespace", "doomed", code=1)


# -- quotas, accounts ----------------------------------------------------------------------------------------


def test_a_quota_counts_and_refuses(here: Space) -> None:
    here.kubectl("create", "quota", "few", "--hard=configmaps=3")
    eventually("counted", lambda: here.get("quota", "few")["status"].get("used") == {"configmaps": "1"})
    here.kubectl("create", "configmap", "second")
    here.kubectl("create", "configmap", "third")
    text = here.kubectl("create", "configmap", "fourth", code=1)
    assert "exceeded quota: few, requested: configmaps=1, used: configmaps=3, limited: configmaps=3" in text
    here.kubectl("delete", "configmap", "second", "third")
    eventually("counted again", lambda: here.get("quota", "few")["status"]["used"] == {"configmaps": "1"})
    here.kubectl("delete", "quota", "few")


def test_accounts_and_the_root_ca_come_back(here: Space) -> None:
    here.kubectl("delete", "serviceaccount", "default")
    here.kubectl("delete", "configmap", "kube-root-ca.crt")
    eventually("the account", lambda: "default" in here.names("serviceaccounts"))
    eventually("the root CA", lambda: "kube-root-ca.crt" in here.names("configmaps"))
    published = here.get("configmap", "kube-root-ca.crt")["data"]["ca.crt"]
    assert published == (here.lab.state / "pki" / "ca.pem").read_text()


def test_a_token_in_a_secret_speaks_for_its_account(here: Space) -> None:
    here.kubectl("create", "serviceaccount", "robot")
    metadata = {"annotations": {"kubernetes.io/service-account.name": "robot"}}
    here.apply(
        manifest("v1", "Secret", "robot", metadata=metadata, type="kubernetes.io/service-account-token")
    )
    eventually("a token", lambda: "token" in here.get("secret", "robot").get("data", {}))
    token = base64.b64decode(here.get("secret", "robot")["data"]["token"]).decode()
    assert "system:serviceaccount:order:robot" in run(
        [*nobody(here.lab), f"--token={token}", "auth", "whoami"]
    )
    here.kubectl("delete", "serviceaccount", "robot")
    eventually("the secret is gone too", lambda: "robot" not in here.names("secrets"))


def nobody(lab: Lab) -> list[str]:
    """kubectl without anybody's credentials."""
    server = lab.kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
    authority = lab.state / "pki" / "ca.pem"
    return ["kubectl", "--kubeconfig=/dev/null", f"--server={server}", f"--certificate-authority={authority}"]


# -- certificates and roles ----------------------------------------------------------------------------------


def test_a_certificate_is_asked_for_approved_signed_and_used(here: Space, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jane")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = request.public_bytes(serialization.Encoding.PEM)
    spec = {
        "request": base64.b64encode(pem).decode(),
        "signerName": "kubernetes.io/kube-apiserver-client",
        "usages": ["client auth"],
        "expirationSeconds": 3600,
    }
    here.apply(manifest("certificates.k8s.io/v1", "CertificateSigningRequest", "jane", spec=spec))
    assert "Pending" in here.kubectl("get", "csr", "jane")
    here.kubectl("certificate", "approve", "jane")
    eventually("signed", lambda: "certificate" in here.get("csr", "jane")["status"])
    assert "Approved,Issued" in here.kubectl("get", "csr", "jane")
    cert_file, key_file = tmp_path / "jane.pem", tmp_path / "jane-key.pem"
    cert_file.write_bytes(base64.b64decode(here.get("csr", "jane")["status"]["certificate"]))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    base = [*nobody(here.lab), f"--client-certificate={cert_file}", f"--client-key={key_file}"]
    assert "jane" in run([*base, "auth", "whoami"])
    assert 'User "jane" cannot list resource "pods"' in run([*base, "get", "pods"], code=1)
    here.kubectl("create", "rolebinding", "jane", "--clusterrole=view", "--user=jane")
    eventually("the binding works", lambda: "jane" not in run([*base, "-n", here.name, "get", "pods"]))
    here.kubectl("delete", "csr", "jane")


def test_a_request_that_is_denied_is_never_signed(here: Space) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "joe")])
    pem = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    encoded = base64.b64encode(pem.public_bytes(serialization.Encoding.PEM)).decode()
    spec = {
        "request": encoded,
        "signerName": "kubernetes.io/kube-apiserver-client",
        "usages": ["client auth"],
    }
    here.apply(manifest("certificates.k8s.io/v1", "CertificateSigningRequest", "joe", spec=spec))
    here.kubectl("certificate", "deny", "joe")
    assert "Denied" in here.kubectl("get", "csr", "joe")
    assert "certificate" not in here.get("csr", "joe")["status"]
    here.kubectl("delete", "csr", "joe")


def test_an_aggregated_role_takes_in_what_is_labelled(here: Space) -> None:
    label = "rbac.authorization.k8s.io/aggregate-to-view"
    here.kubectl(
        "create", "clusterrole", "e2e-things", "--verb=get,list", "--resource=leases.coordination.k8s.io"
    )
    here.kubectl("label", "clusterrole", "e2e-things", f"{label}=true")
    try:
        eventually("in view", lambda: "leases" in json.dumps(here.get("clusterrole", "view")["rules"]))
    finally:
        here.kubectl("delete", "clusterrole", "e2e-things")
    eventually("no longer", lambda: "leases" not in json.dumps(here.get("clusterrole", "view")["rules"]))


def test_cluster_info_is_signed_by_bootstrap_tokens(lab: Lab) -> None:
    kubeconfig = lab.kubectl("config", "view", "--minify", "--flatten", "-o", "yaml")
    text = kubeconfig.split("users:")[0]
    lab.kubectl(
        "-n", "kube-public", "create", "configmap", "cluster-info", f"--from-literal=kubeconfig={text}"
    )
    literals = ["token-id=abcdef", "token-secret=0123456789abcdef", "usage-bootstrap-signing=true"]
    lab.kubectl(
        "-n",
        "kube-system",
        "create",
        "secret",
        "generic",
        "bootstrap-token-abcdef",
        "--type=bootstrap.kubernetes.io/token",
        *(f"--from-literal={each}" for each in literals),
    )
    where = ("-n", "kube-public", "configmap", "cluster-info")
    eventually("signed", lambda: "jws-kubeconfig-abcdef" in lab.get(*where)["data"])
    lab.kubectl("-n", "kube-system", "delete", "secret", "bootstrap-token-abcdef")
    eventually("no longer", lambda: "jws-kubeconfig-abcdef" not in lab.get(*where)["data"])
    lab.kubectl("-n", "kube-public", "delete", "configmap", "cluster-info")


# -- disruption and nodes ------------------------------------------------------------------------------------


def test_draining_waits_for_the_budget(here: Space) -> None:
    here.apply(workload("Deployment", "calm", replicas=2))
    here.kubectl("create", "poddisruptionbudget", "calm", "--selector=app=calm", "--min-available=2")
    here.rolled_out("deployment/calm")
    node = here.living("calm")[0]["spec"]["nodeName"]
    eventually("none may go", lambda: here.get("pdb", "calm")["status"].get("currentHealthy") == 2)
    drain = (
        "drain",
        node,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--force",
        "--pod-selector=app=calm",
    )
    try:
        text = here.lab.kubectl(*drain, "--timeout=6s", code=1)
        assert "Cannot evict pod as it would violate the pod's disruption budget" in text
        here.kubectl("patch", "pdb", "calm", "-p", '{"spec":{"minAvailable":1}}')
        eventually("one may go", lambda: here.get("pdb", "calm")["status"]["disruptionsAllowed"] == 1)
        text = here.lab.kubectl(*drain, "--timeout=90s")
        assert f"node/{node} drained" in text
        assert all(pod["spec"]["nodeName"] != node for pod in here.living("calm"))
    finally:
        here.lab.kubectl("uncordon", node)
    here.kubectl("delete", "deployment,pdb", "calm")


def test_pods_leave_a_node_that_falls_silent(here: Space) -> None:
    """The lab bears 40 s of silence, as the real manager does by default."""
    unreachable = {
        "key": "node.kubernetes.io/unreachable",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 1,
    }
    here.apply(workload("Deployment", "mover", pod={"tolerations": [unreachable]}, replicas=1))
    here.rolled_out("deployment/mover")
    [pod] = here.living("mover")
    node = pod["spec"]["nodeName"]
    here.lab.hardway("stop", node, "kubelet")
    try:
        here.lab.kubectl("wait", "--for=condition=Ready=Unknown", f"node/{node}", "--timeout=120s")
        eventually("another pod elsewhere", lambda: moved(here, node), timeout=90)
        taints = here.lab.get("node", node)["spec"]["taints"]
        assert {t["effect"] for t in taints if t["key"] == unreachable["key"]} == {"NoSchedule", "NoExecute"}
        assert "TaintManagerEviction" in here.reasons(pod["metadata"]["name"])
    finally:
        here.lab.hardway("start", node, "kubelet")
    here.lab.kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=90s")
    eventually("no taints", lambda: not here.lab.get("node", node)["spec"].get("taints"))
    here.kubectl("delete", "deployment", "mover")


def moved(here: Space, node: str) -> bool:
    pods = here.living("mover")
    return any(p["spec"]["nodeName"] != node and p["status"]["phase"] == "Running" for p in pods)


def test_an_ephemeral_volume_lives_as_long_as_its_pod(here: Space) -> None:
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    volumes = [{"name": "tmp", "ephemeral": {"volumeClaimTemplate": {"spec": claim}}}]
    mounts = {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp/it"}]}
    spec = pod_spec("echo x > /tmp/it/x; exec sleep 3600", volumes=volumes, container=mounts)
    here.apply(manifest("v1", "Pod", "scratch", spec=spec))
    here.wait("condition=Ready", "pod/scratch")
    assert here.names("pvc") == ["scratch-tmp"]
    here.kubectl("delete", "pod", "scratch", "--now")
    eventually("claim and volume are gone", lambda: here.names("pvc") == [] and here.volumes() == [])


def test_a_pod_whose_node_is_not_there_is_collected(here: Space) -> None:
    """It was made before the first test here: a node has to be missing for 40 s."""
    eventually("gone", lambda: "lost" not in here.names("pods"), 90)
