"""The wire as Google's own runtime sees it: descriptors made from the layouts, the same bytes."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, unknown_fields
from google.protobuf.message import Message
from hypothesis import given

from apimachinery.protobuf import decode, encode
from apimachinery.protobuf import layout as layouts
from apimachinery.schema.table import Type
from tests.apimachinery.protobuf.objects import objects

FIELD = descriptor_pb2.FieldDescriptorProto
POD = "io.k8s.api.core.v1.Pod"
# Types that are messages with these fields (name, number, type).
_MESSAGES: dict[str, tuple[tuple[str, int, int], ...]] = {
    "date-time": (("seconds", 1, FIELD.TYPE_INT64), ("nanos", 2, FIELD.TYPE_INT32)),
    "micro-time": (("seconds", 1, FIELD.TYPE_INT64), ("nanos", 2, FIELD.TYPE_INT32)),
    "quantity": (("string", 1, FIELD.TYPE_STRING),),
    "int-or-string": (
        ("type", 1, FIELD.TYPE_INT64),
        ("intVal", 2, FIELD.TYPE_INT32),
        ("strVal", 3, FIELD.TYPE_STRING),
    ),
    "raw": (("raw", 1, FIELD.TYPE_BYTES),),
    "any": (("raw", 1, FIELD.TYPE_BYTES),),
}
_SCALARS = {
    "string": FIELD.TYPE_STRING,
    "bytes": FIELD.TYPE_BYTES,
    "int32": FIELD.TYPE_INT32,
    "int64": FIELD.TYPE_INT64,
    "boolean": FIELD.TYPE_BOOL,
    "number": FIELD.TYPE_DOUBLE,
}


class Descriptors:
    """One proto2 file with the messages that a definition needs."""

    def __init__(self, root: str) -> None:
        self.file = descriptor_pb2.FileDescriptorProto(name="api.proto", package="api", syntax="proto2")
        self._known: set[str] = set()
        name = self._message(root, lambda: layouts.of(root))
        pool = descriptor_pool.DescriptorPool()
        pool.Add(self.file)  # type: ignore[no-untyped-call]
        self.root: type[Message] = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"api.{name}"))

    def _message(self, name: str, layout: Any) -> str:
        flat = name.replace(".", "_").replace("-", "_")
        if flat not in self._known:
            self._known.add(flat)
            made = self.file.message_type.add(name=flat)
            for number, slot in sorted(layout().items()):
                self._field(made, flat, number, slot)
        return flat

    def _field(self, made: Any, owner: str, number: int, slot: layouts.Slot | layouts.Layout) -> None:
        field = made.field.add(name=f"f{number}", number=number, label=FIELD.LABEL_OPTIONAL)
        if isinstance(slot, dict):
            self._refer(field, f"{owner}_in{number}", slot)
            return
        kind = slot.type
        if isinstance(kind, list) and kind[0] == "array":
            field.label, kind = FIELD.LABEL_REPEATED, kind[1]
        if isinstance(kind, list) and kind[0] == "map":
            field.label = FIELD.LABEL_REPEATED
            entry: layouts.Layout = {1: layouts.Slot("key", "string"), 2: layouts.Slot("value", kind[1])}
            self._refer(field, f"{owner}_entry{number}", entry)
            return
        self._typed(field, kind)

    def _typed(self, field: Any, kind: Type) -> None:
        if isinstance(kind, list):
            field.type, field.type_name = (
                FIELD.TYPE_MESSAGE,
                self._message(kind[1], lambda: layouts.of(kind[1])),
            )
        elif kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            self._special(kind)
            field.type, field.type_name = FIELD.TYPE_MESSAGE, f"special_{kind.replace('-', '_')}"

    def _special(self, kind: str) -> None:
        flat = f"special_{kind.replace('-', '_')}"
        if flat not in self._known:
            self._known.add(flat)
            made = self.file.message_type.add(name=flat)
            for name, number, scalar in _MESSAGES[kind]:
                made.field.add(name=name, number=number, type=scalar, label=FIELD.LABEL_OPTIONAL)

    def _refer(self, field: Any, name: str, layout: layouts.Layout) -> None:
        field.type, field.type_name = FIELD.TYPE_MESSAGE, self._message(name, lambda: layout)


PODS = Descriptors(POD).root


@given(objects(POD))
def test_the_runtime_reads_what_is_encoded_and_is_read_in_turn(pod: dict[str, Any]) -> None:
    read = PODS()
    read.ParseFromString(encode.message(pod, POD))
    assert not list(_unknown(read))
    assert decode.message(read.SerializeToString(), POD) == pod


def _unknown(message: Message) -> Any:
    """Numbers that the descriptors do not have, at any depth."""
    unknown: Any = unknown_fields.UnknownFieldSet(message)
    yield from (item.field_number for item in unknown)
    for field, value in message.ListFields():
        if field.message_type:
            for item in value if field.is_repeated else [value]:
                yield from _unknown(item)
