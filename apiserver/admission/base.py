"""What an admission plugin is and what it may look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apimachinery import errors
from apimachinery.errors import StatusError
from apimachinery.scheme import Scheme
from apiserver.auth.authorize import Union
from apiserver.auth.rbac import RBAC
from apiserver.registry.call import Call
from apiserver.registry.reading import relative_key
from apiserver.registry.registry import Registry
from apiserver.storage.cacher import Cacher

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Context:
    cacher: Cacher
    registry: Registry
    scheme: Scheme
    authorizer: Union
    rbac: RBAC
    allow_privileged: bool = True

    def cached(
        self, group: str, resource: str, namespace: str, name: str, version: str = "v1"
    ) -> Object | None:
        """An object as the watch cache has it; None when it has none (or the kind is not served)."""
        kind = self.scheme.resource(group, version, resource)
        entry = self.cacher.of(kind).get(relative_key(kind, namespace, name)) if kind else None
        return entry.decoded() if entry else None

    async def current(
        self, group: str, resource: str, namespace: str, name: str, version: str = "v1"
    ) -> Object | None:
        """The same, asking the store when the cache has nothing (it may lag behind)."""
        found = self.cached(group, resource, namespace, name, version)
        return found if found is not None else await self.live(group, resource, namespace, name, version)

    async def live(
        self, group: str, resource: str, namespace: str, name: str, version: str = "v1"
    ) -> Object | None:
        """The object as the store has it now."""
        kind = self.scheme.resource(group, version, resource)
        if kind is None:
            return None
        try:
            return (await self.registry.reader.get(kind, namespace, name)).decoded()
        except StatusError as error:
            if errors.is_not_found(error):
                return None
            raise


class Plugin:
    """Override what the plugin needs. Both may raise StatusError; only `mutate` may change `call.obj`."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def handles(self, call: Call) -> bool:
        return True

    async def mutate(self, call: Call) -> None:
        return None

    async def validate(self, call: Call) -> None:
        return None


def forbid(call: Call, why: str) -> StatusError:
    return errors.forbidden(call.kind.group, call.kind.resource, call.name, why)


def is_create(call: Call) -> bool:
    return call.old is None and call.obj is not None and not call.subresource
