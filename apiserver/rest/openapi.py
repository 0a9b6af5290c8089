"""OpenAPI documents: v3 per group version (with the paths clients look into) and a v2 document of all
definitions.

kubectl reads from v3 whether PATCH and POST of a kind know `fieldValidation`; then it leaves validation to
the server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from apimachinery.schema import openapi
from apimachinery.schema.decode import definition_of
from apimachinery.scheme import Kind, Scheme
from apiserver.aggregation.documents import openapi_path
from apiserver.extensions.serving import LIST_META, OBJECT_META, CustomKind, definition_name, openapi_schemas
from apiserver.rest import swagger
from apiserver.rest.discovery import Elsewhere, Nowhere
from componentbase.version import GIT_VERSION

Object = dict[str, Any]

INFO = {"title": "Kubernetes", "version": GIT_VERSION}
JSON = "application/json"
_STRINGS = ("fieldManager", "fieldValidation", "dryRun", "pretty")
_LISTS = ("labelSelector", "fieldSelector", "resourceVersion", "resourceVersionMatch", "continue")
PATCHES = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)


class OpenApi:
    """Documents are made when first asked for and kept. What is served elsewhere stands in the index (its
    server answers for the document itself) and in the v2 document, where our definitions win over theirs.
    """

    def __init__(self, scheme: Scheme, group_versions: Callable[[], Iterable[tuple[str, str]]]) -> None:
        self._scheme = scheme
        self._group_versions = group_versions
        self._documents: dict[str, tuple[bytes, str]] = {}
        self._protobuf = b""  # the v2 document in its other form
        self.elsewhere: Elsewhere = Nowhere()

    def forget_elsewhere(self) -> None:
        """What other servers serve has changed."""
        self._documents.pop("v2", None)

    def forget(self, group: str, version: str) -> None:
        """The kinds of a group version have changed: its document, and that of everything, are made again."""
        self._documents.pop(f"apis/{group}/{version}", None)
        self._documents.pop("v2", None)

    def index(self) -> bytes:
        paths = {}
        for group, version in self._group_versions():
            path = f"apis/{group}/{version}" if group else f"api/{version}"
            document = self.v3(path)
            assert document is not None
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={document[1]}"}
        for item, known in self.elsewhere.versions().items():
            if known is not None and known.openapi_v3:
                paths[openapi_path(item)] = {"serverRelativeURL": known.openapi_v3}
        return orjson.dumps({"paths": paths})

    def v3(self, path: str) -> tuple[bytes, str] | None:
        """The document of `apis/<group>/<version>` (or `api/v1`) and its hash; None when it is not served."""
        parts = path.strip("/").split("/")
        group, version = (parts[1], parts[2]) if len(parts) == 3 else ("", parts[-1])
        if (group, version) not in set(self._group_versions()):
            return None
        if path not in self._documents:
            self._documents[path] = _hashed(self._document(group, version))
        return self._documents[path]

    def v2(self) -> tuple[bytes, str]:
        """A Swagger document of all definitions, without paths: current clients read those from v3."""
        if "v2" not in self._documents:
            names = [name for gv in self._group_versions() for name in openapi.definitions_of(*gv)]
            made = {**openapi.schemas(names), **self._custom(*self._group_versions())}
            text = orjson.dumps(made).replace(b"#/components/schemas/", b"#/definitions/")
            others = [known.definitions for known in self.elsewhere.versions().values() if known]
            merged = {name: schema for one in others for name, schema in one.items()} | orjson.loads(text)
            definitions = {name: swagger.to_v2(schema) for name, schema in merged.items()}
            document = {"swagger": "2.0", "info": INFO, "paths": {}, "definitions": definitions}
            self._documents["v2"] = _hashed(document)
            self._protobuf = b""
        return self._documents["v2"]

    def v2_protobuf(self) -> tuple[bytes, str]:
        """The same as protobuf."""
        body, digest = self.v2()
        self._protobuf = self._protobuf or swagger.encode(orjson.loads(body))
        return self._protobuf, digest

    def _document(self, group: str, version: str) -> Object:
        paths: Object = {}
        for kind in self._scheme:
            if (kind.group, kind.version) == (group, version):
                paths.update(_paths(kind))
        custom = self._custom((group, version))
        shared = [OBJECT_META, LIST_META] if custom else []
        schemas = {**openapi.schemas([*openapi.definitions_of(group, version), *shared]), **custom}
        return {"openapi": "3.0.0", "info": INFO, "paths": paths, "components": {"schemas": schemas}}

    def _custom(self, *group_versions: tuple[str, str]) -> Object:
        """The schemas of custom resources in these group versions."""
        out: Object = {}
        for kind in self._scheme:
            if isinstance(kind, CustomKind) and (kind.group, kind.version) in group_versions:
                out.update(openapi_schemas(kind))
        return out


def _hashed(document: Object) -> tuple[bytes, str]:
    body = orjson.dumps(document)
    return body, hashlib.sha512(body).hexdigest()[:64].upper()


def _paths(kind: Kind) -> Object:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    base = (
        f"{root}/namespaces/{{namespace}}/{kind.resource}" if kind.namespaced else f"{root}/{kind.resource}"
    )
    out: Object = {
        base: _methods(kind, {"get": "list", "post": "create", "delete": "deletecollection"}, named=False)
    }
    out[base + "/{name}"] = _methods(
        kind, {"get": "get", "put": "update", "patch": "patch", "delete": "delete"}, named=True
    )
    if kind.namespaced:
        out[f"{root}/{kind.resource}"] = _methods(kind, {"get": "list"}, named=False)
    if "status" in kind.subresources:
        out[base + "/{name}/status"] = _methods(
            kind, {"get": "get", "put": "update", "patch": "patch"}, named=True
        )
    return out


def _methods(kind: Kind, verbs: dict[str, str], *, named: bool) -> Object:
    out: Object = {method: _operation(kind, verb) for method, verb in verbs.items() if verb in kind.verbs}
    parameters = [
        _path_parameter(name) for name, given in (("name", named), ("namespace", kind.namespaced)) if given
    ]
    out["parameters"] = parameters
    return out


def _operation(kind: Kind, verb: str) -> Object:
    ref = (
        definition_name(kind)
        if isinstance(kind, CustomKind)
        else definition_of(kind.group, kind.version, kind.kind)
    )
    schema: Object = {"$ref": f"#/components/schemas/{ref}"} if ref else {"type": "object"}
    names = (
        _LISTS
        if verb in ("list", "deletecollection")
        else (*_STRINGS, "force")
        if verb == "patch"
        else _STRINGS
        if verb in ("create", "update")
        else _STRINGS[2:]
    )
    area = kind.group.partition(".")[0].title() or "Core"
    action = {"create": "post", "update": "put"}.get(verb, verb)
    out: Object = {
        "operationId": f"{verb}{area}{kind.version.title()}{kind.kind}",
        "parameters": [
            {
                "name": name,
                "in": "query",
                "schema": {"type": "boolean" if name == "force" else "string", "uniqueItems": True},
            }
            for name in names
        ],
        "responses": {"200": {"description": "OK", "content": {JSON: {"schema": schema}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
    }
    if verb in ("create", "update"):
        out["requestBody"] = {"required": True, "content": {"*/*": {"schema": schema}}}
    if verb == "patch":
        out["requestBody"] = {
            "required": True,
            "content": {media: {"schema": {"type": "object"}} for media in _patches(kind)},
        }
    return out


def _patches(kind: Kind) -> tuple[str, ...]:
    """kubectl reads here how it may patch: strategic merge needs the schema of a built-in kind."""
    if isinstance(kind, CustomKind):
        return tuple(media for media in PATCHES if "strategic" not in media)
    return PATCHES


def _path_parameter(name: str) -> Object:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "uniqueItems": True}}
