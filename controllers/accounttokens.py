"""Long-lived tokens in Secrets of type kubernetes.io/service-account-token, for whoever makes such a Secret
and names an account in its annotation.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import ClassVar

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from controllers import objects as o
from controllers.objects import Object
from controllers.runtime import Context, Controller, ignore_not_found, in_namespace
from kubeclient.resources import SECRETS, SERVICEACCOUNTS

TYPE = "kubernetes.io/service-account-token"
ACCOUNT, ACCOUNT_UID = "kubernetes.io/service-account.name", "kubernetes.io/service-account.uid"
ISSUER = "kubernetes/serviceaccount"
PREFIX = "kubernetes.io/serviceaccount/"
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_CURVES = {256: "ES256", 384: "ES384", 521: "ES512"}


def load_signing_key(path: Path) -> Key:
    """Raises UnusableKey for what is no RSA or ECDSA key, OSError for what cannot be read."""
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, Key):
        raise UnusableKey(f"{path}: only RSA and ECDSA keys are supported")
    return key


def sign(account: Object, secret: Object, key: Key) -> str:
    """A token without end, which names its Secret: it is good as long as that Secret holds it."""
    namespace, name = o.namespace(account), o.name(account)
    claims = {
        "iss": ISSUER,
        "sub": f"system:serviceaccount:{namespace}:{name}",
        PREFIX + "namespace": namespace,
        PREFIX + "secret.name": o.name(secret),
        PREFIX + "service-account.name": name,
        PREFIX + "service-account.uid": o.uid(account),
    }
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    kid = base64.urlsafe_b64encode(hashlib.sha256(public).digest()).rstrip(b"=").decode()
    method = _CURVES[key.curve.key_size] if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
    return jwt.encode(claims, key, method, {"kid": kid})


def completed(secret: Object, account: Object, key: Key, ca_pem: str) -> Object | None:
    """The Secret with everything a token Secret has; None when it has it already."""
    data = secret.get("data") or {}
    wanted = {"namespace": _encode(o.namespace(secret))}
    if ca_pem:
        wanted["ca.crt"] = _encode(ca_pem)
    notes = o.annotations_of(secret)
    if data.get("token") and wanted.items() <= data.items() and notes.get(ACCOUNT_UID) == o.uid(account):
        return None
    token = data.get("token") or _encode(sign(account, secret, key))
    metadata = {**o.meta(secret), "annotations": {**notes, ACCOUNT_UID: o.uid(account)}}
    return {**secret, "metadata": metadata, "data": {**data, **wanted, "token": token}}


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def is_token(secret: Object) -> bool:
    return secret.get("type") == TYPE and bool(o.annotations_of(secret).get(ACCOUNT))


class UnusableKey(Exception):
    """The file holds no key that can sign tokens; the message names it."""


class TokensController(Controller):
    """Keys are Secrets'. It acts as the manager itself: no other account may read and write all Secrets."""

    name: ClassVar[str] = "serviceaccount-token-controller"
    account: ClassVar[str] = ""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=ctx.options.concurrent_serviceaccount_token_syncs)
        self.key = load_signing_key(Path(ctx.options.service_account_private_key_file))
        self.secrets = self.watch(SECRETS, self._on_secret)
        self.accounts = self.watch(SERVICEACCOUNTS, self._on_account)

    async def sync(self, key: str) -> float | None:
        secret = self.secrets.store.get(key)
        if secret is None or not is_token(secret) or o.is_terminating(secret):
            return None
        notes = o.annotations_of(secret)
        account = await self._live_account(o.namespace(secret), notes[ACCOUNT])
        if account is None or notes.get(ACCOUNT_UID, o.uid(account)) != o.uid(account):
            version = {"uid": o.uid(secret), "resourceVersion": o.meta(secret)["resourceVersion"]}
            await ignore_not_found(
                self.client.delete(
                    SECRETS, o.name(secret), o.namespace(secret), options={"preconditions": version}
                )
            )
            return None
        whole = completed(secret, account, self.key, self.ctx.options.root_ca_pem)
        if whole is not None:
            await ignore_not_found(self.client.update(SECRETS, whole))
        return None

    async def _live_account(self, namespace: str, name: str) -> Object | None:
        """The cache may be behind a Secret that was made right after its account, so absence is asked for."""
        cached = self.accounts.store.get(f"{namespace}/{name}")
        return cached or await ignore_not_found(self.client.get(SERVICEACCOUNTS, name, namespace))

    def _on_secret(self, secret: Object) -> None:
        if is_token(secret):
            self.enqueue(secret)

    def _on_account(self, account: Object) -> None:
        for secret in in_namespace(self.secrets, o.namespace(account)):
            if is_token(secret) and o.annotations_of(secret)[ACCOUNT] == o.name(account):
                self.enqueue(secret)
