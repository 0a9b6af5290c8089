"""TLS contexts as every link of the cluster uses them, and the identity a client certificate carries.

Certificates and keys are given as a path, or as PEM bytes (kubeconfigs embed them). TLS 1.2 is the oldest
version spoken.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from componentbase.peerverify import LenientContext, lenient

PemSource = str | Path | bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a certificate says its holder is: the user is the common name, the groups are the organizations."""

    common_name: str
    organizations: tuple[str, ...]
    der: bytes


def server_context(
    cert: PemSource,
    key: PemSource,
    client_ca: PemSource | None = None,
    require_client: bool = False,
    *,
    report_unverified: bool = False,
) -> ssl.SSLContext:
    """A context for a listener. With `client_ca` clients are asked for a certificate, and may go without
    unless `require_client`.

    A certificate that does not verify ends the handshake; with `report_unverified` it does not, is not
    shown to the application either, and the reason is in the scope as `peer_cert_error` (see
    `componentbase.peerverify`). Raises OSError or ssl.SSLError naming the file that cannot be used.
    """
    if (require_client or report_unverified) and client_ca is None:
        raise ValueError("client certificates cannot be judged without a CA to verify them by")
    if require_client and report_unverified:
        raise ValueError("a certificate cannot be required and its failure only be reported")
    context = LenientContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    _load_chain(context, cert, key)
    if client_ca is not None:
        _load_ca(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL
    if report_unverified:
        lenient(context)
    return context


def peer(connection: ssl.SSLObject) -> dict[str, bytes | str | None]:
    """What an application is told of the other side: `peer_cert_der` only if the certificate verified, else
    `peer_cert_error`.
    """
    der = connection.getpeercert(binary_form=True)
    verifier = getattr(connection.context, "verifier", None)
    if der is not None and verifier is not None and (reason := verifier.reason(der)):
        return {"peer_cert_der": None, "peer_cert_error": reason}
    return {"peer_cert_der": der}


def client_context(
    ca: PemSource | None,
    cert: PemSource | None = None,
    key: PemSource | None = None,
    *,
    insecure: bool = False,
) -> ssl.SSLContext:
    """A context for dialling. Without `ca` the system's roots are trusted; `insecure` verifies nothing at
    all.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca is None:
        context.load_default_certs()
    else:
        _load_ca(context, ca)
    if cert is not None:
        _load_chain(context, cert, key)
    return context


def identity(der: bytes) -> Identity:
    """Read the subject of a DER certificate. Raises ValueError when it is none."""
    # Only servers read identities; agents inside pods do without the library.
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    subject = x509.load_der_x509_certificate(der).subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    organizations = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return Identity(
        common_name=str(names[0].value) if names else "",
        organizations=tuple(str(each.value) for each in organizations),
        der=der,
    )


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])


def _load_ca(context: ssl.SSLContext, ca: PemSource) -> None:
    if isinstance(ca, bytes):
        context.load_verify_locations(cadata=ca.decode("ascii"))
        return
    try:
        context.load_verify_locations(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise _named(error, ca) from error


def _load_chain(context: ssl.SSLContext, cert: PemSource, key: PemSource | None) -> None:
    with _as_file(cert) as cert_path, _as_file(key) as key_path:
        try:
            context.load_cert_chain(str(cert_path), key_path)
        except (OSError, ssl.SSLError) as error:
            named = "" if isinstance(cert, bytes) else cert
            raise _named(error, f"{named} with its key") from error


def _named(error: OSError, what: object) -> OSError:
    return type(error)(f"cannot load {what}: {error.strerror or error}")


@contextlib.contextmanager
def _as_file(pem: PemSource | None) -> Iterator[str | None]:
    """The ssl module reads chains from files only; bytes pass through an anonymous one that never touches a
    disk.
    """
    if not isinstance(pem, bytes):
        yield None if pem is None else str(pem)
        return
    handle = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(handle, pem)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
