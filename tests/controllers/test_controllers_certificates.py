"""Certificate requests: rules, certificates, clean-up; and tokens in Secrets."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controllers import accounttokens
from controllers import objects as o
from controllers.accounttokens import TokensController
from controllers.certificates import CSRApprover, CSRSigner, signing
from controllers.certificates.controllers import is_due
from controllers.options import Options
from kubeclient.resources import CERTIFICATESIGNINGREQUESTS, SECRETS, SERVICEACCOUNTS
from pki.ca import Authority, certificate_pem, key_pem
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import MemoryApi, Object
from tests.controllers.world import World

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = o.parse_time(make.START)
START = dt.datetime.fromtimestamp(NOW, dt.UTC)
CLIENT_USAGES = ("digital signature", "client auth")
SERVING_USAGES = ("digital signature", "server auth", "key encipherment")


def csr(
    signer: str = signing.KUBELET_CLIENT,
    *,
    cn: str = "system:node:n1",
    org: str = "system:nodes",
    sans: tuple[x509.GeneralName, ...] = (),
    usages: tuple[str, ...] = CLIENT_USAGES,
    conditions: tuple[str, ...] = (),
    **spec: Any,
) -> Object:
    name = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, org), x509.NameAttribute(NameOID.COMMON_NAME, cn)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(name))
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    pem = builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    listed = [{"type": kind, "status": "True", "lastUpdateTime": make.START} for kind in conditions]
    return {
        "metadata": make.meta("csr", ""),
        "spec": {
            "request": base64.b64encode(pem).decode(),
            "signerName": signer,
            "usages": list(usages),
            "username": "system:node:n1",
            **spec,
        },
        "status": {"conditions": listed} if listed else {},
    }


DNS, IP = x509.DNSName("n1"), x509.IPAddress(ipaddress.ip_address("10.0.0.1"))
MAIL = x509.RFC822Name("a@b.c")


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (csr(), ""),
        (csr(usages=(*CLIENT_USAGES, "key encipherment")), ""),
        (csr(usages=("client auth",)), "usages did not match"),
        (csr(usages=(*CLIENT_USAGES, "server auth")), "usages did not match"),
        (csr(org="system:masters"), "organization"),
        (csr(cn="n1"), "common name"),
        (csr(sans=(DNS,)), "DNS subjectAltNames are not allowed"),
        (csr(signing.KUBELET_SERVING, usages=SERVING_USAGES, sans=(DNS, IP)), ""),
        (csr(signing.KUBELET_SERVING, usages=SERVING_USAGES), "DNS or IP subjectAltName is required"),
        (csr(signing.KUBELET_SERVING, usages=SERVING_USAGES, sans=(DNS, MAIL)), "email subjectAltNames"),
        (csr(signing.KUBELET_SERVING, usages=CLIENT_USAGES, sans=(DNS,)), "usages did not match"),
        (csr(signing.CLIENT, cn="jane", org="people"), ""),
        (csr(signing.CLIENT, cn="jane", org="people", usages=("server auth",)), "usages did not match"),
        ({**csr(), "spec": {**csr()["spec"], "request": "bm9uZQ=="}}, "unable to parse"),
    ],
)
def test_what_the_signers_sign(request_: Object, complaint: str) -> None:
    authority = Authority.create("ca", KEY, now=START)
    if complaint:
        with pytest.raises(signing.Refused, match=complaint):
            signing.sign(request_, authority, 3600, NOW)
        return
    found = x509.load_pem_x509_certificate(signing.sign(request_, authority, 3600, NOW))
    found.verify_directly_issued_by(authority.certificate)
    assert found.subject == signing.load(request_).subject
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    extended = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert (ExtendedKeyUsageOID.SERVER_AUTH in extended) == ("server auth" in request_["spec"]["usages"])
    assert signing.asked(request_, signing.load(request_)).dns == (
        ("n1",) if "server auth" in request_["spec"]["usages"] else ()
    )


def test_a_certificate_without_plain_usages_has_no_empty_list_of_them() -> None:
    """An empty KeyUsage is malformed (RFC 5280, 4.2.1.3), and TLS libraries refuse the certificate."""
    authority = Authority.create("ca", KEY, now=START)
    request = csr(signing.CLIENT, cn="jane", org="people", usages=("client auth",))
    pem = signing.sign(request, authority, 3600, NOW)
    with pytest.raises(x509.ExtensionNotFound):
        x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.KeyUsage)
    usage = x509.load_pem_x509_certificate(signing.sign(csr(), authority, 3600, NOW))
    assert usage.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature


@pytest.mark.parametrize(("asked", "given"), [(None, 86400), (3600, 3600), (10**9, 86400), (5, 600)])
def test_lifetimes(asked: int | None, given: float) -> None:
    request = csr() if asked is None else csr(expirationSeconds=asked)
    assert signing.lifetime(request, 86400) == given
    authority = Authority.create("ca", KEY, now=START, lifetime=dt.timedelta(seconds=700))
    pem = signing.sign(request, authority, 86400, NOW)
    assert x509.load_pem_x509_certificate(pem).not_valid_after_utc <= START + dt.timedelta(seconds=700)


def test_clean_up() -> None:
    pem = signing.sign(csr(), Authority.create("ca", KEY, now=START), 7200, NOW)
    issued = csr(conditions=("Approved",))
    issued["status"]["certificate"] = base64.b64encode(pem).decode()
    hour, day = 3601, 86401
    assert not is_due(csr(), NOW + hour) and is_due(csr(), NOW + day)
    assert is_due(csr(conditions=("Denied",)), NOW + hour)
    assert not is_due(csr(conditions=("Approved",)), NOW + hour)  # approved, and nobody has signed it yet
    assert not is_due(issued, NOW + 10) and is_due(issued, NOW + hour)
    issued["status"]["conditions"][0]["lastUpdateTime"] = "2027-01-01T00:00:00Z"
    assert is_due(issued, NOW + 7201)  # the certificate has ended


class Reviewing(MemoryApi):
    """Answers access reviews: the subresources in `allowed` may be created."""

    allowed: tuple[str, ...] = ()

    def _create(self, gvr: Any, namespace: str, body: Object) -> Object:
        if gvr.kind == "SubjectAccessReview":
            asked = body["spec"]["resourceAttributes"]["subresource"]
            return {**body, "status": {"allowed": asked in self.allowed}}
        return super()._create(gvr, namespace, body)

    def _update(self, gvr: Any, body: Object, subresource: str) -> Object:
        return super()._update(gvr, body, "status" if subresource == "approval" else subresource)


@pytest.mark.parametrize(
    ("allowed", "username", "message"),
    [
        (("selfnodeclient",), "system:node:n1", "Auto approving self kubelet client certificate"),
        (("selfnodeclient",), "system:bootstrap:abc", ""),
        (("nodeclient",), "system:bootstrap:abc", "Auto approving kubelet client certificate"),
        ((), "system:node:n1", ""),
    ],
)
def test_approval_asks_rbac_and_the_signer_follows(
    tmp_path: Path, allowed: tuple[str, ...], username: str, message: str
) -> None:
    cert, key = tmp_path / "ca.pem", tmp_path / "ca-key.pem"

    async def scenario() -> None:
        api = Reviewing()
        api.allowed = allowed
        world = World(api)
        authority = Authority.create("ca", KEY, now=dt.datetime.fromtimestamp(world.clock.now(), dt.UTC))
        cert.write_bytes(certificate_pem(authority.certificate))
        key.write_bytes(key_pem(KEY))
        options = Options(cluster_signing_cert_file=str(cert), cluster_signing_key_file=str(key))
        api.put(CERTIFICATESIGNINGREQUESTS, csr(username=username))
        async with world.running(CSRApprover, CSRSigner, options=options):
            await world.settle()
            found = api.get(CERTIFICATESIGNINGREQUESTS, "csr")
            assert found is not None
            conditions = o.status(found).get("conditions") or []
            assert [c["message"].startswith(message) for c in conditions] == [True] * bool(message)
            assert bool(o.status(found).get("certificate")) == bool(message)

    run(scenario())


def test_an_approved_request_the_signer_refuses_fails(tmp_path: Path) -> None:
    cert, key = tmp_path / "ca.pem", tmp_path / "ca-key.pem"
    cert.write_bytes(certificate_pem(Authority.create("ca", KEY, now=START).certificate))
    key.write_bytes(key_pem(KEY))

    async def scenario() -> None:
        world = World()
        options = Options(cluster_signing_cert_file=str(cert), cluster_signing_key_file=str(key))
        world.api.put(CERTIFICATESIGNINGREQUESTS, csr(org="system:masters", conditions=("Approved",)))
        async with world.running(CSRSigner, options=options):
            await world.settle()
            found = world.api.get(CERTIFICATESIGNINGREQUESTS, "csr")
            assert found is not None and o.condition(found, "Failed") is not None
            assert "certificate" not in o.status(found)

    run(scenario())


# -- tokens --------------------------------------------------------------------------------------------------


def test_a_secret_gets_its_token_and_goes_with_its_account(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(key_pem(KEY))

    async def scenario() -> None:
        world = World()
        account = world.api.put(SERVICEACCOUNTS, {"metadata": make.meta("robot")})
        notes = {accounttokens.ACCOUNT: "robot"}
        secret = {"metadata": make.meta("s", annotations=notes), "type": accounttokens.TYPE}
        world.api.put(SECRETS, secret)
        stray = {accounttokens.ACCOUNT: "nobody"}
        world.api.put(SECRETS, {"metadata": make.meta("t", annotations=stray), "type": accounttokens.TYPE})
        world.api.put(SECRETS, {"metadata": make.meta("u", annotations=stray), "type": "Opaque"})
        options = Options(service_account_private_key_file=str(path), root_ca_pem="PEM")
        async with world.running(TokensController, options=options):
            await world.settle()
            assert world.api.get(SECRETS, "t", "default") is None
            assert world.api.get(SECRETS, "u", "default") is not None
            found = world.api.get(SECRETS, "s", "default")
            assert found is not None
            data = {name: base64.b64decode(value) for name, value in found["data"].items()}
            assert (data["ca.crt"], data["namespace"]) == (b"PEM", b"default")
            claims = jwt.decode(data["token"], KEY.public_key(), ["ES256"])
            assert claims["sub"] == "system:serviceaccount:default:robot"
            assert claims["kubernetes.io/serviceaccount/service-account.uid"] == o.uid(account)
            assert claims["kubernetes.io/serviceaccount/secret.name"] == "s"
            writes = len(world.api.writes)
            await world.pass_time(3)
            assert len(world.api.writes) == writes
            world.api.drop(SERVICEACCOUNTS, "robot", "default")
            await world.settle()
            assert world.api.get(SECRETS, "s", "default") is None

    run(scenario())


def test_what_cannot_sign_is_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "key.pem"
    path.write_bytes(pem)
    with pytest.raises(accounttokens.UnusableKey, match="only RSA and ECDSA"):
        accounttokens.load_signing_key(path)
