"""Bootstrap tokens: Secrets of type bootstrap.kubernetes.io/token in kube-system, by which new nodes join.

The signer keeps a detached signature (JWS, RFC 7515 appendix F, HS256) of kube-public/cluster-info for each
token that may sign, so that a node that knows only a token can tell the real cluster from an impostor. The
cleaner removes tokens that have expired. Neither runs unless `--controllers` names it, as with the real one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

import orjson

from controllers import objects as o
from controllers.objects import Object
from controllers.runtime import Context, Controller, ignore_not_found, in_namespace
from kubeclient.resources import CONFIGMAPS, SECRETS

TYPE = "bootstrap.kubernetes.io/token"
PREFIX = "bootstrap-token-"
SIGNATURE = "jws-kubeconfig-"
TOKENS_NAMESPACE = "kube-system"
CLUSTER_INFO = "kube-public/cluster-info"
_ID, _SECRET = re.compile(r"[a-z0-9]{6}"), re.compile(r"[a-z0-9]{16}")


@dataclass(frozen=True, slots=True)
class Token:
    """What a token Secret says. `expires_at` is seconds since the epoch, None for never."""

    id: str
    secret: str
    expires_at: float | None
    signs: bool

    def seconds_left(self, now: float) -> float | None:
        return None if self.expires_at is None else self.expires_at - now


def parse(secret: Object) -> Token | None:
    """The token of a Secret; None when it holds none that could be used."""
    if secret.get("type") != TYPE:
        return None
    data = {name: _decoded(text) for name, text in (secret.get("data") or {}).items()}
    name, value = data.get("token-id", ""), data.get("token-secret", "")
    if not _ID.fullmatch(name) or not _SECRET.fullmatch(value) or o.name(secret) != PREFIX + name:
        return None
    expires = _expiration(data["expiration"]) if data.get("expiration") else None
    return Token(name, value, expires, data.get("usage-bootstrap-signing") == "true")


def _expiration(text: str) -> float:
    """A time that cannot be read, or has no zone, is past."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return read.timestamp() if read.tzinfo else 0.0


def sign(content: str, token: Token) -> str:
    """The compact JWS of `content` with its payload taken out."""
    header = _base64url(orjson.dumps({"alg": "HS256", "kid": token.id}))
    signed = f"{header}.{_base64url(content.encode())}".encode()
    signature = hmac.new(token.secret.encode(), signed, hashlib.sha256).digest()
    return f"{header}..{_base64url(signature)}"


def compute_signatures(data: dict[str, str], secrets: Iterable[Object], now: float) -> dict[str, str]:
    """cluster-info's data with one signature per living token that signs, and no other."""
    out = {name: value for name, value in data.items() if not name.startswith(SIGNATURE)}
    content = data.get("kubeconfig")
    if content is None:
        return out
    for token in filter(None, map(parse, secrets)):
        left = token.seconds_left(now)
        if token.signs and (left is None or left > 0):
            out[SIGNATURE + token.id] = sign(content, token)
    return out


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")


class BootstrapSigner(Controller):
    """One key: the ConfigMap."""

    name: ClassVar[str] = "bootstrap-signer-controller"
    account: ClassVar[str] = "bootstrap-signer"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.configs = self.watch(CONFIGMAPS, self._on_config)
        self.secrets = self.watch(SECRETS, self._on_secret)

    async def sync(self, key: str) -> float | None:
        config = self.configs.store.get(key)
        if config is None or o.is_terminating(config):
            return None
        secrets = in_namespace(self.secrets, TOKENS_NAMESPACE)
        data, now = config.get("data") or {}, self.clock.now()
        wanted = compute_signatures(data, secrets, now)
        if wanted != data:
            await ignore_not_found(self.client.update(CONFIGMAPS, {**config, "data": wanted}))
        ends = [token.seconds_left(now) for token in map(parse, secrets) if token is not None and token.signs]
        return min((left for left in ends if left is not None and left > 0), default=None)

    def _on_config(self, config: Object) -> None:
        if o.key(config) == CLUSTER_INFO:
            self.enqueue(config)

    def _on_secret(self, secret: Object) -> None:
        if secret.get("type") == TYPE and o.namespace(secret) == TOKENS_NAMESPACE:
            self.queue.add(CLUSTER_INFO)


class TokenCleaner(Controller):
    """Keys are Secrets'."""

    name: ClassVar[str] = "token-cleaner-controller"
    account: ClassVar[str] = "token-cleaner"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.secrets = self.watch(SECRETS, self._on_secret)

    async def sync(self, key: str) -> float | None:
        secret = self.secrets.store.get(key)
        token = parse(secret) if secret is not None else None
        if secret is None or token is None or o.is_terminating(secret):
            return None
        left = token.seconds_left(self.clock.now())
        if left is None or left > 0:
            return left
        options = {"preconditions": {"uid": o.uid(secret)}}
        await ignore_not_found(
            self.client.delete(SECRETS, o.name(secret), o.namespace(secret), options=options)
        )
        return None

    def _on_secret(self, secret: Object) -> None:
        if secret.get("type") == TYPE and o.namespace(secret) == TOKENS_NAMESPACE:
            self.enqueue(secret)
