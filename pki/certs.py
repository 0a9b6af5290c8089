"""What a certificate must say (`Profile`), and whether one that exists still says it (`flaw`).

Both halves are pure: issuing needs a key and a clock, which the caller brings (see `pki.ca`).
"""

from __future__ import annotations

import datetime
import enum
import ipaddress
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

YEAR = datetime.timedelta(days=365)
RENEW_BEFORE = datetime.timedelta(days=7)


class Usage(enum.Enum):
    """Extended key usages of RFC 5280 section 4.2.1.12 that Kubernetes and etcd look at."""

    SERVER = ExtendedKeyUsageOID.SERVER_AUTH
    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One leaf certificate as its verifiers need it.

    `common_name` is the user and `organizations` are the groups when the certificate authenticates a client
    (Kubernetes "X509 client certificates"); `dns` and `ips` are what a server may be dialled as (RFC 6125:
    the common name is not looked at).
    """

    common_name: str
    organizations: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    usages: frozenset[Usage] = field(default_factory=lambda: frozenset({Usage.CLIENT}))
    lifetime: datetime.timedelta = YEAR

    @property
    def subject(self) -> x509.Name:
        """The subject name: organizations first, as openssl prints it for the certificates of the hard
        way."""
        parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in self.organizations]
        return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, self.common_name)])

    @property
    def alternative_names(self) -> list[x509.GeneralName]:
        """The subject alternative names, DNS names before addresses."""
        addresses = [x509.IPAddress(ipaddress.ip_address(ip)) for ip in self.ips]
        return [*(x509.DNSName(name) for name in self.dns), *addresses]


def public_bytes(key: PublicKeyTypes) -> bytes:
    """The key's SubjectPublicKeyInfo, the form in which two public keys are compared."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _usages(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier]:
    try:
        return frozenset(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return frozenset()


def _names(certificate: x509.Certificate) -> set[x509.GeneralName]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return set()


def time_flaw(
    certificate: x509.Certificate, now: datetime.datetime, renew_before: datetime.timedelta
) -> str | None:
    """Why the validity period does not do at `now` (an aware time), or None."""
    if now < certificate.not_valid_before_utc:
        return f"not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    if now >= certificate.not_valid_after_utc:
        return f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if now + renew_before >= certificate.not_valid_after_utc:
        return f"expires on {certificate.not_valid_after_utc:%Y-%m-%d}"
    return None


def chain_flaw(certificate: x509.Certificate, issuer: x509.Certificate) -> str | None:
    """Why `certificate` is not issued by `issuer` (name and signature, RFC 5280 section 6.1.3), or None."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return f"is not signed by {issuer.subject.rfc4514_string()}"
    return None


def flaw(
    certificate: x509.Certificate,
    key: ec.EllipticCurvePublicKey,
    profile: Profile,
    issuer: x509.Certificate,
    *,
    now: datetime.datetime,
    renew_before: datetime.timedelta = RENEW_BEFORE,
) -> str | None:
    """The first reason why an existing certificate cannot serve as `profile`, or None when it can.

    A certificate may say more than the profile (further names, further usages); it must not say less.
    """
    if public_bytes(certificate.public_key()) != public_bytes(key):
        return "belongs to another key"
    if (reason := chain_flaw(certificate, issuer)) is not None:
        return reason
    if (reason := time_flaw(certificate, now, renew_before)) is not None:
        return reason
    if certificate.subject != profile.subject:
        return f"subject is {certificate.subject.rfc4514_string()}"
    missing_names = [name for name in profile.alternative_names if name not in _names(certificate)]
    if missing_names:
        return f"does not cover {', '.join(str(name.value) for name in missing_names)}"
    missing_usages = [usage.name for usage in profile.usages if usage.value not in _usages(certificate)]
    if missing_usages:
        return f"lacks usage {', '.join(sorted(missing_usages))}"
    return None
