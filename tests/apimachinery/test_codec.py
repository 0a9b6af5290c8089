"""Bodies: JSON, YAML and what either must refuse."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apimachinery import codec
from apimachinery.errors import StatusError


def test_json_and_its_duplicates() -> None:
    body = b'{"a":{"b":1,"b":2},"c":[{"d":1,"d":2}],"a":{}}'
    assert codec.parse_json(body) == ({"a": {}, "c": [{"d": 2}]}, ())
    assert codec.parse_json(body, find_duplicates=True)[1] == ("a.b", "c[0].d", "a")


KEYS = st.sampled_from(["a", "b", "a\\u0062", '\\":', ":", ""])
SPACE = st.sampled_from(["", "", "", " ", "\n\t", "\r"])
TEXTS = st.sampled_from(["1", "null", '"x"', '"\\":"', '"b\\" : 2"', "[]", "{}"])


@st.composite
def written(draw: st.DrawFn, depth: int = 3) -> str:
    """JSON as somebody may write it, with keys given twice and white space anywhere."""
    if not depth or draw(st.booleans()):
        return draw(TEXTS)
    inner = draw(st.lists(written(depth=depth - 1), max_size=3))
    if draw(st.booleans()):
        return "[" + ",".join(inner) + "]"
    pairs = [f'{draw(SPACE)}"{draw(KEYS)}"{draw(SPACE)}:{draw(SPACE)}{value}' for value in inner]
    return "{" + ",".join(pairs) + "}"


@given(written())
@settings(max_examples=500, deadline=None)
def test_every_key_given_twice_is_found_however_it_is_written(text: str) -> None:
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        found.extend(name for at, name in enumerate(names) if name in names[:at])
        return dict(pairs)

    assert codec.parse_json(text.encode())[0] == json.loads(text, object_pairs_hook=look)
    duplicates = codec.parse_json(text.encode(), find_duplicates=True)[1]
    assert len(duplicates) == len(found)


@pytest.mark.parametrize("body", [b"", b"{", b"{'a':1}", b"\xff", b'{"a":NaN}', b"[" * 300 + b"]" * 300])
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises(StatusError) as caught:
        codec.parse_json(body)
    assert caught.value.code == 400


def test_yaml_gives_json_types() -> None:
    body = b"a: 1\nb: [x, 2020-01-01, 1.5, null]\n1: yes\ntrue: |\n  text\nm: {<<: {x: 1}, y: 2}\n"
    expected = {
        "a": 1,
        "b": ["x", "2020-01-01", 1.5, None],
        "1": True,
        "true": "text\n",
        "m": {"x": 1, "y": 2},
    }
    assert codec.parse_yaml(body) == (expected, ())


def test_yaml_duplicates_are_noted() -> None:
    assert codec.parse_yaml(b"a: 1\na: 2\n") == ({"a": 2}, ("a",))


@pytest.mark.parametrize("body", [rb'{"a": "\ud8e8"}', rb'{"\ude00": 1}', rb'{"a": ["\ud83d\ude00"]}'])
def test_half_a_character_is_none(body: bytes) -> None:
    """What JSON writes as a pair is nothing in YAML, and could not be written again."""
    with pytest.raises(StatusError, match="invalid Unicode character escape code"):
        codec.parse_yaml(body)
    assert codec.parse_yaml(rb'{"a": "\U0001f600"}') == ({"a": "\N{GRINNING FACE}"}, ())


def test_json_is_yaml() -> None:
    assert codec.parse_yaml(b'{"a": {"b": [1, true]}}')[0] == {"a": {"b": [1, True]}}


@pytest.mark.parametrize(
    "body",
    [
        b"a: [",
        b"a: b: c",
        b"- !!python/object/apply:os.system ['true']",
        b"a: 1\n---\nb: 2\n",
        b"? [a, b]\n: 1\n",
        b"a: .nan\n",
        b"a: &a [*a]\n",
        b"[" * 300 + b"]" * 300,
        b"a: \xff\xfe\n",
        b"a: !!binary aGk=\n",
    ],
)
def test_what_is_refused_in_yaml(body: bytes) -> None:
    with pytest.raises(StatusError) as caught:
        codec.parse_yaml(body)
    assert caught.value.code == 400


def test_an_alias_bomb_is_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    started = time.perf_counter()
    with pytest.raises(StatusError, match="excessive aliasing"):
        codec.parse_yaml("\n".join(lines).encode())
    assert time.perf_counter() - started < 5
