"""Authentication: front proxy headers, client certificate, bearer token, else anonymous. First that knows
the caller wins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol
from urllib.parse import unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from apimachinery import errors
from apiserver.auth.user import ANONYMOUS_USER, EXTRA_CREDENTIAL, User, authenticated
from componentbase import tlsutil

TokenCheck = Callable[[str], User | None]


@lru_cache(4096)
def user_of_certificate(der: bytes) -> User | None:
    """CN is the user, O are the groups. The TLS layer has verified the chain; this reads, once per
    certificate.
    """
    certificate = x509.load_der_x509_certificate(der)
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    if usage is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        return None
    identity = tlsutil.identity(der)
    if not identity.common_name:
        return None
    fingerprint = f"X509SHA256={hashlib.sha256(der).hexdigest()}"
    extra = {EXTRA_CREDENTIAL: (fingerprint,)}
    return authenticated(User(identity.common_name, identity.organizations, extra=extra))


def certificates(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


@lru_cache(4096)
def issued_by(der: bytes, authority_pem: bytes) -> bool:
    """Whether one of the PEM authorities signed this certificate (the handshake trusts several)."""
    certificate = x509.load_der_x509_certificate(der)
    for authority in certificates(authority_pem):
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


@dataclass(frozen=True, slots=True)
class FrontProxy:
    """The `--requestheader-*` configuration: a proxy with a certificate of this CA says who the user is."""

    ca_pem: bytes
    allowed_names: Sequence[str] = ()
    username_headers: Sequence[str] = ("x-remote-user",)
    group_headers: Sequence[str] = ("x-remote-group",)
    extra_prefixes: Sequence[str] = ("x-remote-extra-",)

    def user(self, der: bytes, headers: Mapping[str, str]) -> User | None:
        if not issued_by(der, self.ca_pem):
            return None
        if self.allowed_names and tlsutil.identity(der).common_name not in self.allowed_names:
            return None
        name = next((headers[header] for header in self.username_headers if headers.get(header)), "")
        if not name:
            return None
        groups = [
            group.strip() for header in self.group_headers for group in headers.get(header, "").split(",")
        ]
        extra = {
            unquote(header[len(prefix) :]): tuple(value.split(","))
            for header, value in headers.items()
            for prefix in self.extra_prefixes
            if header.startswith(prefix)
        }
        return authenticated(User(name, tuple(group for group in groups if group), extra=extra))


class Authenticates(Protocol):
    """What the chain asks for the user behind a request."""

    def authenticate(self, der: bytes | None, headers: Mapping[str, str]) -> User: ...


@dataclass(frozen=True, slots=True)
class Authenticator:
    """`client_ca_pem`: whose certificates are users (None: none are). `tokens`: verifies a bearer token."""

    client_ca_pem: bytes | None = None
    front_proxy: FrontProxy | None = None
    tokens: TokenCheck | None = None
    anonymous: bool = True

    def authenticate(self, der: bytes | None, headers: Mapping[str, str]) -> User:
        """Raises 401 for a token or certificate that is nobody's, and for no identity if none is allowed."""
        if der is not None:
            if self.front_proxy is not None and (user := self.front_proxy.user(der, headers)):
                return user
            if (
                self.client_ca_pem is not None
                and issued_by(der, self.client_ca_pem)
                and (user := user_of_certificate(der))
            ):
                return user
        authorization = headers.get("authorization", "")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            user = self.tokens(token.strip()) if self.tokens else None
            if user is None:
                raise errors.unauthorized()
            return user
        if self.anonymous and der is None:
            return ANONYMOUS_USER  # what it may ask is decided by RBAC: health and version
        raise errors.unauthorized()
