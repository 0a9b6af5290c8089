"""Who calls the kubelet, and whether they may: client certificates, TokenReview, SubjectAccessReview with a
cache.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import orjson

from apimachinery.errors import StatusError
from componentbase import tlsutil
from componentbase.clock import Clock
from kubeclient.rest import ConnectionFailed, RestClient
from kubelet.config import KubeletConfig

log = logging.getLogger(__name__)

CACHE = 4096
JSON = {"Content-Type": "application/json"}
IDENTITY_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
SUBRESOURCES = {
    "stats": "stats",
    "metrics": "metrics",
    "logs": "log",
    "spec": "spec",
    "healthz": "healthz",
    "pods": "pods",
    "runningpods": "pods",
    "configz": "configz",
}
VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class User:
    """Name, uid and groups of a caller."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()


class Denied(Exception):
    """The request must not be answered; `status` is the HTTP status and the text what is told."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Cache:
    """Answers of the apiserver, each until its time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: OrderedDict[object, tuple[float, Any]] = OrderedDict()

    def get(self, key: object) -> Any:
        until, value = self._held.get(key, (0.0, None))
        return value if until > self._clock.monotonic() else None

    def put(self, key: object, value: Any, seconds: float) -> None:
        self._held[key] = (self._clock.monotonic() + seconds, value)
        self._held.move_to_end(key)
        while len(self._held) > CACHE:
            self._held.popitem(last=False)


class Guard:
    """Authentication and authorization of every request but none else."""

    def __init__(self, client: RestClient, config: KubeletConfig, node: str, clock: Clock) -> None:
        self._client, self._config, self._node = client, config, node
        self._users, self._verdicts = _Cache(clock), _Cache(clock)

    async def check(self, method: str, path: str, token: str, certificate: bytes | None) -> User:
        """The caller, if the request may be answered. Raises `Denied`."""
        user = await self._identify(token, certificate)
        if self._config.authorization_mode != "AlwaysAllow":
            await self._authorize(user, method, path)
        return user

    async def _identify(self, token: str, certificate: bytes | None) -> User:
        if certificate is not None and self._config.client_ca_file:
            who = tlsutil.identity(certificate)
            return User(who.common_name, groups=(*who.organizations, "system:authenticated"))
        if token and self._config.webhook_authentication:
            return await self._review_token(token)
        if self._config.anonymous and not token:
            return User("system:anonymous", groups=("system:unauthenticated",))
        raise Denied(401, "Unauthorized")

    async def _review_token(self, token: str) -> User:
        known = self._users.get(token)
        if known is not None:
            return User(known.name, known.uid, known.groups)
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        status = await self._ask(IDENTITY_REVIEWS, review)
        if not status.get("authenticated"):
            raise Denied(401, "Unauthorized")
        held = status.get("user") or {}
        user = User(held.get("username", ""), held.get("uid", ""), tuple(held.get("groups") or ()))
        self._users.put(token, user, self._config.authentication_ttl)
        return user

    async def _authorize(self, user: User, method: str, path: str) -> None:
        first = path.strip("/").partition("/")[0]
        wanted = [SUBRESOURCES.get(first, "proxy")]
        if wanted[0] in ("healthz", "pods", "configz"):
            wanted.append("proxy")  # KEP-2862: the finer permission first, then the one that covers all
        for subresource in wanted:
            if await self._allowed(user, VERBS.get(method, method.lower()), subresource):
                return
        what = (
            f"verb={VERBS.get(method, method.lower())}, resource=nodes, subresource(s)=[{' '.join(wanted)}]"
        )
        raise Denied(403, f"Forbidden (user={user.name}, {what})")

    async def _allowed(self, user: User, verb: str, subresource: str) -> bool:
        key = (user, verb, subresource)
        known = self._verdicts.get(key)
        if known is not None:
            return bool(known)
        attributes = {"verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.name,
                "uid": user.uid,
                "groups": list(user.groups),
                "resourceAttributes": {**attributes, "name": self._node},
            },
        }
        allowed = bool((await self._ask(ACCESS_REVIEWS, review)).get("allowed"))
        ttl = self._config.authorized_ttl if allowed else self._config.unauthorized_ttl
        self._verdicts.put(key, allowed, ttl)
        return allowed

    async def _ask(self, path: str, review: dict[str, Any]) -> dict[str, Any]:
        """The status of a review; an apiserver that cannot be asked means no."""
        try:
            answer = await self._client.raw("POST", path, body=orjson.dumps(review), headers=JSON)
        except (StatusError, ConnectionFailed) as error:
            log.warning("review failed: %s", error)
            raise Denied(500, f"Internal Error: {error}") from error
        if answer.status not in (200, 201):
            raise Denied(500, f"Internal Error: review answered {answer.status}")
        status = answer.json().get("status") or {}
        return dict(status)
