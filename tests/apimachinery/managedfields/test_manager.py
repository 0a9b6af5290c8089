"""Ownership of every write, and apply: the rules of the documentation, one by one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import orjson
import pytest

from apimachinery.errors import StatusError
from apimachinery.managedfields import manager, owners, types
from apimachinery.managedfields.manager import Write

Object = dict[str, Any]
DEPLOYMENT = types.of_kind("apps", "v1", "Deployment")
NOON, LATER = "2026-01-01T12:00:00Z", "2026-01-01T12:30:00Z"
STATUS: Object = {"f:status": {}}


def writer(name: str, now: str = NOON, **more: Any) -> Write:
    return Write(DEPLOYMENT, "apps/v1", name, now, **{"ignored": STATUS, **more})


def deployment(labels: Object | None = None, **spec: Any) -> Object:
    metadata: Object = {"name": "web", "namespace": "default"}
    if labels is not None:
        metadata["labels"] = labels
    out = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    return {**out, "spec": spec} if spec else out


def container(name: str, **fields: Any) -> Object:
    return {"template": {"spec": {"containers": [{"name": name, **fields}]}}}


def owned(obj: Object) -> dict[str, Any]:
    """Manager -> fieldsV1."""
    entries = obj["metadata"].get("managedFields") or ()
    return {f"{entry['manager']}/{entry['operation']}": entry["fieldsV1"] for entry in entries}


def conflict(write: Write, live: Object, config: Object) -> Object:
    with pytest.raises(StatusError) as caught:
        manager.apply(write, live, config, force=False)
    assert (caught.value.code, caught.value.reason) == (409, "Conflict")
    return caught.value.status


# -- updates ----------------------------------------------------------------------------------------------


def test_a_create_owns_all_but_what_identifies_the_object() -> None:
    new = manager.update(writer("kubectl-create"), None, deployment({"a": "b"}, replicas=1))
    assert new["metadata"]["managedFields"] == [
        {
            "manager": "kubectl-create",
            "operation": "Update",
            "apiVersion": "apps/v1",
            "time": NOON,
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:replicas": {}}},
        }
    ]


def test_an_update_takes_what_it_changes_and_nothing_else() -> None:
    live = manager.update(writer("one"), None, deployment({"a": "b"}, replicas=1, paused=True))
    new = manager.update(writer("two", LATER), live, {**live, "spec": {"replicas": 2, "paused": True}})
    assert owned(new) == {
        "one/Update": {"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:paused": {}}},
        "two/Update": {"f:spec": {"f:replicas": {}}},
    }


def test_what_is_gone_has_no_owner_and_an_owner_of_nothing_is_forgotten() -> None:
    live = manager.update(writer("one"), None, deployment(replicas=1))
    live = manager.update(writer("two"), live, {**live, "spec": {"replicas": 1, "paused": True}})
    new = manager.update(writer("three"), live, {**live, "spec": {"replicas": 1}})
    assert owned(new) == {"one/Update": {"f:spec": {"f:replicas": {}}}}


def test_status_is_owned_through_its_subresource_only() -> None:
    live = manager.update(writer("one"), None, {**deployment(replicas=1), "status": {"replicas": 3}})
    assert owned(live) == {"one/Update": {"f:spec": {"f:replicas": {}}}}
    through = writer("one", subresource="status", ignored={"f:spec": {}})
    new = manager.update(through, live, {**live, "status": {"replicas": 4}})
    last = new["metadata"]["managedFields"][1]
    assert (last["subresource"], last["fieldsV1"]) == ("status", {"f:status": {"f:replicas": {}}})


def test_the_time_moves_with_every_change_and_stays_without_one() -> None:
    """managedFieldsUpdater stamps every write that changed a field; what changed nothing is not stored."""
    live = manager.update(writer("one"), None, deployment(replicas=1))
    changed = manager.update(writer("one", LATER), live, {**live, "spec": {"replicas": 2}})
    assert [entry["time"] for entry in changed["metadata"]["managedFields"]] == [LATER]
    assert (
        changed["metadata"]["managedFields"][0]["fieldsV1"]
        is live["metadata"]["managedFields"][0]["fieldsV1"]
    )
    assert manager.keep_times(changed, live) is changed
    same = manager.update(writer("one", LATER), live, copy.deepcopy(live))
    assert manager.keep_times(same, live) == live


def test_nothing_is_changed_in_place() -> None:
    live = manager.update(writer("one"), None, deployment({"a": "b"}, **container("c", image="i")))
    new = {**copy.deepcopy(live), "spec": container("c", image="j")}
    config = deployment({"a": "c"}, **container("d", image="k"))
    before = copy.deepcopy((live, new, config))
    manager.update(writer("two"), live, new)
    manager.apply(writer("three"), live, config, force=True)
    assert (live, new, config) == before


def test_one_empty_entry_forgets_all_owners_and_an_empty_list_none() -> None:
    live = manager.update(writer("one"), None, deployment(replicas=1))

    def sent(entries: list[Any]) -> Object:
        return {**live, "metadata": {**live["metadata"], "managedFields": entries}}

    assert "managedFields" not in manager.update(writer("two"), live, sent([{}]))["metadata"]
    ignored: list[Any]
    for ignored in ([], [{"manager": "x"}], [{}, {}], ["x"]):
        assert owned(manager.update(writer("two"), live, sent(ignored))) == owned(live)


def test_entries_can_be_edited_but_not_through_a_subresource() -> None:
    live = manager.update(writer("one"), None, deployment(replicas=1))
    entry = {**live["metadata"]["managedFields"][0], "manager": "renamed"}
    sent = {**live, "metadata": {**live["metadata"], "managedFields": [entry]}}
    assert list(owned(manager.update(writer("two"), live, sent))) == ["renamed/Update"]
    assert list(owned(manager.update(writer("two", subresource="status"), live, sent))) == ["one/Update"]


def test_an_object_without_owners_is_not_tracked_until_someone_applies() -> None:
    live = deployment({"a": "b"}, replicas=1)
    new = manager.update(writer("one"), live, {**live, "spec": {"replicas": 2}})
    assert "managedFields" not in new["metadata"]
    applied = manager.apply(writer("two"), new, deployment(replicas=2), force=False)
    assert list(owned(applied)) == ["two/Apply", "before-first-apply/Update"]
    assert owned(applied)["before-first-apply/Update"] == {
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:spec": {"f:replicas": {}},
    }


def test_beyond_ten_updaters_the_oldest_are_merged() -> None:
    live = manager.update(writer("m00"), None, deployment({"k00": "v"}, replicas=1))
    for at in range(1, 14):
        labels = {**live["metadata"]["labels"], f"k{at:02}": "v"}
        new = {**live, "metadata": {**live["metadata"], "labels": labels}}
        live = manager.update(writer(f"m{at:02}", f"2026-01-01T12:{at:02}:00Z"), live, new)
    entries = live["metadata"]["managedFields"]
    assert [entry["manager"] for entry in entries] == [owners.ANCIENT, *(f"m{at:02}" for at in range(5, 14))]
    assert entries[0]["time"] == "2026-01-01T12:04:00Z"
    assert set(entries[0]["fieldsV1"]["f:metadata"]["f:labels"]) == {
        ".",
        "f:k00",
        "f:k01",
        "f:k02",
        "f:k03",
        "f:k04",
    }


def test_appliers_are_never_merged() -> None:
    live: Object = {}
    for at in range(14):
        live = manager.apply(writer(f"m{at:02}"), live, deployment({f"k{at}": "v"}), force=False)
    assert len(live["metadata"]["managedFields"]) == 14


def test_owners_in_a_version_that_is_gone_are_dropped_and_others_converted() -> None:
    live = manager.update(writer("old"), None, deployment(replicas=1, paused=True))
    entry = {**live["metadata"]["managedFields"][0], "apiVersion": "apps/v1beta1"}
    live = {**live, "metadata": {**live["metadata"], "managedFields": [entry]}}
    new = {**live, "spec": {"replicas": 2, "paused": True}}
    assert list(owned(manager.update(writer("new"), live, new))) == ["new/Update"]
    known = writer(
        "new", convert=lambda version: (DEPLOYMENT, lambda obj: obj) if version == "apps/v1beta1" else None
    )
    assert owned(manager.update(known, live, new))["old/Update"] == {"f:spec": {"f:paused": {}}}


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("kubectl/v1.32.0 (linux/amd64)", "kubectl"),
        ("curl", "curl"),
        ("", ""),
        ("a\tb/1", "ab"),
        ("x" * 200, "x" * 128),
    ],
)
def test_the_name_of_who_gives_none(agent: str, name: str) -> None:
    assert owners.name_from_agent(agent) == name


# -- apply ------------------------------------------------------------------------------------------------


def test_an_apply_owns_what_it_says() -> None:
    new = manager.apply(writer("a"), {}, deployment({"x": "y"}, **container("c", image="i")), force=False)
    assert owned(new) == {
        "a/Apply": {
            "f:metadata": {"f:labels": {"f:x": {}}},
            "f:spec": {
                "f:template": {
                    "f:spec": {"f:containers": {'k:{"name":"c"}': {".": {}, "f:name": {}, "f:image": {}}}}
                }
            },
        }
    }


def test_one_conflict_is_worded_as_kubernetes_words_it() -> None:
    live = manager.update(writer("kubectl-client-side-apply"), None, deployment(replicas=1))
    status = conflict(writer("kubectl"), live, deployment(replicas=2))
    assert status["message"] == (
        'Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using apps/v1: '
        ".spec.replicas"
    )
    assert status["details"]["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "kubectl-client-side-apply" using apps/v1',
            "field": ".spec.replicas",
        }
    ]


def test_several_conflicts_are_listed_by_manager() -> None:
    live = manager.update(writer("one"), None, deployment(replicas=1, paused=True, minReadySeconds=1))
    live = manager.apply(writer("two"), live, deployment(minReadySeconds=2), force=True)
    scaled = {**live, "spec": {**live["spec"], "replicas": 4}}
    live = manager.update(writer("hpa", subresource="scale", ignored=None), live, scaled)
    status = conflict(writer("me"), live, deployment(replicas=2, paused=False, minReadySeconds=3))
    assert status["message"].splitlines() == [
        'Apply failed with 3 conflicts: conflicts with "hpa" with subresource "scale" using apps/v1:',
        "- .spec.replicas",
        'conflicts with "one" using apps/v1:',
        "- .spec.paused",
        'conflicts with "two":',
        "- .spec.minReadySeconds",
    ]
    assert len(status["details"]["causes"]) == 3


def test_force_takes_the_field_over_and_the_other_can_be_warned_in_turn() -> None:
    live = manager.apply(writer("a"), {}, deployment(replicas=1, paused=True), force=False)
    live = manager.apply(writer("b"), live, deployment(replicas=2), force=True)
    assert live["spec"] == {"replicas": 2, "paused": True}
    assert owned(live) == {"a/Apply": {"f:spec": {"f:paused": {}}}, "b/Apply": {"f:spec": {"f:replicas": {}}}}
    conflict(writer("a"), live, deployment(replicas=1, paused=True))


def test_the_same_value_is_shared() -> None:
    live = manager.apply(writer("a"), {}, deployment(replicas=1), force=False)
    live = manager.apply(writer("b"), live, deployment(replicas=1), force=False)
    assert set(owned(live)) == {"a/Apply", "b/Apply"}
    status = conflict(writer("a"), live, deployment(replicas=2))
    assert 'conflict with "b"' in status["message"]
    # Given up by one, it stays: the other still says it.
    live = manager.apply(writer("a"), live, deployment(), force=False)
    assert live["spec"] == {"replicas": 1} and set(owned(live)) == {"b/Apply"}
    live = manager.apply(writer("b"), live, deployment(), force=False)
    assert "replicas" not in (live.get("spec") or {})


def test_what_is_not_applied_any_more_is_removed() -> None:
    full = container("c", image="i", env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}])
    live = manager.apply(writer("a"), {}, deployment({"x": "1", "y": "2"}, **full), force=False)
    less = container("c", image="i", env=[{"name": "B", "value": "2"}])
    live = manager.apply(writer("a"), live, deployment({"x": "1"}, **less), force=False)
    assert live["metadata"]["labels"] == {"x": "1"}
    assert live["spec"] == less


def test_an_item_keeps_what_others_put_into_it() -> None:
    live = manager.apply(writer("a"), {}, deployment(**container("c", image="i")), force=False)
    live = manager.apply(writer("b"), live, deployment(**container("c", tty=True)), force=False)
    live = manager.apply(writer("a"), live, deployment(), force=False)
    assert live["spec"] == container("c", tty=True)
    live = manager.apply(writer("b"), live, deployment(), force=False)
    assert not live.get("spec")


def test_a_default_inside_a_removed_item_goes_with_it() -> None:
    live = manager.apply(writer("a"), {}, deployment(**container("c", image="i")), force=False)
    live["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Always"
    other = {"template": {"spec": {"containers": [{"name": "d", "image": "j"}]}}}
    live = manager.apply(writer("a"), live, deployment(**other), force=False)
    assert live["spec"] == other


def test_a_changed_default_belongs_to_nobody_and_is_no_conflict() -> None:
    live = manager.apply(writer("a"), {}, deployment(**container("c", image="i")), force=False)
    live["spec"]["replicas"] = 1
    live = manager.apply(writer("b"), live, deployment(replicas=5), force=False)
    assert live["spec"]["replicas"] == 5


def test_status_in_a_configuration_is_not_owned() -> None:
    live = manager.apply(writer("a"), {}, {**deployment(replicas=1), "status": {}}, force=False)
    assert owned(live) == {"a/Apply": {"f:spec": {"f:replicas": {}}}}


def test_an_applier_is_the_same_in_every_version() -> None:
    live = manager.apply(writer("a"), {}, deployment(replicas=1), force=False)
    entry = {**live["metadata"]["managedFields"][0], "apiVersion": "apps/v1beta1"}
    live = {**live, "metadata": {**live["metadata"], "managedFields": [entry]}}
    live = manager.apply(writer("a"), live, deployment(replicas=2), force=False)
    assert [(e["manager"], e["apiVersion"]) for e in live["metadata"]["managedFields"]] == [("a", "apps/v1")]


def test_managed_fields_cannot_be_applied() -> None:
    config = deployment(replicas=1)
    config["metadata"]["managedFields"] = []
    with pytest.raises(StatusError) as caught:
        manager.apply(writer("a"), {}, config, force=False)
    assert (caught.value.code, caught.value.message) == (400, "metadata.managedFields must be nil")


def test_what_does_not_fit_the_type_is_refused_by_its_path() -> None:
    with pytest.raises(StatusError) as caught:
        manager.apply(writer("a"), {}, deployment(replica=1), force=False)
    assert (caught.value.code, caught.value.message) == (
        400,
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): "
        ".spec.replica: field not declared in schema",
    )


# -- from client-side to server-side apply ----------------------------------------------------------------


def client_side(config: Object, **spec: Any) -> Object:
    text = orjson.dumps(config).decode() + "\n"
    new = copy.deepcopy(config)
    new["metadata"]["annotations"] = {manager.LAST_APPLIED: text}
    new["spec"].update(spec)
    return manager.update(writer("kubectl-client-side-apply"), None, new)


def test_kubectl_takes_over_what_kubectl_wrote() -> None:
    live = client_side(deployment(replicas=1))
    conflict(writer("argo"), live, deployment(replicas=2))
    new = manager.apply(writer("kubectl"), live, deployment(replicas=2), force=False)
    assert new["spec"] == {"replicas": 2}
    kept = orjson.loads(new["metadata"]["annotations"][manager.LAST_APPLIED])
    assert kept["spec"] == {"replicas": 2}


def test_but_not_what_someone_has_changed_since() -> None:
    live = client_side(deployment(replicas=1))
    live = manager.update(writer("hpa"), live, {**live, "spec": {"replicas": 7}})
    conflict(writer("kubectl"), live, deployment(replicas=2))


def test_another_apply_by_kubectl_of_an_object_without_the_annotation_writes_none() -> None:
    new = manager.apply(writer("kubectl"), {}, deployment(replicas=2), force=False)
    assert "annotations" not in new["metadata"]


def test_entries_read_and_written_again_are_the_same() -> None:
    live = manager.apply(writer("a"), {}, deployment({"x": "y"}, replicas=1), force=False)
    live = manager.update(replace(writer("b"), now=LATER), live, {**live, "spec": {"replicas": 2}})
    entries = live["metadata"]["managedFields"]
    decoded = owners.decode(entries)
    assert decoded is not None and owners.encode(decoded, {}, ()) == entries
    assert owners.are_valid(entries)
