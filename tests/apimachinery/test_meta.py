"""Metadata: names, times, owners and the rules of `validate_object_meta`."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apimachinery import meta
from apimachinery.errors import Cause
from apimachinery.scheme import Kind

POD = Kind("", "v1", "Pod", "pods", True, "pods")
NODE = Kind("", "v1", "Node", "nodes", False, "minions")
ROLE = Kind("rbac.authorization.k8s.io", "v1", "Role", "roles", True, "roles", name_rule="path-segment")


def pod(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web", "namespace": "default", **metadata}}


def shown(causes: list[Cause]) -> list[str]:
    return [f"{cause.field}: {cause.message}" for cause in causes]


@pytest.mark.parametrize("name", ["a", "a-b", "a.b", "0", "a" * 253, "a.b-c.d"])
def test_subdomains_that_are(name: str) -> None:
    assert meta.dns1123_subdomain(name) == []


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a..b", ".a", "a_b", "a" * 254, "a b", "a\n"])
def test_subdomains_that_are_not(name: str) -> None:
    assert meta.dns1123_subdomain(name)


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (meta.dns1123_label, ["a", "0a", "a" * 63], ["a.b", "a" * 64, "A"]),
        (meta.dns1035_label, ["a", "a0"], ["0a", "a.b", "-"]),
        (meta.path_segment, ["system:node", "A b", "a.b"], [".", "..", "a/b", "a%b"]),
        (meta.label_value, ["", "a", "A_b.c-d", "a" * 63], ["-a", "a b", "a" * 64, "a/b"]),
        (meta.qualified_name, ["a", "A.b", "x.io/a", "x/a_b"], ["", "/a", "x/", "X/a", "a/b/c", "a b"]),
    ],
)
def test_name_rules(rule: Any, good: list[str], bad: list[str]) -> None:
    assert [name for name in good if rule(name)] == []
    assert [name for name in bad if not rule(name)] == []


def test_generated_names_stay_labels_and_repeat_with_the_seed() -> None:
    name = meta.generate_name("x" * 80, random.Random(1))
    assert len(name) == 63
    assert meta.dns1123_label(name) == []
    assert name == meta.generate_name("x" * 80, random.Random(1))
    assert name != meta.generate_name("x" * 80, random.Random(2))


@given(st.integers(0, 4_000_000_000))
def test_times_round_trip(seconds: int) -> None:
    assert meta.parse_time(meta.now_rfc3339(seconds)) == seconds


def test_time_forms() -> None:
    assert meta.now_rfc3339(0.9) == "1970-01-01T00:00:00Z"
    assert meta.now_micro(1.5) == "1970-01-01T00:00:01.500000Z"
    assert meta.parse_time("1970-01-01T01:00:00+01:00") == 0
    for text in ("", "1970-01-01", "1970-01-01T00:00:00", "yesterday"):
        with pytest.raises(ValueError):
            meta.parse_time(text)


def test_owner_references() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "rs", "uid": "u1"}}
    ref = meta.controller_ref(owner)
    child = pod(ownerReferences=[meta.owner_reference(owner), ref])
    assert ref["controller"] and ref["blockOwnerDeletion"]
    assert meta.controller_of(child) == ref
    assert meta.is_controlled_by(child, owner)
    assert not meta.is_controlled_by(pod(), owner)


def test_good_metadata_has_no_causes() -> None:
    obj = pod(
        labels={"app.kubernetes.io/name": "web", "tier": ""},
        annotations={"Some.Tool/Note": "anything at all"},
        finalizers=["example.com/hold", "foregroundDeletion"],
    )
    assert meta.validate_object_meta(obj, POD) == []


@pytest.mark.parametrize(
    ("obj", "kind", "expected"),
    [
        (
            {"metadata": {"namespace": "d"}},
            POD,
            "metadata.name: Required value: name or generateName is required",
        ),
        ({"metadata": {"name": "a"}}, POD, "metadata.namespace: Required value"),
        (pod(), NODE, "metadata.namespace: Forbidden: not allowed on this type"),
        (pod(finalizers=["odd"]), POD, "name is neither a standard finalizer name nor is it fully qualified"),
        (pod(labels={"a b": "c"}), POD, 'metadata.labels: Invalid value: "a b": name part must consist of'),
        (pod(labels={"a": "-"}), POD, 'metadata.labels: Invalid value: "-": a valid label must be'),
        (
            pod(annotations={"a": "x" * 262145}),
            POD,
            "metadata.annotations: Too long: may not be more than 262144",
        ),
        (
            pod(name="Web"),
            POD,
            'metadata.name: Invalid value: "Web": a lowercase RFC 1123 subdomain must consist',
        ),
        (pod(name="a/b"), ROLE, "metadata.name: Invalid value: \"a/b\": may not contain '/'"),
        (pod(ownerReferences=[{}]), POD, 'metadata.ownerReferences.apiVersion: Invalid value: ""'),
    ],
)
def test_bad_metadata(obj: dict[str, Any], kind: Kind, expected: str) -> None:
    assert any(expected in text for text in shown(meta.validate_object_meta(obj, kind)))


def test_only_one_owner_controls() -> None:
    ref = {"apiVersion": "v1", "kind": "X", "name": "x", "uid": "1", "controller": True}
    causes = meta.validate_object_meta(pod(ownerReferences=[ref, {**ref, "name": "y"}]), POD)
    assert "Only one reference can have Controller set to true" in shown(causes)[0]


def test_a_generated_prefix_may_end_in_a_hyphen() -> None:
    obj = {"metadata": {"generateName": "web-", "name": "web-abcde", "namespace": "default"}}
    assert meta.validate_object_meta(obj, POD) == []


def test_updates_keep_identity_and_take_no_new_finalizers_while_deleting() -> None:
    old = pod(uid="1", deletionTimestamp="2026-01-01T00:00:00Z", finalizers=["a.io/x"])
    new = pod(uid="2", deletionTimestamp="2026-01-01T00:00:00Z", finalizers=["a.io/x", "a.io/y"])
    texts = shown(meta.validate_object_meta_update(new, old))
    assert 'metadata.uid: Invalid value: "2": field is immutable' in texts
    assert any("no new finalizers can be added if the object is being deleted" in text for text in texts)
    assert meta.validate_object_meta_update(old, old) == []
