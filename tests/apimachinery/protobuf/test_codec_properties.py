"""Encoding and decoding undo each other, for whatever the schema allows; damaged bytes are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apimachinery.protobuf import decode, encode, wire
from apimachinery.protobuf import layout as layouts
from apimachinery.schema.table import load
from tests.apimachinery.protobuf.objects import objects

KINDS = sorted(name for name, item in load().items() if item.gvk and layouts.of(name))
CRD = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition"
POD = "io.k8s.api.core.v1.Pod"


@given(st.data())
def test_what_is_encoded_is_decoded(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(KINDS))
    obj = data.draw(objects(name))
    assert decode.message(encode.message(obj, name), name) == obj


@given(objects(layouts.SCHEMA))
def test_schemas_with_their_unions_too(schema: dict[str, Any]) -> None:
    assert decode.message(encode.message(schema, layouts.SCHEMA), layouts.SCHEMA) == schema


@given(st.data())
def test_damage_is_malformed_and_nothing_else(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([POD, CRD]))
    bytes_ = bytearray(encode.message(data.draw(objects(name)), name))
    for _ in range(data.draw(st.integers(1, 4))):
        if bytes_:
            bytes_[data.draw(st.integers(0, len(bytes_) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(bytes_[: data.draw(st.integers(0, len(bytes_)))])
    try:
        decode.message(cut, name)
    except wire.Malformed:
        return


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.binary(max_size=3))
def test_varints(value: int, rest: bytes) -> None:
    data = wire.varint(value)
    found, at = wire.read_varint(data + rest, 0)
    assert (wire.signed(found), at) == (value, len(data))


@pytest.mark.parametrize(
    ("data", "definition", "why"),
    [
        (b"\x08" + b"\xff" * 11, POD, "a varint does not end"),
        (b"\x0a\x05abc", POD, "unexpected end of message"),
        (b"\x0b", POD, "wire type 3 is not supported"),
        (b"\x08\x01", POD, "expected length-delimited bytes"),
        (b"\x0a\x01\xff", "io.k8s.api.core.v1.LocalObjectReference", "a string is not UTF-8"),
    ],
)
def test_what_is_malformed_is_named(data: bytes, definition: str, why: str) -> None:
    with pytest.raises(wire.Malformed, match=why):
        decode.message(data, definition)


def test_times_out_of_range_and_depth_have_bounds() -> None:
    late = wire.delimited(8, wire.integer(1, 1 << 40))
    with pytest.raises(wire.Malformed, match="years"):
        decode.message(late, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
    nested = b""
    for _ in range(decode.MAX_DEPTH + 1):
        nested = wire.delimited(28, nested)  # not: JSONSchemaProps
    with pytest.raises(wire.Malformed, match="nested too deeply"):
        decode.message(nested, layouts.SCHEMA)


def test_lists_of_numbers_come_packed_or_one_by_one() -> None:
    name = "io.k8s.api.core.v1.PodSecurityContext"
    number = next(
        n for n, slot in layouts.of(name).items() if getattr(slot, "name", "") == "supplementalGroups"
    )
    packed = wire.delimited(number, wire.varint(5) + wire.varint(7))
    single = wire.integer(number, 5) + wire.integer(number, 7)
    assert decode.message(packed, name) == decode.message(single, name) == {"supplementalGroups": [5, 7]}


def test_a_zero_time_is_null_and_an_unknown_field_is_skipped() -> None:
    meta = wire.delimited(1, b"a") + wire.delimited(8, b"") + wire.delimited(900, b"newer")
    name = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    assert decode.message(meta, name) == {"name": "a", "creationTimestamp": None}
