"""The handler of /api and /apis: one dictionary look-up finds the kind, one the verb or subresource."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from apimachinery import errors
from apimachinery.scheme import Kind, Scheme
from apiserver.extensions.serving import CustomKind
from apiserver.rest.info import RequestInfo
from apiserver.rest.message import Answer, Request
from apiserver.rest.verbs import Verbs, unknown_resource

Endpoint = Callable[[Request, Kind], Awaitable[Answer]]
# (group or "*", resource or "*", subresource) -> verb -> endpoint
Subresources = Mapping[tuple[str, str, str], Mapping[str, Endpoint]]
Asked = Mapping[str, Callable[[Request], Awaitable[Answer]]]  # by verb
Virtual = Mapping[tuple[str, str, str], Asked]

DEPRECATED = {
    ("", "v1", "componentstatuses"): "v1 ComponentStatus is deprecated in v1.19+",
    ("", "v1", "endpoints"): "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
}
"""What whoever asks for these is warned of."""


class Resources:
    """`virtual` are the resources that are only asked, never stored (access reviews), each with its verbs."""

    def __init__(
        self,
        scheme: Scheme,
        verbs: Verbs,
        subresources: Subresources,
        virtual: Virtual,
        settle: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`settle` waits until the scheme holds every kind that has been defined up to now."""
        self._scheme = scheme
        self._settle = settle
        self._subresources = subresources
        self._virtual = virtual
        self._verbs: Mapping[str, Endpoint] = {
            "get": verbs.get,
            "list": verbs.list,
            "watch": verbs.watch,
            "create": verbs.create,
            "update": verbs.update,
            "patch": verbs.patch,
            "delete": verbs.delete,
            "deletecollection": verbs.deletecollection,
        }

    async def __call__(self, request: Request) -> Answer:
        info = request.info
        asked = (info.group, info.version, info.resource)
        if asked in DEPRECATED:
            request.warnings.append(DEPRECATED[asked])
        virtual = self._virtual.get(asked)
        if virtual is not None and not info.subresource:
            if info.verb not in virtual:
                raise errors.method_not_supported(info.group, info.resource, info.verb)
            return await virtual[info.verb](request)
        kind = await self._find(info)
        if kind is None or not _scope_fits(kind, info):
            raise unknown_resource()
        if isinstance(kind, CustomKind) and kind.deprecation:
            request.warnings.append(kind.deprecation)
        if info.subresource:
            return await self._subresource(request, kind)
        endpoint = self._verbs.get(info.verb)
        if endpoint is None or info.verb not in kind.verbs or not _addressed(kind, info):
            raise errors.status(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
                details={},
            )
        return await endpoint(request, kind)

    async def _find(self, info: RequestInfo) -> Kind | None:
        kind = self._scheme.resource(info.group, info.version, info.resource)
        if kind is None and self._settle is not None and "." in info.group:
            await self._settle()
            kind = self._scheme.resource(info.group, info.version, info.resource)
        return kind

    async def _subresource(self, request: Request, kind: Kind) -> Answer:
        info = request.info
        if info.subresource not in kind.subresources or not info.name:
            raise unknown_resource()
        for key in ((kind.group, kind.resource, info.subresource), ("*", "*", info.subresource)):
            verbs = self._subresources.get(key)
            if verbs is None:
                continue
            endpoint = verbs.get(info.verb) or verbs.get("*")
            if endpoint is None:
                raise errors.method_not_supported(
                    kind.group, f"{kind.resource}/{info.subresource}", info.verb
                )
            return await endpoint(request, kind)
        raise errors.status(
            501,
            "NotImplemented",
            f"{kind.resource}/{info.subresource} is not supported by this server",
            details={},
        )


def _scope_fits(kind: Kind, info: RequestInfo) -> bool:
    if kind.namespaced or kind.resource == "namespaces":
        return True
    return not info.namespace


def _addressed(kind: Kind, info: RequestInfo) -> bool:
    """Whether the path names as much as the verb needs: an object, or a collection in a namespace."""
    if info.verb in ("get", "update", "patch", "delete"):
        return bool(info.name) and (bool(info.namespace) or not kind.namespaced)
    if info.verb in ("create", "deletecollection"):
        named = info.verb == "create" and bool(info.name)
        return not named and (bool(info.namespace) or not kind.namespaced)
    return True
