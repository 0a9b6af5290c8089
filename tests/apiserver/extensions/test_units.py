"""The pure parts of custom resources."""

from __future__ import annotations

from typing import Any

import pytest

from apiserver.extensions import cel, conditions, structural, validation
from apiserver.extensions.jsonpath import compile_path, simple_path
from apiserver.extensions.serving import convert_cell
from apiserver.extensions.versions import version_order

Object = dict[str, Any]

OBJECT: Object = {
    "metadata": {"annotations": {"a.b/c": "x"}},
    "spec": {"list": [1, 2, 3], "items": [{"n": "a", "v": 1}, {"n": "b", "v": 2}], "deep": {"n": "c"}},
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".spec.list", [[1, 2, 3]]),
        (".spec.list[0]", [1]),
        (".spec.list[-1]", [3]),
        (".spec.list[1:]", [2, 3]),
        (".spec.list[*]", [1, 2, 3]),
        (".spec.list[9]", []),
        (r".metadata.annotations.a\.b/c", ["x"]),
        (".metadata.annotations['a.b/c']", ["x"]),
        ('.spec.items[?(@.n=="b")].v', [2]),
        (".spec.items[?(@.v>1)].n", ["b"]),
        (".spec..n", ["a", "b", "c"]),
        (".nothing.here", []),
    ],
)
def test_json_paths(path: str, found: list[Any]) -> None:
    values = compile_path(path)(OBJECT)
    assert sorted(values, key=str) == sorted(found, key=str)


@pytest.mark.parametrize("path", ["spec", ".spec[", ".a[?(x)]", "..", ".a[b]"])
def test_bad_json_paths(path: str) -> None:
    with pytest.raises(ValueError):
        compile_path(path)


def test_simple_paths() -> None:
    assert simple_path(r".spec.a\.b") == ("spec", "a.b")
    with pytest.raises(ValueError):
        simple_path(".spec[0]")


def test_versions_are_ordered_as_kubernetes_does() -> None:
    given = ["v1", "v12alpha1", "foo1", "v2beta1", "v10", "v3beta1", "v11alpha2", "v2", "foo10"]
    wanted = ["v10", "v2", "v1", "v3beta1", "v2beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"]
    assert sorted(given, key=version_order) == wanted


def test_nulls_are_dropped_or_defaulted_unless_nullable() -> None:
    schema: Object = {
        "properties": {
            "a": {"type": "string", "default": "x"},
            "b": {"type": "string", "nullable": True},
            "c": {"type": "string"},
        }
    }
    value: Object = {"a": None, "b": None, "c": None}
    structural.default(value, schema)
    assert value == {"a": "x", "b": None}


def test_an_embedded_resource_keeps_its_envelope() -> None:
    schema: Object = {
        "type": "object",
        "properties": {"of": {"type": "object", "x-kubernetes-embedded-resource": True}},
    }
    value: Object = {"of": {"apiVersion": "v1", "kind": "X", "metadata": {"name": "n"}, "spec": 1}}
    assert structural.prune(value, schema) == ["of.spec"]
    assert value == {"of": {"apiVersion": "v1", "kind": "X", "metadata": {"name": "n"}}}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "format": "date-time"}, "2026-01-01T00:00:00Z", "today"),
        ({"type": "string", "format": "ipv4"}, "10.0.0.1", "10.0.0.256"),
        ({"type": "string", "format": "duration"}, "1h30m", "1x"),
        ({"type": "string", "format": "uuid"}, "6c1c9a4e-0ba4-4b1e-9d47-0f0f2f7c9a4e", "nope"),
        ({"type": "string", "pattern": "^a+$"}, "aa", "ab"),
        ({"type": "string", "maxLength": 2}, "ab", "abc"),
        ({"type": "integer", "multipleOf": 3}, 9, 10),
        ({"type": "integer", "maximum": 3, "exclusiveMaximum": True}, 2, 3),
        ({"type": "integer"}, 2.0, 2.5),
        ({"type": "number"}, 2, "2"),
        ({"type": "array", "items": {}, "x-kubernetes-list-type": "set"}, [1, 2], [1, 1]),
        ({"type": "object", "minProperties": 1}, {"a": 1}, {}),
        ({"oneOf": [{"minimum": 3}, {"maximum": 5}]}, 1, 4),
        ({"anyOf": [{"enum": [1]}, {"enum": [2]}]}, 2, 3),
        ({"not": {"enum": [1]}}, 2, 1),
        ({"allOf": [{"maximum": 5}]}, 5, 6),
        ({"type": "string", "nullable": True}, None, 1),
    ],
)
def test_values(schema: Object, good: Any, bad: Any) -> None:
    assert not list(validation.validate(good, schema, "x"))
    assert list(validation.validate(bad, schema, "x"))


