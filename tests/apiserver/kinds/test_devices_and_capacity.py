"""Claims, slices and classes of devices; storage capacities and volume attributes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.apiserver.kinds.helpers import accepted, cells, kind_of, made

Object = dict[str, Any]

CLAIM: Object = {
    "devices": {
        "requests": [
            {"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}},
            {"name": "any", "firstAvailable": [{"name": "big", "deviceClassName": "big.example.com"}]},
        ],
        "constraints": [{"requests": ["gpu", "any/big"], "matchAttribute": "example.com/numa"}],
    }
}
SLICE: Object = {
    "driver": "gpu.example.com",
    "nodeName": "n1",
    "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
    "devices": [{"name": "gpu-0", "attributes": {"model": {"string": "a"}}}],
}


def causes(group: str, resource: str, obj: Object) -> dict[str, str]:
    kind = kind_of(group, resource)
    kind.strategy.default(obj)
    return {cause.field: cause.message for cause in kind.strategy.validate(obj)}


def test_a_claim_gets_its_defaults_and_state() -> None:
    kind = kind_of("resource.k8s.io", "resourceclaims")
    claim = accepted(kind, made(kind, spec=copy.deepcopy(CLAIM)))
    assert claim["spec"]["devices"]["requests"][0]["exactly"] == {
        "deviceClassName": "gpu.example.com",
        "allocationMode": "ExactCount",
        "count": 1,
    }
    assert not list(kind.strategy.validate(claim))
    assert cells(kind, claim)["State"] == "pending"
    claim["status"] = {"allocation": {"devices": {}}, "reservedFor": [{"name": "p"}]}
    assert cells(kind, claim)["State"] == "allocated,reserved"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"requests": [{"name": "a"}]}, "spec.devices.requests[0]"),
        ({"requests": [{"name": "a", "exactly": {}}]}, "spec.devices.requests[0].exactly.deviceClassName"),
        (
            {"requests": [{"name": "a", "exactly": {"deviceClassName": "c", "count": -1}}]},
            "spec.devices.requests[0].exactly.count",
        ),
        (
            {"requests": [{"name": "A", "exactly": {"deviceClassName": "c"}}]},
            "spec.devices.requests[0].name",
        ),
        (
            {"constraints": [{"requests": ["other"], "matchAttribute": "a"}]},
            "spec.devices.constraints[0].requests[0]",
        ),
        ({"config": [{}]}, "spec.devices.config[0].opaque"),
    ],
)
def test_what_is_wrong_with_a_claim(change: Object, where: str) -> None:
    kind = kind_of("resource.k8s.io", "resourceclaims")
    spec = copy.deepcopy(CLAIM)
    spec["devices"].update(change)
    if "requests" in change:
        spec["devices"].pop("constraints")
    assert where in causes("resource.k8s.io", "resourceclaims", made(kind, spec=spec))


def test_a_claim_does_not_change_and_is_reserved_only_when_allocated() -> None:
    kind = kind_of("resource.k8s.io", "resourceclaims")
    old = accepted(kind, made(kind, spec=copy.deepcopy(CLAIM)))
    new = copy.deepcopy(old)
    new["spec"]["devices"]["requests"].pop()
    assert [cause.field for cause in kind.strategy.validate_update(new, old)] == ["spec"]
    new = {**copy.deepcopy(old), "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}}
    fields = [cause.field for cause in kind.strategy.status_validate_update(new, old)]
    assert fields == ["status.reservedFor"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"driver": ""}, "spec.driver"),
        ({"allNodes": True}, "spec"),
        ({"pool": {"name": "p", "resourceSliceCount": 0}}, "spec.pool.resourceSliceCount"),
        ({"devices": [{"name": "a"}, {"name": "a"}]}, "spec.devices[1].name"),
        ({"devices": [{"name": "a", "attributes": {"m": {}}}]}, "spec.devices[0].attributes[m]"),
    ],
)
def test_what_is_wrong_with_a_slice(change: Object, where: str) -> None:
    kind = kind_of("resource.k8s.io", "resourceslices")
    assert not causes("resource.k8s.io", "resourceslices", made(kind, spec=copy.deepcopy(SLICE)))
    found = causes("resource.k8s.io", "resourceslices", made(kind, spec={**copy.deepcopy(SLICE), **change}))
    assert where in found


def test_capacities_and_attributes() -> None:
    capacity = kind_of("storage.k8s.io", "csistoragecapacities")
    assert not causes(
        "storage.k8s.io", "csistoragecapacities", made(capacity, storageClassName="fast", capacity="1Gi")
    )
    assert "capacity" in causes(
        "storage.k8s.io", "csistoragecapacities", made(capacity, storageClassName="fast", capacity="-1")
    )
    attributes = kind_of("storage.k8s.io", "volumeattributesclasses")
    assert "parameters" in causes(
        "storage.k8s.io", "volumeattributesclasses", made(attributes, driverName="d")
    )
    old = made(attributes, driverName="d", parameters={"a": "b"})
    new = {**old, "parameters": {"a": "c"}}
    assert [cause.field for cause in attributes.strategy.validate_update(new, old)] == ["parameters"]
