"""Legacy service-account tokens: without end, kept in a Secret, good as long as the Secret holds them
(KEP-2799). The day of a token's last use stands in a label of its Secret.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jwt

from apimachinery.errors import StatusError
from apimachinery.scheme import Kind
from apiserver.auth.tokens import PublicKey, algorithm
from apiserver.auth.user import LOOPBACK, User, service_account
from apiserver.registry.call import Call
from apiserver.registry.registry import Registry
from apiserver.storage.interface import StorageError

logger = logging.getLogger("apiserver.auth")

Object = dict[str, Any]
Find = Callable[[str, str, str], Object | None]  # resource, namespace, name

ISSUER = "kubernetes/serviceaccount"
CLAIMS = "kubernetes.io/serviceaccount/"
LAST_USED = "kubernetes.io/legacy-token-last-used"
INVALID_SINCE = "kubernetes.io/legacy-token-invalid-since"
TRACKING = "kube-apiserver-legacy-service-account-token-tracking"
"""The ConfigMap in kube-system whose `since` is the first day of which last uses are known."""


def tracked_since(found: Object | None, today: str) -> dict[str, str] | None:
    """What the tracking ConfigMap must hold; None when it does. A day that cannot be read is none: from then
    on nothing is known of earlier uses.
    """
    since = ((found or {}).get("data") or {}).get("since")
    return None if _is_day(since) else {"since": today}


def _is_day(text: object) -> bool:
    try:
        datetime.datetime.strptime(str(text), "%Y-%m-%d").replace(tzinfo=datetime.UTC)
    except ValueError:
        return False
    return True


class LegacyTokens:
    """`find` reads the watch cache; `used` is told of every Secret whose token was accepted."""

    def __init__(
        self, keys: Sequence[PublicKey], find: Find, used: Callable[[Object], None] = lambda _: None
    ) -> None:
        self._keys = list(keys)
        self._find = find
        self._used = used

    def user(self, token: str) -> User | None:
        claims = self._claims(token)
        if claims is None:
            return None
        names = ("namespace", "service-account.name", "service-account.uid", "secret.name")
        namespace, name, uid, secret_name = (str(claims.get(CLAIMS + key, "")) for key in names)
        account = self._find("serviceaccounts", namespace, name)
        secret = self._find("secrets", namespace, secret_name)
        if account is None or secret is None or account["metadata"]["uid"] != uid:
            return None
        if claims.get("sub") != f"system:serviceaccount:{namespace}:{name}":
            return None
        if INVALID_SINCE in (secret["metadata"].get("labels") or {}) or _held(secret) != token:
            return None
        self._used(secret)
        return service_account(namespace, name, uid)

    def _claims(self, token: str) -> dict[str, Any] | None:
        for key in self._keys:
            try:
                return jwt.decode(
                    token, key, [algorithm(key)], issuer=ISSUER, options={"require": ["iss", "sub"]}
                )
            except jwt.InvalidTokenError:
                continue
        return None


def _held(secret: Object) -> str:
    try:
        return base64.b64decode((secret.get("data") or {}).get("token", "")).decode()
    except ValueError:
        return ""


class LastUses:
    """Writes the label, once a day and Secret. `run()` is its one task."""

    def __init__(self, registry: Registry, secrets: Kind) -> None:
        self._registry = registry
        self._kind = secrets
        self._waiting: set[tuple[str, str]] = set()
        self._wake = asyncio.Event()

    def note(self, secret: Object) -> None:
        if (secret["metadata"].get("labels") or {}).get(LAST_USED) != self._today():
            self._waiting.add((secret["metadata"]["namespace"], secret["metadata"]["name"]))
            self._wake.set()

    async def run(self) -> None:
        """Ends only by cancellation."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._write(*self._waiting.pop())

    async def _write(self, namespace: str, name: str) -> None:
        async def change(stored: Object) -> Object:
            stored["metadata"].setdefault("labels", {})[LAST_USED] = self._today()
            return stored

        try:
            await self._registry.update(Call("update", self._kind, namespace, name, LOOPBACK), change)
        except (StatusError, StorageError) as error:
            # The next use tries again.
            logger.warning("last use of the token in secret %s/%s: %s", namespace, name, error)

    def _today(self) -> str:
        now = datetime.datetime.fromtimestamp(self._registry.settings.now(), datetime.UTC)
        return now.date().isoformat()
