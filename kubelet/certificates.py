"""The kubelet's certificates: the client's, asked for with a bootstrap credential, and the server's;
both renewed before they end.

TLS bootstrap: a private key is made here and never leaves; a CertificateSigningRequest named after it asks
the cluster for a certificate; key and request survive a restart, so a kubelet killed while it waits asks for
the same thing again. The result is `<cert-dir>/kubelet-client-current.pem` (or `kubelet-server-...`), a
link that changes in one step; the kubeconfig refers to the client's.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import logging
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from apimachinery.errors import StatusError
from componentbase.backoff import Backoff
from componentbase.clock import Clock
from kubeclient.resources import CERTIFICATESIGNINGREQUESTS
from kubeclient.rest import ConnectionFailed, RestClient

log = logging.getLogger(__name__)

WAIT = 900.0  # seconds a request may stay undecided before another is made
EARLIEST, LATEST = 0.7, 0.9  # shares of a certificate's life between which it is renewed


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a certificate is for: how its files are called, who signs it, and what it must say beside
    the node's user."""

    prefix: str
    signer: str
    usages: tuple[str, ...]
    request_prefix: str
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


CLIENT = Purpose(
    "kubelet-client",
    "kubernetes.io/kube-apiserver-client-kubelet",
    ("digital signature", "client auth"),
    "node-csr-",
)


def serving(node: str, addresses: Sequence[str]) -> Purpose:
    """The certificate of the kubelet's server. No controller approves requests for it: an administrator
    does, who knows whether the node has these addresses."""
    usages = ("digital signature", "server auth")
    return Purpose(
        "kubelet-server", "kubernetes.io/kubelet-serving", usages, "csr-", (node,), tuple(addresses)
    )


class CertificateRefused(Exception):
    """The cluster has denied or failed a request; the message is the cluster's."""


def rotation_moment(certificate: x509.Certificate, share: float) -> float:
    """When to renew (epoch seconds): `share` in [0, 1) spreads nodes over the span from 70 to 90 % of its
    life.
    """
    begin = certificate.not_valid_before_utc.timestamp()
    end = certificate.not_valid_after_utc.timestamp()
    return begin + (end - begin) * (EARLIEST + (LATEST - EARLIEST) * share)


def signing_request(key: ec.EllipticCurvePrivateKey, node: str, purpose: Purpose = CLIENT) -> dict[str, Any]:
    """The CertificateSigningRequest object for this node; the same key and content give the same name."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}"),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    others: list[x509.GeneralName] = [x509.DNSName(name) for name in purpose.names]
    others += [x509.IPAddress(ipaddress.ip_address(address)) for address in purpose.addresses]
    if others:
        builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
    request = builder.sign(key, hashes.SHA256())
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    content = " ".join((node, *purpose.names, *purpose.addresses))
    digest = hashlib.sha256(public + content.encode()).hexdigest()[:32]
    pem = request.public_bytes(serialization.Encoding.PEM)
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": f"{purpose.request_prefix}{digest}"},
        "spec": {
            "signerName": purpose.signer,
            "request": base64.b64encode(pem).decode(),
            "usages": list(purpose.usages),
        },
    }


def decision(request: dict[str, Any]) -> bytes | None:
    """The certificate chain of a request, None while nobody has decided. Raises `CertificateRefused`."""
    status = request.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] in ("Denied", "Failed"):
            said = condition.get("message") or condition.get("reason") or ""
            raise CertificateRefused(f"certificate request {condition['type'].lower()}: {said}")
    held = status.get("certificate")
    return base64.b64decode(held) if held else None


class CertificateStore:
    """Where the certificate for one purpose and its key are. Every method blocks."""

    def __init__(self, directory: Path, purpose: Purpose = CLIENT) -> None:
        self.directory, self.purpose = directory, purpose
        self.current = directory / f"{purpose.prefix}-current.pem"
        self._pending = directory / f"{purpose.prefix}.key.tmp"

    def certificate(self, now: float) -> x509.Certificate | None:
        """The certificate in use; None when there is none, or it is no longer (or not yet) valid."""
        try:
            found = x509.load_pem_x509_certificate(self.current.read_bytes())
        except (OSError, ValueError):
            return None
        moment = datetime.fromtimestamp(now, UTC)
        return found if found.not_valid_before_utc <= moment < found.not_valid_after_utc else None

    def pending_key(self) -> ec.EllipticCurvePrivateKey:
        """The key that is being asked for, made when there is none."""
        try:
            key = serialization.load_pem_private_key(self._pending.read_bytes(), None)
            if isinstance(key, ec.EllipticCurvePrivateKey):
                return key
        except (OSError, ValueError):
            log.info("making a new private key")
        made = ec.generate_private_key(ec.SECP256R1())
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        _write_secret(self._pending, _private_pem(made))
        return made

    def drop_pending(self) -> None:
        self._pending.unlink(missing_ok=True)

    def store(self, chain: bytes, key: ec.EllipticCurvePrivateKey, now: float) -> None:
        """Make this the certificate in use, in one step. Raises ValueError when key and chain do not fit."""
        leaf = x509.load_pem_x509_certificate(chain)
        if leaf.public_key() != key.public_key():
            raise ValueError("the certificate is for another key")
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d-%H-%M-%S")
        dated = self.directory / f"{self.purpose.prefix}-{stamp}.pem"
        _write_secret(dated, chain.rstrip() + b"\n" + _private_pem(key))
        link = self.current.with_name(f".{self.current.name}")
        link.unlink(missing_ok=True)
        link.symlink_to(dated.name)
        link.replace(self.current)
        self.drop_pending()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _write_secret(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def kubeconfig_for(bootstrap: dict[str, Any], current: Path) -> dict[str, Any]:
    """The bootstrap kubeconfig's cluster with the certificate in use as its user."""
    context = next(c for c in bootstrap["contexts"] if c["name"] == bootstrap["current-context"])
    cluster = next(c for c in bootstrap["clusters"] if c["name"] == context["context"]["cluster"])
    user = {"client-certificate": str(current), "client-key": str(current)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "users": [{"name": "default-auth", "user": user}],
        "contexts": [
            {"name": "default-context", "context": {"cluster": cluster["name"], "user": "default-auth"}}
        ],
        "current-context": "default-context",
    }


