"""The API: discovery, and NodeMetrics and PodMetrics to get and to list."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import orjson

from apimachinery import errors, meta, selectors
from apimachinery.errors import StatusError
from componentbase.health import Receive, Scope, Send, respond
from kubeclient.delegated import OPEN, Delegated, User
from kubeclient.rest import ConnectionFailed
from metricsserver import render
from metricsserver.render import GROUP, VERSION, Object
from metricsserver.store import Store

JSON = "application/json"
_TABLE = re.compile(r"application/json\s*;.*\bas=Table\b")
_FIELDS = ("metadata.name", "metadata.namespace")
App = Callable[[Scope, Receive, Send], Any]


class Target(NamedTuple):
    """What a path is about."""

    resource: str
    namespace: str = ""
    name: str = ""


def target_of(path: str) -> Target | None:
    """The resource of a path of the group version; None for anything else. Pure."""
    match path.strip("/").split("/")[3:]:
        case ["nodes"]:
            return Target("nodes")
        case ["nodes", name]:
            return Target("nodes", "", name)
        case ["pods"]:
            return Target("pods")
        case ["namespaces", namespace, "pods"]:
            return Target("pods", namespace)
        case ["namespaces", namespace, "pods", name]:
            return Target("pods", namespace, name)
    return None


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is looked up of the cluster: the objects whose names and labels metrics bear."""

    nodes: Callable[[], Iterable[Mapping[str, Any]]]
    pods: Callable[[], Iterable[Mapping[str, Any]]]
    node: Callable[[str], Mapping[str, Any] | None]
    pod: Callable[[str], Mapping[str, Any] | None]  # by "namespace/name"
    now: Callable[[], float]


class Server:
    """The ASGI application. `health` answers health and /metrics; one that does not lead has no metrics."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        delegated: Delegated,
        health: App,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store, self._cluster, self._delegated, self._health = store, cluster, delegated, health
        self._leads = leads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        if path.strip("/").partition("/")[0] in OPEN:
            await self._health(scope, receive, send)
            return
        try:
            user = await self._delegated.authenticate(scope)
            if user is None:
                raise errors.unauthorized()
            await self._authorize(user, scope["method"], path)
            if not path.startswith("/api"):
                await self._health(scope, receive, send)
                return
            answer = self._answer(scope["method"], path, parse_qs(scope["query_string"].decode()), scope)
        except ConnectionFailed as error:
            failed = errors.internal_error(f"the API server cannot be asked: {error}")
            await respond(send, failed.code, orjson.dumps(failed.status), JSON)
        except StatusError as error:
            await respond(send, error.code, orjson.dumps(error.status), JSON)
        else:
            await respond(send, 200, orjson.dumps(answer), JSON)

    async def _authorize(self, user: User, method: str, path: str) -> None:
        target = target_of(path) if path.startswith(f"/apis/{GROUP}/{VERSION}/") else None
        verb = {"GET": "get", "HEAD": "get", "POST": "create", "DELETE": "delete"}.get(method, method.lower())
        if target is None:
            allowed, _ = await self._delegated.allowed(user, path={"path": path, "verb": verb})
            if not allowed:
                raise errors.forbidden("", "", "", f'User "{user.name}" cannot {verb} path "{path}"')
            return
        verb = "list" if verb == "get" and not target.name else verb
        wanted = {"verb": verb, "group": GROUP, "version": VERSION, **target._asdict()}
        allowed, why = await self._delegated.allowed(user, resource={k: v for k, v in wanted.items() if v})
        if not allowed:
            where = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
            text = f'User "{user.name}" cannot {verb} resource "{target.resource}"'
            text += f' in API group "{GROUP}" {where}'
            raise errors.forbidden(GROUP, target.resource, target.name, f"{text}: {why}" if why else text)

    def _answer(self, method: str, path: str, query: dict[str, list[str]], scope: Scope) -> Object:
        found = {
            "/apis": lambda: {"kind": "APIGroupList", "apiVersion": "v1", "groups": [render.group()]},
            f"/apis/{GROUP}": render.group,
            f"/apis/{GROUP}/{VERSION}": render.resources,
        }.get(path.rstrip("/"))
        if found is not None:
            return found()
        target = target_of(path) if path.startswith(f"/apis/{GROUP}/{VERSION}/") else None
        if target is None:
            raise errors.status(404, "NotFound", "the server could not find the requested resource")
        if method not in ("GET", "HEAD") or query.get("watch", ["false"])[0] in ("true", "1"):
            verb = "watch" if method == "GET" else method.lower()
            raise errors.method_not_supported(GROUP, target.resource, verb)
        if not self._leads():
            # An empty list would say that nothing runs.
            raise errors.service_unavailable("this metrics-server is a standby: another one leads")
        accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
        as_table = any(_TABLE.match(each.strip()) for each in accept.split(","))
        if target.name:
            item = self._one(target)
            return render.table([item]) if as_table else item
        items = self._all(target, query)
        kind = "NodeMetrics" if target.resource == "nodes" else "PodMetrics"
        return render.table(items) if as_table else render.listing(kind, items)

    # -- objects ---------------------------------------------------------------------------------------------

    def _one(self, target: Target) -> Object:
        if target.resource == "nodes":
            of = self._cluster.node(target.name)
            shown, kind = target.name, "nodemetrics"
        else:
            of = self._cluster.pod(f"{target.namespace}/{target.name}")
            shown, kind = f"{target.namespace}/{target.name}", "podmetrics"
        made = None if of is None else self._made(target.resource, of)
        if made is None:
            raise errors.not_found(GROUP, kind, shown)
        return made

    def _all(self, target: Target, query: dict[str, list[str]]) -> list[Object]:
        labels = selectors.parse_label_selector(query.get("labelSelector", [""])[0])
        fields = selectors.parse_field_selector(query.get("fieldSelector", [""])[0])
        for requirement in fields.requirements:
            if requirement.field not in _FIELDS:
                raise errors.bad_request(
                    f"{requirement.field!r} is not a known field selector: only {_FIELDS}"
                )
        objects = self._cluster.nodes() if target.resource == "nodes" else self._cluster.pods()
        chosen = [
            each
            for each in objects
            if target.namespace in ("", meta.namespace_of(each))
            and labels.matches(meta.labels_of(each))
            and fields.matches(
                {"metadata.name": meta.name_of(each), "metadata.namespace": meta.namespace_of(each)}
            )
        ]
        made = (self._made(target.resource, each) for each in sorted(chosen, key=meta.key_of))
        return [each for each in made if each is not None]

    def _made(self, resource: str, of: Mapping[str, Any]) -> Object | None:
        """The metrics of an object; None while there are none."""
        now = self._cluster.now()
        if resource == "nodes":
            usage = self._store.node(meta.name_of(of))
            return None if usage is None else render.node_metrics(of, usage, now)
        containers = self._store.pod((meta.namespace_of(of), meta.name_of(of)))
        return None if containers is None else render.pod_metrics(of, containers, now)
