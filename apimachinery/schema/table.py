"""The schema table in memory: definitions and their fields, loaded once, on first use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from apimachinery.schema import TABLE_NAME

# "string", "int32", ... or ["array", T], ["map", T], ["ref", definition name].
Type = str | list[Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a definition."""

    name: str
    type: Type
    required: bool = False
    keeps_zero: bool = False  # a pointer in Go: an empty value is written, not dropped
    description: str = ""
    patch_strategy: str = ""  # "merge", "replace", "retainKeys", comma separated
    merge_key: str = ""
    list_type: str = ""  # x-kubernetes-list-type
    list_keys: tuple[str, ...] = ()
    map_type: str = ""
    numbers: tuple[int, ...] = ()  # in protobuf: several lead through embedded structs; none: not sent so


@dataclass(frozen=True, slots=True)
class Definition:
    """One type, by its OpenAPI name (`io.k8s.api.core.v1.Pod`)."""

    name: str
    fields: Mapping[str, Field]
    description: str = ""
    gvk: tuple[str, str, str] | None = None  # group, version, kind of a top-level type
    atomic: bool = False

    @property
    def short(self) -> str:
        """The Go type's own name: `PodSpec`."""
        return self.name.rpartition(".")[2]


class Table(Mapping[str, Definition]):
    """Definitions by name; each is built from its raw entry the first time it is asked for."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw
        self._built: dict[str, Definition] = {}
        self._by_kind = {tuple(entry["gvk"]): name for name, entry in raw.items() if "gvk" in entry}

    def __getitem__(self, name: str) -> Definition:
        found = self._built.get(name)
        if found is None:
            found = self._built[name] = _build(name, self._raw[name])
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def definition_of(self, group: str, version: str, kind: str) -> str | None:
        """The definition of a top-level kind; None for one that is not built in (a custom resource)."""
        return self._by_kind.get((group, version, kind))

    def field(self, name: str | None, path: Iterable[str]) -> Field | None:
        """The field at a dotted path below a definition, through arrays and maps."""
        found: Field | None = None
        for part in path:
            definition = self.get(name) if name else None
            found = definition.fields.get(part) if definition else None
            if found is None:
                return None
            name = ref_of(found.type)
        return found


def ref_of(kind: Type) -> str | None:
    """The definition that a field's elements (or itself) are of."""
    while isinstance(kind, list):
        if kind[0] == "ref":
            return str(kind[1])
        kind = kind[1]
    return None


def _build(name: str, raw: Mapping[str, Any]) -> Definition:
    fields = {
        key: Field(
            name=key,
            type=entry["t"],
            required=entry.get("r", False),
            keeps_zero=entry.get("z", False),
            description=entry["d"],
            patch_strategy=entry.get("ps", ""),
            merge_key=entry.get("mk", ""),
            list_type=entry.get("lt", ""),
            list_keys=tuple(entry.get("lk", ())),
            map_type=entry.get("mt", ""),
            numbers=tuple(entry.get("n", ())),
        )
        for key, entry in raw["f"].items()
    }
    gvk = raw.get("gvk")
    return Definition(
        name, fields, raw["d"], (gvk[0], gvk[1], gvk[2]) if gvk else None, raw.get("atomic", False)
    )


@cache
def load() -> Table:
    """The table that the build made; raises FileNotFoundError when it was not built (`python
    hatch_build.py`).
    """
    path = Path(__file__).with_name(TABLE_NAME)
    try:
        return Table(orjson.loads(path.read_bytes()))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{TABLE_NAME} is missing: run `python hatch_build.py` in the checkout"
        ) from None
