"""Plugins that fill in classes and finalizers, and those that guard growth of claims and certificates."""

from __future__ import annotations

import base64
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.apiserver.harness import Harness, run

Object = dict[str, Any]
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def storage_class(name: str, **members: Any) -> Object:
    marked = {"storageclass.kubernetes.io/is-default-class": "true"}
    return {"metadata": {"name": name, "annotations": marked}, "provisioner": "p", **members}


def claim(name: str, size: str = "1Gi", **spec: Any) -> Object:
    resources = {"requests": {"storage": size}}
    return {
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": resources, **spec},
    }


def test_a_claim_gets_the_default_class_and_its_finalizer() -> None:
    async def body(api: Harness) -> None:
        before = await api.ok("POST", CLAIMS, claim("early"))
        assert "storageClassName" not in before["spec"]
        await api.ok("POST", CLASSES, storage_class("standard"))
        await api.ok("GET", CLASSES)
        made = await api.ok("POST", CLAIMS, claim("a"))
        assert made["spec"]["storageClassName"] == "standard"
        assert made["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]
        none = await api.ok("POST", CLAIMS, claim("b", storageClassName=""))
        assert none["spec"]["storageClassName"] == ""
        volume = {
            "metadata": {"name": "v"},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": "/x"},
            },
        }
        made = await api.ok("POST", "/api/v1/persistentvolumes", volume)
        assert made["metadata"]["finalizers"] == ["kubernetes.io/pv-protection"]

    run(body)


def test_an_ingress_gets_the_default_class() -> None:
    async def body(api: Harness) -> None:
        marked = {"ingressclass.kubernetes.io/is-default-class": "true"}
        kind = {"metadata": {"name": "web", "annotations": marked}, "spec": {"controller": "example.com/web"}}
        root = "/apis/networking.k8s.io/v1"
        await api.ok("POST", f"{root}/ingressclasses", kind)
        await api.ok("GET", f"{root}/ingressclasses")
        backend = {"service": {"name": "s", "port": {"number": 80}}}
        for given, expected in (({}, "web"), ({"kubernetes.io/ingress.class": "old"}, None)):
            sent = {
                "metadata": {"name": f"i{len(given)}", "annotations": given},
                "spec": {"defaultBackend": backend},
            }
            made = await api.ok("POST", f"{root}/namespaces/default/ingresses", sent)
            assert made["spec"].get("ingressClassName") == expected

    run(body)


def test_a_claim_grows_only_when_bound_and_allowed() -> None:
    async def body(api: Harness) -> None:
        await api.ok("POST", CLASSES, storage_class("fixed"))
        await api.ok("POST", CLASSES, storage_class("elastic", allowVolumeExpansion=True))
        for name in ("fixed", "elastic"):
            made = await api.ok("POST", CLAIMS, claim(name, storageClassName=name, volumeName="v"))
            bigger = {**made, "spec": {**made["spec"], "resources": {"requests": {"storage": "2Gi"}}}}
            await api.fails(422, "Invalid", "PUT", f"{CLAIMS}/{name}", bigger)  # it is not bound yet
            made["status"] = {"phase": "Bound"}
            made = await api.ok("PUT", f"{CLAIMS}/{name}/status", made)
            bigger["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
            if name == "fixed":
                status = await api.fails(403, "Forbidden", "PUT", f"{CLAIMS}/{name}", bigger)
                assert "the storageclass that provisions the pvc must support resize" in status["message"]
            else:
                await api.ok("PUT", f"{CLAIMS}/{name}", bigger)

    run(body)


def request(name: str, signer: str, organization: str = "dev") -> Object:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [
        x509.NameAttribute(NameOID.COMMON_NAME, name),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
    ]
    built = (
        x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject)).sign(key, hashes.SHA256())
    )
    pem = built.public_bytes(serialization.Encoding.PEM)
    spec = {"request": base64.b64encode(pem).decode(), "signerName": signer, "usages": ["client auth"]}
    return {"metadata": {"name": name}, "spec": spec}


async def grant(api: Harness, user: str, *rules: Object) -> None:
    role = {"metadata": {"name": user}, "rules": list(rules)}
    await api.ok("POST", f"{RBAC}/clusterroles", role)
    subject = {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}
    binding = {
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [subject],
    }
    await api.ok("POST", f"{RBAC}/clusterrolebindings", binding)
    await api.ok("GET", f"{RBAC}/clusterrolebindings")


CHANGE = {
    "apiGroups": ["certificates.k8s.io"],
    "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"],
    "verbs": ["update"],
}


def signers(verb: str, name: str) -> Object:
    return {
        "apiGroups": ["certificates.k8s.io"],
        "resources": ["signers"],
        "resourceNames": [name],
        "verbs": [verb],
    }


APPROVED = {"type": "Approved", "status": "True", "reason": "Test", "message": "m"}


def test_who_approves_and_signs_must_hold_the_signer() -> None:
    async def body(api: Harness) -> None:
        await grant(api, "ann", CHANGE, signers("approve", "example.com/*"))
        await grant(api, "bob", CHANGE, signers("sign", "example.com/one"))
        for signer, allowed in (("example.com/one", True), ("other.com/one", False)):
            name = signer.partition(".")[0]
            made = await api.ok("POST", REQUESTS, request(name, signer))
            made["status"] = {"conditions": [APPROVED]}
            path = f"{REQUESTS}/{name}/approval"
            if allowed:
                status = await api.fails(403, "Forbidden", "PUT", path, made, user="bob")
                assert (
                    'user not permitted to approve requests with signerName "example.com/one"'
                    in (status["message"])
                )
                made = await api.ok("PUT", path, made, user="ann")
                made["status"]["certificate"] = base64.b64encode(b"-----BEGIN CERTIFICATE-----").decode()
                path = f"{REQUESTS}/{name}/status"
                status = await api.fails(403, "Forbidden", "PUT", path, made, user="ann")
                assert "user not permitted to sign requests" in status["message"]
            else:
                await api.fails(403, "Forbidden", "PUT", path, made, user="ann")

    run(body)


def test_no_certificate_of_the_administrators_group_by_request() -> None:
    async def body(api: Harness) -> None:
        signer = "kubernetes.io/kube-apiserver-client"
        status = await api.fails(403, "Forbidden", "POST", REQUESTS, request("a", signer, "system:masters"))
        assert "signer with system:masters group is not allowed" in status["message"]
        await api.ok("POST", REQUESTS, request("a", signer))

    run(body)
