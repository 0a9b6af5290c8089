"""What pods refer to in the API: ConfigMaps, Secrets, RuntimeClasses and service-account tokens.

ConfigMaps and Secrets of the node's pods are followed by watches (`kubelet.watched`); without them (the
`Cache` strategy, for many agents in one process) an object is fetched by name and held `TTL` seconds, and a
pod that appears anew forgets what was held of its namespace. Tokens are renewed when 80 % of their life has
passed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from apimachinery.errors import StatusError
from componentbase.clock import Clock
from kubeclient.resources import (
    CONFIGMAPS,
    GVR,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    RUNTIMECLASSES,
    SECRETS,
    SERVICEACCOUNTS,
)
from kubeclient.rest import ConnectionFailed, RestClient
from kubelet.pods.environment import ConfigError
from kubelet.volumes.payload import TokenWish
from kubelet.watched import Watched

log = logging.getLogger(__name__)

TTL = 45.0
RENEW_AT = 0.8
Key = tuple[str, str, str]


@dataclass(slots=True)
class _Held:
    until: float
    value: Mapping[str, Any] | None


@dataclass(slots=True)
class _Token:
    value: str
    renew_at: float
    expires_at: float


def _bound(obj: Mapping[str, Any]) -> bool:
    """Whether a claim or volume is bound: until then every look must be a fresh one."""
    return (obj.get("status") or {}).get("phase") == "Bound"


class Objects:
    """Reads through to the API with a short memory; one request at a time for each object."""

    def __init__(self, client: RestClient, clock: Clock, watched: Watched | None = None) -> None:
        self._client = client
        self._watched = watched
        self._clock = clock
        self._held: dict[Key, _Held] = {}
        self._tokens: dict[tuple[str, TokenWish], _Token] = {}
        self._locks: dict[Any, asyncio.Lock] = {}

    async def configmap(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        return await self._get(CONFIGMAPS, namespace, name)

    async def secret(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        return await self._get(SECRETS, namespace, name)

    async def claim(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        return await self._get(PERSISTENTVOLUMECLAIMS, namespace, name, keep=_bound)

    async def volume(self, name: str) -> Mapping[str, Any] | None:
        return await self._get(PERSISTENTVOLUMES, None, name, keep=_bound)

    async def runtime_handler(self, name: str) -> str:
        """The handler that a RuntimeClass stands for; "" is the runtime's default. Raises `ConfigError`."""
        if not name:
            return ""
        found = await self._get(RUNTIMECLASSES, None, name)
        if found is None:
            raise ConfigError(f'failed to get sandbox runtime: RuntimeClass "{name}" not found')
        return str(found["handler"])

    def follow(self, pod: Mapping[str, Any], *, new: bool) -> None:
        """Keep what this pod refers to; a new pod does not start from what was held before it."""
        if self._watched is not None:
            self._watched.follow(pod)
        elif new:
            self.forget_namespace(pod["metadata"]["namespace"])

    def forget_namespace(self, namespace: str) -> None:
        """What was held of this namespace may be older than the pod that asks next."""
        for key in [key for key in self._held if key[1] == namespace]:
            del self._held[key]

    def forget_pod(self, uid: str) -> None:
        for key in [key for key in self._tokens if key[0] == uid]:
            del self._tokens[key]
        if self._watched is not None:
            self._watched.forget_pod(uid)

    async def _get(
        self,
        gvr: GVR,
        namespace: str | None,
        name: str,
        *,
        keep: Callable[[Mapping[str, Any]], bool] = lambda _: True,
    ) -> Mapping[str, Any] | None:
        """The object, or None if there is none; raises `ConfigError` when the API cannot say. What `keep`
        refuses is read anew each time.
        """
        if self._watched is not None and namespace and self._watched.follows((gvr, namespace, name)):
            return await self._watched.get((gvr, namespace, name))
        key = (gvr.resource, namespace or "", name)
        where = f"{namespace}/{name}" if namespace else name
        async with self._locks.setdefault(key, asyncio.Lock()):
            held = self._held.get(key)
            now = self._clock.monotonic()
            if held is not None and held.until > now:
                return held.value
            try:
                value: Mapping[str, Any] | None = await self._client.get(gvr, name, namespace)
            except StatusError as error:
                if error.code != 404:
                    raise ConfigError(f"failed to get {gvr.resource} {where}: {error}") from error
                value = None
            except ConnectionFailed as error:
                if held is not None:
                    return held.value
                raise ConfigError(f"failed to get {gvr.resource} {where}: {error}") from error
            # That something is missing is not remembered: the pod that waits for it must see it appear.
            if value is not None and keep(value):
                self._held[key] = _Held(now + TTL, value)
            self._sweep(now)
            return value

    def _sweep(self, now: float) -> None:
        for key in [key for key, held in self._held.items() if held.until + TTL < now]:
            del self._held[key]
        if len(self._locks) > 10_000:
            self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}

    async def token(self, pod: Mapping[str, Any], wish: TokenWish) -> str:
        """A token bound to the pod, the one at hand while it is fresh; raises `ConfigError`."""
        key = (pod["metadata"]["uid"], wish)
        async with self._locks.setdefault(key, asyncio.Lock()):
            held, now = self._tokens.get(key), self._clock.now()
            if held is not None and now < held.renew_at:
                return held.value
            try:
                self._tokens[key] = await self._request(pod, wish, now)
            except (StatusError, ConnectionFailed) as error:
                if held is not None and now < held.expires_at:
                    log.warning("token renewal failed, the old one still holds", extra={"error": str(error)})
                    return held.value
                raise ConfigError(f"failed to fetch token: {error}") from error
            return self._tokens[key].value

    async def _request(self, pod: Mapping[str, Any], wish: TokenWish, now: float) -> _Token:
        metadata = pod["metadata"]
        account = pod["spec"].get("serviceAccountName") or "default"
        reference = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [wish.audience] if wish.audience else [],
                "expirationSeconds": wish.seconds,
                "boundObjectRef": reference,
            },
        }
        answer = await self._client.create(
            SERVICEACCOUNTS, request, metadata["namespace"], name=account, subresource="token"
        )
        status = answer["status"]
        expires = datetime.fromisoformat(status["expirationTimestamp"].replace("Z", "+00:00")).timestamp()
        life = max(60.0, expires - now)
        # A token of a year (legacy extension) is renewed daily, as Kubernetes does.
        return _Token(status["token"], now + min(life * RENEW_AT, 86_400.0), expires)
