"""The paths of an OpenAPI v3 document: what can be asked of a kind, in the words that clients are generated
from.

Some clients are made while they run (godaddy's kubernetes-client calls what it finds here), and kubectl looks
here for `dryRun` and `fieldValidation` before it sends them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from apimachinery.schema.decode import definition_of
from apimachinery.scheme import Kind
from apiserver.extensions.serving import CustomKind, definition_name
from apiserver.rest.discovery import Extra, subresource_kind

Object = dict[str, Any]

JSON = "application/json"
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
STATUS, WATCH_EVENT, DELETE_OPTIONS = META + "Status", META + "WatchEvent", META + "DeleteOptions"
SHARED = (STATUS, WATCH_EVENT, DELETE_OPTIONS)
"""Definitions that paths refer to besides those of their kinds."""

PATCHES = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
CONNECTED = ("exec", "attach", "portforward", "proxy")
METHODS = {"create": "post", "get": "get", "update": "put", "patch": "patch", "delete": "delete"}
ID_VERBS = {"get": "read", "update": "replace"}  # where an operation's id has another verb than authorization

_SELECTED = ("continue", "fieldSelector", "labelSelector", "limit", "resourceVersion", "resourceVersionMatch")
_LIST = (*_SELECTED, "allowWatchBookmarks", "sendInitialEvents", "timeoutSeconds", "watch")
_WRITE = ("dryRun", "fieldManager", "fieldValidation")
_DELETE = ("dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy")
QUERIES: Mapping[str, tuple[str, ...]] = {
    "list": _LIST,
    "watch": _LIST,
    "create": _WRITE,
    "update": _WRITE,
    "patch": (*_WRITE, "force"),
    "delete": _DELETE,
    "deletecollection": (*_SELECTED, *_DELETE, "sendInitialEvents", "timeoutSeconds"),
    "log": (
        *("container", "follow", "insecureSkipTLSVerifyBackend", "limitBytes", "previous", "sinceSeconds"),
        *("sinceTime", "stream", "tailLines", "timestamps"),
    ),
    "exec": ("command", "container", "stderr", "stdin", "stdout", "tty"),
    "attach": ("container", "stderr", "stdin", "stdout", "tty"),
    "portforward": ("ports",),
    "proxy": ("path",),
}
_BOOLEANS = frozenset(
    {
        *("allowWatchBookmarks", "sendInitialEvents", "watch", "force", "orphanDependents", "follow"),
        *("insecureSkipTLSVerifyBackend", "previous", "timestamps", "stderr", "stdin", "stdout", "tty"),
    }
)
_INTEGERS = frozenset(
    {
        *("limit", "timeoutSeconds", "gracePeriodSeconds", "limitBytes", "sinceSeconds", "tailLines"),
        "ports",
    }
)


@dataclass(frozen=True, slots=True)
class Target:
    """What an operation is about: a kind and the names by which clients call it."""

    group: str
    version: str
    kind: str
    schema: str  # the definition's name, "" without one
    listed: str = ""  # of the list
    patches: tuple[str, ...] = PATCHES

    @property
    def gvk(self) -> Object:
        return {"group": self.group, "version": self.version, "kind": self.kind}


def title(group: str, version: str) -> str:
    """`RbacAuthorizationV1` for rbac.authorization.k8s.io/v1."""
    words = (group.removesuffix(".k8s.io") or "core").split(".")
    return "".join(word[:1].upper() + word[1:] for word in (*words, version))


def tag(group: str, version: str) -> str:
    """`rbacAuthorization_v1`."""
    whole = title(group, "")
    return f"{whole[:1].lower()}{whole[1:]}_{version}"


def of_kind(kind: Kind) -> Object:
    """The paths of a kind, its subresources and its old watch paths."""
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    inside = "/namespaces/{namespace}" if kind.namespaced else ""
    base, target = f"{root}{inside}/{kind.resource}", _target(kind)
    word = f"{'Namespaced' if kind.namespaced else ''}{kind.kind}"
    writer = _Writer(title(kind.group, kind.version), tag(kind.group, kind.version))
    out: Object = {}
    out[base] = writer.item(base, target, kind.verbs, ("list", "create", "deletecollection"), word)
    out[base + "/{name}"] = writer.item(
        base + "/{name}", target, kind.verbs, ("get", "update", "patch", "delete"), word
    )
    for name in kind.subresources:
        for path, item in _subresource(kind, name, base + "/{name}/" + name, word, writer):
            out[path] = item
    everywhere = f"{root}/{kind.resource}"
    if kind.namespaced:
        out[everywhere] = writer.item(
            everywhere, target, kind.verbs, ("list",), kind.kind, "ForAllNamespaces"
        )
    if "watch" in kind.verbs:
        old = f"{root}/watch{inside}/{kind.resource}"
        out[old] = writer.item(old, target, ("watch",), ("watch",), f"{word}List")
        out[old + "/{name}"] = writer.item(old + "/{name}", target, ("watch",), ("watch",), word)
        if kind.namespaced:
            old = f"{root}/watch/{kind.resource}"
            out[old] = writer.item(
                old, target, ("watch",), ("watch",), f"{kind.kind}List", "ForAllNamespaces"
            )
    return out


def of_extra(extra: Extra) -> Object:
    """The paths of what is not stored."""
    root = f"/apis/{extra.group}/{extra.version}" if extra.group else f"/api/{extra.version}"
    path = f"{root}{'/namespaces/{namespace}' if extra.namespaced else ''}/{extra.resource}"
    schema = definition_of(extra.group, extra.version, extra.kind) or ""
    listed = definition_of(extra.group, extra.version, f"{extra.kind}List") or ""
    target = Target(extra.group, extra.version, extra.kind, schema, listed)
    writer = _Writer(title(extra.group, extra.version), tag(extra.group, extra.version))
    word = f"{'Namespaced' if extra.namespaced else ''}{extra.kind}"
    out = {path: writer.item(path, target, extra.verbs, ("create", "list"), word)}
    if "get" in extra.verbs:
        named = path + "/{name}"
        out[named] = writer.item(named, target, extra.verbs, ("get",), word)
    return out


def _target(kind: Kind) -> Target:
    if isinstance(kind, CustomKind):
        schema = definition_name(kind)
        known = tuple(media for media in PATCHES if "strategic" not in media)
        return Target(kind.group, kind.version, kind.kind, schema, f"{schema}List", known)
    schema, listed = (
        definition_of(kind.group, kind.version, name) or "" for name in (kind.kind, kind.list_kind)
    )
    return Target(kind.group, kind.version, kind.kind, schema, listed)


def _subresource(
    kind: Kind, name: str, path: str, word: str, writer: _Writer
) -> Iterator[tuple[str, Object]]:
    group, version, shown, verbs = subresource_kind(kind, name)
    target = _target(kind) if name != "log" else replace(_target(kind), schema="")
    if shown:
        schema = definition_of(group, version, shown) or ""
        target = replace(target, group=group, version=version, kind=shown, schema=schema)
    whole = f"{word}{name[:1].upper()}{name[1:]}"
    if name not in CONNECTED:
        yield path, writer.item(path, target, verbs, verbs, whole, query=name)
        return
    yield path, writer.connect(path, target, verbs, whole, name)
    if name == "proxy":
        path += "/{path}"
        yield path, writer.connect(path, target, verbs, f"{whole}WithPath", name)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the operations of one group version."""

    title: str
    tag: str

    def item(
        self,
        path: str,
        target: Target,
        allowed: Sequence[str],
        verbs: Sequence[str],
        word: str,
        suffix: str = "",
        query: str = "",
    ) -> Object:
        """A path item with those of `verbs` that are allowed; `query` names further parameters of a GET."""
        out: Object = {}
        for verb in verbs:
            if verb not in allowed:
                continue
            called, collection = ("delete", "Collection") if verb == "deletecollection" else (verb, "")
            operation_id = f"{ID_VERBS.get(called, called)}{self.title}{collection}{word}{suffix}"
            method = METHODS.get(called, "get")
            asked = QUERIES.get(verb, ()) or QUERIES.get(query, ())
            out[method] = self._operation(operation_id, _action(verb, path), target, verb, asked)
        return {**out, "parameters": _in_path(path)}

    def connect(self, path: str, target: Target, verbs: Sequence[str], word: str, name: str) -> Object:
        """A path item whose requests go on to a node, a pod or a service."""
        out: Object = {}
        for verb in verbs:
            method = METHODS[verb]
            operation_id = f"connect{self.title}{method.title()}{word}"
            plain = replace(target, schema="")
            out[method] = self._operation(operation_id, "connect", plain, "connect", QUERIES[name])
        return {**out, "parameters": _in_path(path)}

    def _operation(
        self, operation_id: str, action: str, target: Target, verb: str, asked: Sequence[str]
    ) -> Object:
        if verb != "connect":
            asked = (*asked, "pretty")
        answers = {"list": target.listed, "watch": WATCH_EVENT, "deletecollection": STATUS, "delete": STATUS}
        schema = _schema(answers.get(verb, target.schema))
        codes = {"create": ("200", "201", "202"), "update": ("200", "201"), "patch": ("200", "201")}
        answer = {"description": "OK", "content": {JSON: {"schema": schema}}}
        out: Object = {
            "tags": [self.tag],
            "operationId": operation_id,
            "parameters": [_parameter(name, "query") for name in asked],
            "responses": dict.fromkeys(codes.get(verb, ("200",)), answer),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": target.gvk,
        }
        if verb in ("create", "update"):
            out["requestBody"] = {"required": True, "content": {"*/*": {"schema": schema}}}
        elif verb == "patch":
            content = {media: {"schema": {"type": "object"}} for media in target.patches}
            out["requestBody"] = {"required": True, "content": content}
        elif verb in ("delete", "deletecollection"):
            out["requestBody"] = {"content": {"*/*": {"schema": _schema(DELETE_OPTIONS)}}}
        return out


def _action(verb: str, path: str) -> str:
    if verb == "watch":
        return "watch" if path.endswith("{name}") else "watchlist"
    return {"create": "post", "update": "put"}.get(verb, verb)


def _schema(name: str) -> Object:
    return {"$ref": f"#/components/schemas/{name}"} if name else {"type": "string"}


def _in_path(path: str) -> list[Object]:
    return [_parameter(name, "path") for name in ("name", "namespace", "path") if f"{{{name}}}" in path]


def _parameter(name: str, where: str) -> Object:
    sort = "boolean" if name in _BOOLEANS else "integer" if name in _INTEGERS else "string"
    required = {"required": True} if where == "path" else {}
    return {"name": name, "in": where, **required, "schema": {"type": sort, "uniqueItems": True}}