def test_cells_have_their_columns_type() -> None:
    assert convert_cell(3, "string") == "3" and convert_cell({"a": 1}, "string") == '{"a":1}'
    assert convert_cell("3", "integer") is None and convert_cell(True, "integer") is None
    assert convert_cell(True, "boolean") is True and convert_cell(True, "string") == "true"


def _crd(name: str, kind: str, **status: Any) -> Object:
    spec = {"names": {"plural": name, "singular": name[:-1], "kind": kind, "listKind": f"{kind}List"}}
    versions = [{"name": "v1", "storage": True}]
    return {"metadata": {"name": name}, "spec": {**spec, "versions": versions}, "status": status}


def test_a_name_once_accepted_stays_and_times_move_with_the_status_alone() -> None:
    first = _crd("as", "A")
    first["status"] = conditions.next_status(first, [], (), 0.0)
    assert conditions.is_true(first, conditions.ESTABLISHED)
    assert conditions.next_status(first, [_crd("bs", "B")], (), 99.0) == first["status"]
    rival = _crd("as", "B")
    status = conditions.next_status(rival, [first], (), 0.0)
    reasons = {item["type"]: item["reason"] for item in status["conditions"]}
    assert reasons["NamesAccepted"] == "SingularConflict" and status["acceptedNames"]["plural"] == ""
    assert conditions.next_status(_crd("pods", "P"), [], {"pods"}, 0.0)["acceptedNames"]["plural"] == ""


def test_names_are_escaped_for_cel() -> None:
    assert cel.escape("namespace") == "__namespace__"
    assert cel.escape("a-b.c/d__e") == "a__dash__b__dot__c__slash__d__underscores__e"


@pytest.mark.skipif(not cel.available(), reason="needs cel-expr-python")
def test_cel_rules_on_nested_values_and_their_messages() -> None:
    item: Object = {
        "type": "object",
        "properties": {"min": {"type": "number"}, "max-size": {"type": "number"}},
        "x-kubernetes-validations": [
            {
                "rule": "self.min < self.max__dash__size",
                "messageExpression": "'min is ' + string(self.min)",
                "reason": "FieldValueForbidden",
                "fieldPath": ".min",
            }
        ],
    }
    schema: Object = {"type": "object", "properties": {"list": {"type": "array", "items": item}}}
    rules = cel.compile_rules(schema)
    assert not list(rules.check({"list": [{"min": 1, "max-size": 2}]}))
    found = list(rules.check({"list": [{"min": 1, "max-size": 2}, {"min": 3, "max-size": 2.5}]}))
    assert [(cause.field, cause.message) for cause in found] == [("list[1].min", "Forbidden: min is 3")]
    failed = list(rules.check({"list": [{"min": 1}]}))
    assert "rule evaluation error" in failed[0].message


@pytest.mark.skipif(not cel.available(), reason="needs cel-expr-python")
def test_cel_rules_on_times() -> None:
    rule = {"rule": "self.at > timestamp('2025-01-01T00:00:00Z')"}
    schema: Object = {
        "type": "object",
        "properties": {"at": {"type": "string", "format": "date-time"}},
        "x-kubernetes-validations": [rule],
    }
    rules = cel.compile_rules(schema)
    assert not list(rules.check({"at": "2026-01-01T00:00:00Z"}))
    assert "failed rule" in next(rules.check({"at": "2024-01-01T00:00:00Z"})).message


@pytest.mark.skipif(not cel.available(), reason="needs cel-expr-python")
def test_an_optional_old_self_is_empty_at_creation() -> None:
    rule = {"rule": "!oldSelf.hasValue() || self.n >= oldSelf.value().n", "optionalOldSelf": True}
    schema: Object = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "x-kubernetes-validations": [rule],
    }
    assert not list(cel.check_rules(schema, "schema"))
    rules = cel.compile_rules(schema)
    assert not list(rules.check({"n": 1}))
    assert not list(rules.check({"n": 2}, {"n": 1}))
    assert len(list(rules.check({"n": 1}, {"n": 2}))) == 1
    useless = {**schema, "x-kubernetes-validations": [{"rule": "self.n > 0", "optionalOldSelf": True}]}
    assert "only allowed for rules that use oldSelf" in next(cel.check_rules(useless, "schema")).message
