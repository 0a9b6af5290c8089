"""Objects made up from the schema table: any of the fields protobuf can carry, with values Go could have."""

from __future__ import annotations

import datetime
import random
from typing import Any

from hypothesis import strategies as st

from apimachinery.protobuf import layout as layouts
from apimachinery.schema.table import Type

Object = dict[str, Any]
TEXTS = ("", "a", "default", "Größe", "名", "x" * 200)
INTEGERS = (0, 1, -1, 127, 128, 300, (1 << 31) - 1, -(1 << 31))
LONG = (*INTEGERS, 1 << 40, (1 << 63) - 1, -(1 << 63))
EMBEDDED: tuple[Any, ...] = ({}, {"a": {"b": [1, "c", None]}}, [1], "s", 7, True)
FIELDS_OF_AN_OBJECT = 5  # on average


def objects(definition: str) -> st.SearchStrategy[Object]:
    """One object a seed: building by strategies would take a hundred times as long."""
    return st.integers(0, 1 << 32).map(lambda seed: _Maker(random.Random(seed)).make(layouts.of(definition)))


class _Maker:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def make(self, layout: layouts.Layout, depth: int = 0) -> Object:
        slots = list(_slots(layout))
        likely = FIELDS_OF_AN_OBJECT / (len(slots) or 1) * 0.8**depth
        return {slot.name: self._value(slot.type, depth) for slot in slots if self._chance.random() < likely}

    def _value(self, kind: Type, depth: int) -> Any:
        if isinstance(kind, str):
            return self._scalar(kind, depth)
        count = self._chance.randint(1, 2)
        if kind[0] == "array":
            return [self._value(kind[1], depth + 1) for _ in range(count)]
        if kind[0] == "map":
            return {self._chance.choice(TEXTS): self._value(kind[1], depth + 1) for _ in range(count)}
        return self.make(layouts.of(kind[1]), depth + 1)

    def _scalar(self, kind: str, depth: int) -> Any:
        def schema() -> Object:
            return self.make(layouts.of(layouts.SCHEMA), depth + 3)

        def texts() -> list[str]:
            return self._chance.choices(TEXTS, k=2)

        pick = self._chance.choice
        match kind:
            case layouts.OR_ARRAY:
                return pick(([schema()], schema()))
            case layouts.OR_BOOLEAN:
                return pick((True, False, schema()))
            case layouts.OR_STRINGS:
                return pick((texts(), schema()))
            case layouts.EMPTY:
                return {}
            case "string":
                return pick(TEXTS)
            case "bytes":
                return pick(("", "AA==", "aGFyZHdheQ=="))
            case "int32":
                return pick(INTEGERS)
            case "int64":
                return pick(LONG)
            case "boolean":
                return pick((True, False))
            case "number":
                return self._chance.uniform(-1e9, 1e9)
            case "quantity":
                return pick(("1", "100m", "2Gi"))
            case "int-or-string":
                return pick((*INTEGERS, *TEXTS))
            case "raw" | "any":
                return pick(EMBEDDED)
        return self._time("seconds" if kind == "date-time" else "microseconds")

    def _time(self, precision: str) -> str:
        start = datetime.datetime(1, 1, 1, tzinfo=datetime.UTC)
        moment = start + datetime.timedelta(microseconds=self._chance.randrange(300_000_000_000_000_000))
        return moment.replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def _slots(layout: layouts.Layout) -> list[layouts.Slot]:
    found = []
    for slot in layout.values():
        found += _slots(slot) if isinstance(slot, dict) else [slot]
    return found