async def obtain(client: RestClient, store: CertificateStore, node: str, clock: Clock) -> None:
    """Ask for a certificate, wait for it and store it. Raises `CertificateRefused` when it is denied; an
    apiserver that does not answer is asked again for ever.
    """
    key = store.pending_key()
    wanted = signing_request(key, node, store.purpose)
    name, backoff, began = wanted["metadata"]["name"], Backoff(0.2, 5.0), clock.monotonic()
    log.info("asking for a certificate", extra={"request": name, "signer": store.purpose.signer})
    while True:
        try:
            found = await _find_or_create(client, wanted)
            chain = decision(found)
        except CertificateRefused:
            store.drop_pending()
            raise
        except (StatusError, ConnectionFailed) as error:
            log.warning("certificate request: %s", error, extra={"request": name})
            chain = None
        if chain is not None:
            store.store(chain, key, clock.now())
            log.info("certificate issued", extra={"request": name, "signer": store.purpose.signer})
            return
        if clock.monotonic() - began > WAIT:
            store.drop_pending()
            raise CertificateRefused(f"certificate request {name} was not decided within {WAIT:g}s")
        await clock.sleep(backoff.next())


async def _find_or_create(client: RestClient, wanted: dict[str, Any]) -> dict[str, Any]:
    try:
        return await client.get(CERTIFICATESIGNINGREQUESTS, wanted["metadata"]["name"])
    except StatusError as error:
        if error.code != 404:
            raise
    return await client.create(CERTIFICATESIGNINGREQUESTS, wanted)


def write_kubeconfig(bootstrap: Path, kubeconfig: Path, store: CertificateStore) -> None:
    """Put the lasting kubeconfig in place. Blocking; raises OSError."""
    document = kubeconfig_for(yaml.safe_load(bootstrap.read_text()), store.current)
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    _write_secret(kubeconfig, yaml.safe_dump(document, sort_keys=False).encode())


async def renew(
    client: RestClient,
    store: CertificateStore,
    node: str,
    clock: Clock,
    rng: Callable[[], float] = random.random,
) -> None:
    """Wait until the certificate in use is due, and replace it; returns once it has been. A refusal is
    logged and followed by another request, for as long as the old certificate holds.
    """
    share, backoff = rng(), Backoff(10.0, 600.0)
    while True:
        held = store.certificate(clock.now())
        if held is not None:
            await clock.sleep(max(0.0, rotation_moment(held, share) - clock.now()))
        try:
            await obtain(client, store, node, clock)
            return
        except (CertificateRefused, ValueError) as error:
            log.error("certificate not renewed: %s", error)
            await clock.sleep(backoff.next())
