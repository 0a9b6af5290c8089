"""What each built-in signer accepts, and the certificate it makes of a request. Only the serial number
is random, the rest is pure.

Kubernetes documentation, "Certificates and Certificate Signing Requests": the rules of the signers
kubernetes.io/kube-apiserver-client, kube-apiserver-client-kubelet, kubelet-serving and legacy-unknown.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from controllers import objects as o
from controllers.objects import Object
from pki.ca import BACKDATE, Authority, certificate_pem

CLIENT = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
LEGACY = "kubernetes.io/legacy-unknown"
SHORTEST = 600.0  # seconds, of any certificate
_ENCIPHERMENT = "key encipherment"
_EXTENDED: dict[str, ObjectIdentifier] = {
    "any": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    "server auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "code signing": ExtendedKeyUsageOID.CODE_SIGNING,
    "email protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "s/mime": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "timestamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "ocsp signing": ExtendedKeyUsageOID.OCSP_SIGNING,
}
_PLAIN = {
    "digital_signature": ("signing", "digital signature"),
    "content_commitment": ("content commitment",),
    "key_encipherment": (_ENCIPHERMENT,),
    "data_encipherment": ("data encipherment",),
    "key_agreement": ("key agreement",),
    "key_cert_sign": ("cert sign",),
    "crl_sign": ("crl sign",),
}


class Refused(Exception):
    """The signer does not sign this; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for."""

    common_name: str
    organizations: tuple[str, ...]
    dns: tuple[str, ...]
    ips: tuple[str, ...]
    emails: tuple[str, ...]
    uris: tuple[str, ...]
    usages: frozenset[str]


def load(csr: Object) -> x509.CertificateSigningRequest:
    """The X.509 request inside. Raises Refused."""
    try:
        request = x509.load_pem_x509_csr(base64.b64decode(o.spec(csr)["request"]))
    except ValueError as error:
        raise Refused(f"unable to parse csr {o.name(csr)!r}: {error}") from error
    if not request.is_signature_valid:
        raise Refused(f"unable to verify the signature of csr {o.name(csr)!r}")
    return request


def asked(csr: Object, request: x509.CertificateSigningRequest) -> Asked:
    def names(oid: ObjectIdentifier) -> tuple[str, ...]:
        return tuple(str(a.value) for a in request.subject.get_attributes_for_oid(oid))

    try:
        found = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        found = x509.SubjectAlternativeName([])
    common = names(NameOID.COMMON_NAME)
    return Asked(
        common[0] if common else "",
        names(NameOID.ORGANIZATION_NAME),
        tuple(found.get_values_for_type(x509.DNSName)),
        tuple(str(ip) for ip in found.get_values_for_type(x509.IPAddress)),
        tuple(found.get_values_for_type(x509.RFC822Name)),
        tuple(found.get_values_for_type(x509.UniformResourceIdentifier)),
        frozenset(o.spec(csr).get("usages") or ()),
    )


# -- rules ---------------------------------------------------------------------------------------------------


def check(signer: str, wish: Asked) -> None:
    """Raises Refused with the signer's complaint."""
    if signer == KUBELET_CLIENT:
        _kubelet_client(wish)
    elif signer == KUBELET_SERVING:
        _kubelet_serving(wish)
    elif signer == CLIENT:
        _usages(wish, {"client auth"}, {"digital signature", _ENCIPHERMENT})


def _node(wish: Asked) -> None:
    if wish.organizations != ("system:nodes",):
        raise Refused("subject organization is not system:nodes")
    if not wish.common_name.startswith("system:node:"):
        raise Refused("subject common name does not begin with system:node: ")


def _kubelet_client(wish: Asked) -> None:
    _node(wish)
    for kind, names in (("DNS", wish.dns), ("email", wish.emails), ("IP", wish.ips), ("URI", wish.uris)):
        if names:
            raise Refused(f"{kind} subjectAltNames are not allowed")
    _usages(wish, {"digital signature", "client auth"}, {_ENCIPHERMENT})


def _kubelet_serving(wish: Asked) -> None:
    _node(wish)
    if not wish.dns and not wish.ips:
        raise Refused("DNS or IP subjectAltName is required")
    for kind, names in (("email", wish.emails), ("URI", wish.uris)):
        if names:
            raise Refused(f"{kind} subjectAltNames are not allowed")
    _usages(wish, {"digital signature", "server auth"}, {_ENCIPHERMENT})


def _usages(wish: Asked, needed: Collection[str], allowed: Collection[str]) -> None:
    if not set(needed) <= wish.usages <= {*needed, *allowed}:
        raise Refused(f"usages did not match: {sorted(wish.usages)} is not {sorted(needed)}")


def recognized(csr: Object) -> Asked | None:
    """What a kubelet asks for its own client certificate; None for any other request."""
    if o.spec(csr).get("signerName") != KUBELET_CLIENT:
        return None
    try:
        wish = asked(csr, load(csr))
        check(KUBELET_CLIENT, wish)
    except Refused:
        return None
    return wish


# -- certificates --------------------------------------------------------------------------------------------


def lifetime(csr: Object, longest: float) -> float:
    """Seconds: what was asked for, within ten minutes and the signer's limit."""
    wanted = o.spec(csr).get("expirationSeconds")
    return longest if wanted is None else max(min(float(wanted), longest), SHORTEST)


def sign(csr: Object, authority: Authority, longest: float, now: float) -> bytes:
    """The certificate in PEM form. Raises Refused."""
    request = load(csr)
    check(str(o.spec(csr).get("signerName")), asked(csr, request))
    key = request.public_key()
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise Refused("only RSA, ECDSA and Ed25519 keys are signed")
    start = dt.datetime.fromtimestamp(now, dt.UTC)
    end = min(start + dt.timedelta(seconds=lifetime(csr, longest)), authority.certificate.not_valid_after_utc)
    issuer = x509.SubjectKeyIdentifier.from_public_key(authority.key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(authority.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATE)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), False)
    )
    if (plain := _key_usage(csr)) is not None:
        builder = builder.add_extension(plain, critical=True)
    extended = [_EXTENDED[usage] for usage in o.spec(csr).get("usages") or () if usage in _EXTENDED]
    if extended:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        builder = builder.add_extension(names, critical=False)
    except x509.ExtensionNotFound:
        pass
    return certificate_pem(builder.sign(authority.key, hashes.SHA256()))


def _key_usage(csr: Object) -> x509.KeyUsage | None:
    """None for no bit at all: such an extension is malformed (RFC 5280, 4.2.1.3) and none takes it."""
    usages = set(o.spec(csr).get("usages") or ())
    flags = {flag: bool(usages & set(words)) for flag, words in _PLAIN.items()}
    agrees = flags["key_agreement"]
    if not any(flags.values()):
        return None
    return x509.KeyUsage(
        **flags,
        encipher_only=agrees and "encipher only" in usages,
        decipher_only=agrees and "decipher only" in usages,
    )


def expires_at(csr: Object) -> float | None:
    """The end of the issued certificate, seconds since the epoch; None when there is none to read."""
    text = o.status(csr).get("certificate")
    if not text:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(base64.b64decode(text))
    except ValueError:
        return None
    return certificate.not_valid_after_utc.timestamp()
