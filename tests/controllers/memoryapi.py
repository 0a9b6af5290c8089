"""An API server in memory, as a transport: enough of the rules for control loops, and faults on
demand.

Real: resourceVersion as one counter, conflicts, generation, status subresource, uid preconditions, graceful
deletion of scheduled pods, finalizers, propagation policies, owner references in strategic patches, watch.
Not real: no schema, defaults or admission.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from copy import deepcopy
from typing import Any
from urllib.parse import parse_qs

import orjson

from apimachinery import errors
from apimachinery.patch import merge
from kubeclient import resources
from kubeclient.http1.message import Answer, Request
from kubeclient.resources import GVR

Object = dict[str, Any]
KINDS = {
    (g.group, g.version, g.resource): g for g in vars(resources).values() if isinstance(g, GVR) and g.kind
}
START = "2026-01-01T00:00:00Z"


class Killed(Exception):
    """The process under test was killed at this call."""


class MemoryApi:
    """`objects` is keyed by (resource, namespace, name). `before` may raise to inject a fault into a
    write.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.log: list[tuple[int, str, str, Object]] = []  # revision, type, resource, object
        self.writes: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.after: Callable[[str, str], None] = lambda method, path: None
        self.revision = 10
        self._uid = itertools.count(1)
        self._changed = asyncio.Event()
        self.dead = False  # the process under test was killed: nothing it asks is answered any more

    # -- what tests do directly ------------------------------------------------------------------------------

    def put(self, gvr: GVR, obj: Object) -> Object:
        """Create or replace as some other client would, bypassing faults."""
        where = self._where(gvr, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        old = self.objects.get(where)
        new = deepcopy(obj)
        new.setdefault("apiVersion", gvr.api_version)
        new.setdefault("kind", gvr.kind)
        meta = new["metadata"]
        meta["uid"] = old["metadata"]["uid"] if old else meta.get("uid") or f"uid-{next(self._uid)}"
        meta.setdefault("creationTimestamp", old["metadata"]["creationTimestamp"] if old else START)
        meta["generation"] = self._generation(old, new)
        self.objects[where] = new
        self._record("MODIFIED" if old else "ADDED", gvr, new)
        return deepcopy(new)

    def get(self, gvr: GVR, name: str, namespace: str = "") -> Object | None:
        found = self.objects.get(self._where(gvr, namespace, name))
        return deepcopy(found) if found else None

    def all(self, gvr: GVR, namespace: str = "") -> list[Object]:
        return [
            deepcopy(obj)
            for (resource, ns, _), obj in sorted(self.objects.items(), key=lambda e: e[0])
            if resource == gvr.qualified and namespace in ("", ns)
        ]

    def drop(self, gvr: GVR, name: str, namespace: str = "") -> None:
        """The object is gone for good (a kubelet has finished, say)."""
        obj = self.objects.pop(self._where(gvr, namespace, name), None)
        if obj is not None:
            self._record("DELETED", gvr, obj)

    # -- the transport ---------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Part of a transport; the API stays."""

    async def send(self, request: Request) -> Answer:
        path, _, query = request.target.decode().partition("?")
        params = {k: v[0] for k, v in parse_qs(query).items()}
        if params.get("watch"):
            gvr, namespace, _, _ = self._route(path)
            return Answer(200, stream=self._watch(gvr, namespace, int(params["resourceVersion"])))
        await asyncio.sleep(0)
        if self.dead:
            await asyncio.Event().wait()
        body = orjson.loads(request.body) if request.body else None
        try:
            if request.method != "GET":
                self.before(request.method, path)
                self.writes.append((request.method, path))
            content_type = request.header("content-type")
            answer = self._handle(request.method, path, params, body, content_type)
            if request.method != "GET":
                self.after(request.method, path)
            return Answer(200, content=orjson.dumps(answer))
        except Killed:
            self.dead = True
            await asyncio.Event().wait()
            raise
        except errors.StatusError as error:
            return Answer(error.code, content=orjson.dumps(error.status))

    def _handle(self, method: str, path: str, params: dict[str, str], body: Any, content_type: str) -> Object:
        if path in ("/api", "/apis") or path.rstrip("/") in self._group_versions():
            return self._discovery(path.rstrip("/"))
        gvr, namespace, name, subresource = self._route(path)
        if method == "GET":
            return self._read(gvr, namespace, name) if name else self._list(gvr, namespace)
        if method == "POST":
            return self._create(gvr, namespace, body)
        if method == "PUT":
            return self._update(gvr, body, subresource)
        if method == "PATCH":
            old = self._read(gvr, namespace, name)
            patched = _patched(old, body, content_type)
            return self._update(gvr, patched, subresource)
        if not name:
            for victim in self.all(gvr, namespace):
                self._delete(gvr, namespace, victim["metadata"]["name"], body or {})
            return {"kind": "Status", "status": "Success"}
        return self._delete(gvr, namespace, name, body or {})

    # -- verbs -----------------------------------------------------------------------------------------------

    def _read(self, gvr: GVR, namespace: str, name: str) -> Object:
        found = self.get(gvr, name, namespace)
        if found is None:
            raise errors.not_found(gvr.group, gvr.resource, name)
        return found

    def _list(self, gvr: GVR, namespace: str) -> Object:
        items = self.all(gvr, namespace)
        return {
            "kind": f"{gvr.kind}List",
            "metadata": {"resourceVersion": str(self.revision)},
            "items": items,
        }

    def _create(self, gvr: GVR, namespace: str, body: Object) -> Object:
        meta = body["metadata"]
        if gvr.namespaced:
            meta["namespace"] = namespace
            owner = self.get(resources.NAMESPACES, namespace)
            if owner and owner["metadata"].get("deletionTimestamp"):
                raise errors.forbidden(
                    gvr.group, gvr.resource, meta.get("name", ""), "it is being terminated"
                )
        if not meta.get("name"):
            meta["name"] = f"{meta['generateName']}{next(self._uid):05d}"
        if self.get(gvr, meta["name"], namespace):
            raise errors.already_exists(gvr.group, gvr.resource, meta["name"])
        meta.pop("uid", None)
        if gvr == resources.PODS:
            body.setdefault("status", {"phase": "Pending"})
        return self.put(gvr, body)

    def _update(self, gvr: GVR, body: Object, subresource: str) -> Object:
        meta = body["metadata"]
        old = self._read(gvr, meta.get("namespace", ""), meta["name"])
        if meta.get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            raise errors.conflict(
                gvr.group, gvr.resource, meta["name"], "the UID in the precondition differs"
            )
        version = old["metadata"]["resourceVersion"]
        if meta.get("resourceVersion", version) != version:
            raise errors.conflict(gvr.group, gvr.resource, meta["name"], "the object has been modified")
        if subresource == "status":
            new = {**old, "status": body.get("status", {})}
        elif subresource == "finalize":
            new = {**old, "spec": {**old.get("spec", {}), "finalizers": body["spec"]["finalizers"]}}
        else:
            new = {**body, "status": old.get("status", {})}
        for protected in ("deletionTimestamp", "deletionGracePeriodSeconds", "creationTimestamp"):
            if protected in old["metadata"]:
                new["metadata"][protected] = old["metadata"][protected]
        new = {part: value for part, value in new.items() if part != "status" or value}
        if _same(new, old):
            return old
        if self._is_finished(gvr, new):
            self.drop(gvr, meta["name"], meta.get("namespace", ""))
            return new
        return self.put(gvr, new)

    def _delete(self, gvr: GVR, namespace: str, name: str, options: Object) -> Object:
        obj = self._read(gvr, namespace, name)
        wanted = options.get("preconditions") or {}
        for part, field in (("uid", "uid"), ("resourceVersion", "resourceVersion")):
            if part in wanted and wanted[part] != obj["metadata"][field]:
                raise errors.conflict(
                    gvr.group, gvr.resource, name, f"the {part} in the precondition differs"
                )
        meta = obj["metadata"]
        extra = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(
            options.get("propagationPolicy", "")
        )
        if extra:
            meta["finalizers"] = [*(f for f in meta.get("finalizers", []) if f != extra), extra]
        graceful = gvr == resources.PODS and obj["spec"].get("nodeName")
        waits = graceful and options.get("gracePeriodSeconds") != 0
        holds = meta.get("finalizers") or (
            gvr == resources.NAMESPACES and obj.get("spec", {}).get("finalizers")
        )
        if waits or holds:
            meta.setdefault("deletionTimestamp", START)
            return self.put(gvr, obj)
        self.drop(gvr, name, namespace)
        return obj

    # -- plumbing --------------------------------------------------------------------------------------------

    async def _watch(self, gvr: GVR, namespace: str, since: int) -> AsyncGenerator[bytes, None]:
        position = 0
        while True:
            changed = self._changed
            while position < len(self.log):
                revision, kind, resource, obj = self.log[position]
                position += 1
                mine = namespace in ("", obj["metadata"].get("namespace", ""))
                if revision > since and resource == gvr.qualified and mine:
                    yield orjson.dumps({"type": kind, "object": obj}) + b"\n"
            await changed.wait()

    def _record(self, kind: str, gvr: GVR, obj: Object) -> None:
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        self.log.append((self.revision, kind, gvr.qualified, deepcopy(obj)))
        self._changed.set()
        self._changed = asyncio.Event()

    def _is_finished(self, gvr: GVR, obj: Object) -> bool:
        """Terminating, and nothing holds it any more."""
        meta = obj["metadata"]
        if not meta.get("deletionTimestamp") or meta.get("finalizers"):
            return False
        if gvr == resources.NAMESPACES:
            return not obj.get("spec", {}).get("finalizers")
        return gvr != resources.PODS or not obj["spec"].get("nodeName")

    @staticmethod
    def _generation(old: Object | None, new: Object) -> int:
        if old is None:
            return 1
        before = int(old["metadata"].get("generation", 1))
        return before + (old.get("spec") != new.get("spec"))

    @staticmethod
    def _where(gvr: GVR, namespace: str, name: str) -> tuple[str, str, str]:
        return gvr.qualified, namespace if gvr.namespaced else "", name

    def _group_versions(self) -> set[str]:
        return {f"/apis/{g}/{v}" if g else f"/api/{v}" for g, v, _ in KINDS}

    def _discovery(self, path: str) -> Object:
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            groups = sorted({(g, v) for g, v, _ in KINDS if g})
            return {
                "kind": "APIGroupList",
                "groups": [
                    {"name": g, "versions": [{"version": v}], "preferredVersion": {"version": v}}
                    for g, v in groups
                ],
            }
        verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        mine = [k for (g, v, _), k in KINDS.items() if (f"/apis/{g}/{v}" if g else f"/api/{v}") == path]
        found = [
            {"name": k.resource, "namespaced": k.namespaced, "kind": k.kind, "verbs": verbs} for k in mine
        ]
        return {
            "kind": "APIResourceList",
            "resources": [r for r in found if not str(r["kind"]).endswith("Review")],
        }

    @staticmethod
    def _route(path: str) -> tuple[GVR, str, str, str]:
        parts = path.strip("/").split("/")
        group, version, rest = (
            ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
        )
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces" and (group, version, rest[2]) in KINDS:
            namespace, rest = rest[1], rest[2:]
        gvr = KINDS[(group, version, rest[0])]
        name = rest[1] if len(rest) > 1 else ""
        return gvr, namespace, name, rest[2] if len(rest) > 2 else ""


def _same(new: Object, old: Object) -> bool:
    def content(obj: Object) -> Object:
        meta = {k: v for k, v in obj["metadata"].items() if k not in ("resourceVersion", "generation") and v}
        return {**{k: v for k, v in obj.items() if v}, "metadata": meta}

    return content(new) == content(old)


def _patched(old: Object, patch: Object, content_type: str) -> Object:
    if "strategic" not in content_type:
        out: Object = merge.apply(old, patch)
        return out
    patch = deepcopy(patch)
    references = patch["metadata"].pop("ownerReferences", [])
    out = merge.apply(old, patch)
    kept = {r["uid"]: r for r in old["metadata"].get("ownerReferences", [])}
    for reference in references:
        if reference.get("$patch") == "delete":
            kept.pop(reference["uid"], None)
        else:
            kept[reference["uid"]] = {**kept.get(reference["uid"], {}), **reference}
    out["metadata"]["ownerReferences"] = list(kept.values())
    return out
