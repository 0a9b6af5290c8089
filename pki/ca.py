"""Keys and authorities: P-256 throughout, since every link of the cluster pays for a handshake.

`ensure_*` functions are the way in: they make what is missing, renew what no longer serves, and otherwise
change nothing. A key that can be read is never replaced; a renewed certificate is a new signature over the
old key, so what was issued under an authority stays valid when the authority's own certificate is renewed.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pki.certs import RENEW_BEFORE, YEAR, Profile, chain_flaw, flaw, public_bytes, time_flaw
from pki.files import PRIVATE, PUBLIC, write_atomic

Key = ec.EllipticCurvePrivateKey

AUTHORITY_LIFETIME = 10 * YEAR
# Hosts disagree about the time by seconds; a certificate made now must already be valid on all of them.
BACKDATE = datetime.timedelta(minutes=5)


class PKIError(Exception):
    """A file of the PKI exists but cannot be used; the message names it. It is never overwritten."""


def utc_now() -> datetime.datetime:
    """The present as an aware time."""
    return datetime.datetime.now(datetime.UTC)


def key_pem(key: Key) -> bytes:
    """PKCS #8 PEM, unencrypted: what Go, OpenSSL and this house read."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """PEM of one certificate."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def load_key(path: Path) -> Key:
    """Read a private key. Raises PKIError when it is no elliptic-curve key, FileNotFoundError when absent."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise PKIError(f"{path}: not a private key in PEM form") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PKIError(f"{path}: not an elliptic-curve key")
    return key


def load_certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a PEM file. Raises PKIError, FileNotFoundError."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise PKIError(f"{path}: not a certificate in PEM form") from error


def ensure_key(path: Path) -> Key:
    """The key at `path`, made there (0600) if absent. Tightens the mode of one that others could read."""
    try:
        key = load_key(path)
    except FileNotFoundError:
        key = ec.generate_private_key(ec.SECP256R1())
        write_atomic(path, key_pem(key), PRIVATE)
        return key
    if path.stat().st_mode & 0o077:
        path.chmod(PRIVATE)
    return key


def ensure_public_key(path: Path, key: Key) -> None:
    """Keep the public half of `key` in PEM form at `path`."""
    data = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if not path.exists() or path.read_bytes() != data:
        write_atomic(path, data, PUBLIC)


def _base(
    subject: x509.Name, issuer: x509.Name, key: Key, *, now: datetime.datetime, lifetime: datetime.timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class Authority:
    """A self-signed certificate authority and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        """The certificate, to be handed to whoever must trust this authority."""
        return certificate_pem(self.certificate)

    @classmethod
    def create(
        cls,
        common_name: str,
        key: Key,
        *,
        now: datetime.datetime | None = None,
        lifetime: datetime.timedelta = AUTHORITY_LIFETIME,
    ) -> Authority:
        """Sign a new root certificate over `key`. It may issue leaves only (path length 0)."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = _base(name, name, key, now=now or utc_now(), lifetime=lifetime)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(authority=True), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    def issue(self, profile: Profile, key: Key, *, now: datetime.datetime | None = None) -> x509.Certificate:
        """Sign a leaf certificate over `key` that says what `profile` asks for."""
        now = now or utc_now()
        builder = _base(profile.subject, self.certificate.subject, key, now=now, lifetime=profile.lifetime)
        issuer_id = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    sorted((u.value for u in profile.usages), key=lambda o: o.dotted_string)
                ),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False
            )
        )
        if profile.alternative_names:
            names = x509.SubjectAlternativeName(profile.alternative_names)
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())


@dataclass(frozen=True)
class Ensured:
    """What `ensure_leaf` did: the pair's paths and, when it signed, why."""

    certificate: Path
    key: Path
    reason: str | None


def ensure_authority(directory: Path, name: str, common_name: str, *, now: datetime.datetime) -> Authority:
    """The authority `<name>.pem` / `<name>-key.pem`, made or renewed (same key) where needed.

    Raises PKIError when the certificate belongs to another key: then one of the two files is not ours to
    replace.
    """
    path = directory / f"{name}.pem"
    if path.exists() and not (directory / f"{name}-key.pem").exists():
        raise PKIError(f"{path} has no {name}-key.pem beside it: put the key back, or remove the certificate")
    key = ensure_key(directory / f"{name}-key.pem")
    if path.exists():
        certificate = load_certificate(path)
        if public_bytes(certificate.public_key()) != public_bytes(key.public_key()):
            raise PKIError(f"{path} does not belong to {name}-key.pem")
        if chain_flaw(certificate, certificate) is None and time_flaw(certificate, now, RENEW_BEFORE) is None:
            return Authority(certificate, key)
    authority = Authority.create(common_name, key, now=now)
    write_atomic(path, authority.pem, PUBLIC)
    return authority


def ensure_leaf(
    directory: Path, name: str, profile: Profile, authority: Authority, *, now: datetime.datetime
) -> Ensured:
    """The pair `<name>.pem` / `<name>-key.pem` for `profile`, signed anew only if it is absent or has a
    flaw."""
    path, key_path = directory / f"{name}.pem", directory / f"{name}-key.pem"
    key = ensure_key(key_path)
    try:
        certificate = load_certificate(path)
        reason = flaw(certificate, key.public_key(), profile, authority.certificate, now=now)
    except FileNotFoundError:
        reason = "absent"
    except PKIError as error:
        reason = str(error)
    if reason is not None:
        write_atomic(path, certificate_pem(authority.issue(profile, key, now=now)), PUBLIC)
    return Ensured(path, key_path, reason)
