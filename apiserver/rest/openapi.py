"""OpenAPI documents: v3 per group version, and one of v2 with everything.

kubectl reads from v3 whether PATCH and POST of a kind know `fieldValidation` (then it leaves validation to
the server), and up to 1.26 from v2 whether PATCH knows `dryRun`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from apimachinery.schema import openapi
from apimachinery.scheme import Kind, Scheme
from apiserver.aggregation.documents import openapi_path
from apiserver.extensions.serving import LIST_META, OBJECT_META, CustomKind, openapi_schemas
from apiserver.rest import operations, swagger
from apiserver.rest.discovery import Elsewhere, Extra, Nowhere
from componentbase.version import GIT_VERSION

Object = dict[str, Any]

SCALE = "io.k8s.api.autoscaling.v1.Scale"
EVICTION, TOKEN_REQUEST = "io.k8s.api.policy.v1.Eviction", "io.k8s.api.authentication.v1.TokenRequest"
"""What subresources of other groups are."""
INFO = {"title": "Kubernetes", "version": GIT_VERSION}


class OpenApi:
    """Documents are made when first asked for and kept. What is served elsewhere stands in the index (its
    server answers for the document itself) and in the v2 document, where our definitions win over theirs.
    """

    def __init__(
        self,
        scheme: Scheme,
        group_versions: Callable[[], Iterable[tuple[str, str]]],
        extras: Iterable[Extra] = (),
    ) -> None:
        """`extras` are served, but not of the scheme."""
        self._scheme = scheme
        self._extras = tuple(extras)
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
        """A Swagger document of all paths and definitions."""
        if "v2" not in self._documents:
            served = tuple(self._group_versions())
            names = [name for item in served for name in openapi.definitions_of(*item)]
            made = {**openapi.schemas([*names, *operations.SHARED]), **self._custom(*served)}
            text = orjson.dumps(made).replace(b"#/components/schemas/", b"#/definitions/")
            others = [known.definitions for known in self.elsewhere.versions().values() if known]
            merged = {name: schema for one in others for name, schema in one.items()} | orjson.loads(text)
            paths = {path: item for gv in sorted(served) for path, item in self._paths(*gv).items()}
            document = {
                "swagger": "2.0",
                "info": INFO,
                "paths": swagger.paths_to_v2(paths),
                "definitions": {name: swagger.to_v2(schema) for name, schema in merged.items()},
            }
            self._documents["v2"] = _hashed(document)
            self._protobuf = b""
        return self._documents["v2"]

    def v2_protobuf(self) -> tuple[bytes, str]:
        """The same as protobuf."""
        body, digest = self.v2()
        self._protobuf = self._protobuf or swagger.encode(orjson.loads(body))
        return self._protobuf, digest

    def _document(self, group: str, version: str) -> Object:
        custom = self._custom((group, version))
        names = [*openapi.definitions_of(group, version), *operations.SHARED, OBJECT_META, LIST_META]
        if any(name == "scale" for kind in self._kinds(group, version) for name in kind.subresources):
            names.append(SCALE)
        if not group:
            names += [EVICTION, TOKEN_REQUEST]
        schemas = {**openapi.schemas(names), **custom}
        paths = self._paths(group, version)
        return {"openapi": "3.0.0", "info": INFO, "paths": paths, "components": {"schemas": schemas}}

    def _paths(self, group: str, version: str) -> Object:
        paths: Object = {}
        for kind in self._kinds(group, version):
            paths.update(operations.of_kind(kind))
        for extra in self._extras:
            if (extra.group, extra.version) == (group, version):
                paths.update(operations.of_extra(extra))
        return dict(sorted(paths.items()))

    def _kinds(self, group: str, version: str) -> list[Kind]:
        return [kind for kind in self._scheme if (kind.group, kind.version) == (group, version)]

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
