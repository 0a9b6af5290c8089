"""The scheme: what kinds there are, and what is particular about each.

A kind is one `Kind` value: its names, scope, verbs and subresources, its table columns, and a `Strategy`
with the few decisions that differ between kinds. Everything else about an object is generic. Values are
immutable; all functions in a strategy are pure (they may change the object handed to them, which the caller
owns, and nothing else).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from apimachinery.errors import Cause

Object = dict[str, Any]

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the server-side `Table` (`meta/v1` TableColumnDefinition) and how a cell is made."""

    name: str
    cell: Callable[[Object], Any]
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0


def _keep(_: Object) -> None:
    return None


def _keep_update(_new: Object, _old: Object) -> None:
    return None


def _accept(_: Object) -> Iterable[Cause]:
    return ()


def _accept_update(_new: Object, _old: Object) -> Iterable[Cause]:
    return ()


def _no_fields(_: Object) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Strategy:
    """What one kind does at each step of a write. Defaults do nothing; metadata rules are generic.

    `default` fills absent fields (after schema defaults). `prepare_*` drop what the caller may not set.
    `validate*` yield causes with Kubernetes' field paths. `status_*` are the same steps for the `status`
    subresource. `fields` gives the values of selectable fields other than metadata.name and
    metadata.namespace.
    """

    default: Callable[[Object], None] = _keep
    prepare_create: Callable[[Object], None] = _keep
    prepare_update: Callable[[Object, Object], None] = _keep_update
    validate: Callable[[Object], Iterable[Cause]] = _accept
    validate_update: Callable[[Object, Object], Iterable[Cause]] = _accept_update
    status_prepare_update: Callable[[Object, Object], None] = _keep_update
    status_validate_update: Callable[[Object, Object], Iterable[Cause]] = _accept_update
    fields: Callable[[Object], Mapping[str, str]] = _no_fields
    has_generation: bool = True  # metadata.generation counts changes of spec
    allow_create_on_update: bool = False
    allow_unconditional_update: bool = True
    default_grace_seconds: int = 0  # > 0: deletion is graceful (pods: 30)
    default_propagation: str = "Background"


@dataclass(frozen=True, slots=True)
class Scale:
    """Where the `scale` subresource finds its numbers (paths are dotted)."""

    spec_replicas: str = "spec.replicas"
    status_replicas: str = "status.replicas"
    selector: str = "spec.selector"


class Converter(Protocol):
    """Turns objects of a kind into another of its versions by asking somebody outside."""

    storage_version: str  # the apiVersion that new objects are stored in

    async def convert(self, objects: list[Object], api_version: str) -> list[Object]: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """One served kind."""

    group: str
    version: str
    kind: str
    resource: str  # plural, as in the path
    namespaced: bool
    storage_prefix: str  # below /registry/
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: tuple[str, ...] = ()  # "status", "scale", "binding", "eviction", "log", "exec", ...
    columns: tuple[Column, ...] = ()
    strategy: Strategy = field(default_factory=Strategy)
    scale: Scale | None = None
    selectable_fields: tuple[str, ...] = ()  # beyond metadata.name / metadata.namespace
    secret: bool = False  # encrypted at rest when the encryption configuration names it
    # A kind that shares the storage of another (events) is kept in that kind's form; these turn one into
    # the other.
    to_storage: Callable[[Object], Object] | None = None
    from_storage: Callable[[Object], Object] | None = None
    row_conditions: Callable[[Object], list[Object] | None] | None = (
        None  # of a table row, e.g. a pod's Completed
    )
    # Stored objects of another apiVersion, and those to be stored, are converted first.
    converter: Converter | None = None
    name_rule: str = "subdomain"  # a key of meta.NAME_RULES: what metadata.name has to look like

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def list_kind(self) -> str:
        return f"{self.kind}List"

    @property
    def group_resource(self) -> str:
        return f"{self.resource}.{self.group}" if self.group else self.resource


class Scheme:
    """The kinds a server serves, found by the names in a request path. Lookups are dictionary reads."""

    def __init__(self, kinds: Iterable[Kind] = ()) -> None:
        self._by_resource: dict[tuple[str, str, str], Kind] = {}
        self._by_kind: dict[tuple[str, str, str], Kind] = {}
        for kind in kinds:
            self.add(kind)

    def add(self, kind: Kind) -> None:
        """Register a kind; the same resource twice is a programming error."""
        key = (kind.group, kind.version, kind.resource)
        if key in self._by_resource:
            raise ValueError(f"kind registered twice: {key}")
        self._by_resource[key] = kind
        self._by_kind[(kind.group, kind.version, kind.kind)] = kind

    def remove(self, kind: Kind) -> None:
        """Take a kind away again (custom resources come and go)."""
        del self._by_resource[(kind.group, kind.version, kind.resource)]
        del self._by_kind[(kind.group, kind.version, kind.kind)]

    def resource(self, group: str, version: str, resource: str) -> Kind | None:
        return self._by_resource.get((group, version, resource))

    def kind(self, group: str, version: str, kind: str) -> Kind | None:
        return self._by_kind.get((group, version, kind))

    def groups(self) -> dict[str, list[str]]:
        """Group -> served versions, in registration order."""
        out: dict[str, list[str]] = {}
        for group, version, _ in self._by_resource:
            versions = out.setdefault(group, [])
            if version not in versions:
                versions.append(version)
        return out

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._by_resource.values())
