"""The volume plugins, by cases: messages as Kubernetes words them, and the plan that binding carries out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from scheduler.columns import Columns
from scheduler.config import default_profile
from scheduler.core import decide
from scheduler.framework import Decision
from scheduler.plugins.volume_binding import VolumeBinding
from scheduler.podinfo import PodInfo, compile_pod
from scheduler.volumes import BIND_COMPLETED, SELECTED_NODE, Plan
from tests.scheduler.objects import node, pod

Object = dict[str, Any]
ZONE = "topology.kubernetes.io/zone"


def claim(name: str = "data", *, volume: str = "", cls: str = "late", mode: str = "ReadWriteOnce") -> Object:
    annotations = {BIND_COMPLETED: "yes"} if volume else {}
    meta = {
        "name": name,
        "namespace": "default",
        "uid": name,
        "resourceVersion": "7",
        "annotations": annotations,
    }
    spec: Object = {
        "storageClassName": cls,
        "accessModes": [mode],
        "resources": {"requests": {"storage": "1Gi"}},
    }
    return {"metadata": meta, "spec": spec | ({"volumeName": volume} if volume else {})}


def volume(name: str, *hosts: str, size: str = "1Gi", cls: str = "late", **spec: Any) -> Object:
    made: Object = {
        "metadata": {"name": name, "labels": {}},
        "spec": {
            "storageClassName": cls,
            "accessModes": ["ReadWriteOnce", "ReadWriteOncePod"],
            "capacity": {"storage": size},
            **spec,
        },
    }
    if hosts:
        expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(hosts)}
        made["spec"]["nodeAffinity"] = {
            "required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
        }
    return made


def storage_class(provisioner: str = "kubernetes.io/no-provisioner", **more: Any) -> Object:
    meta = {"name": "late"}
    return {"metadata": meta, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer", **more}


def cluster(*claims: Object, volumes: tuple[Object, ...] = (), cls: Object | None = None) -> Columns:
    columns = Columns()
    for index in range(3):
        columns.set_node(node(f"n{index}", labels={ZONE: f"z{index}"}))
    for each in claims:
        columns.volumes.claims[f"default/{each['metadata']['name']}"] = each
    for each in volumes:
        columns.volumes.set_volume(each)
    columns.volumes.classes["late"] = cls or storage_class()
    return columns


def wants(*names: str, name: str = "p") -> PodInfo:
    volumes = [{"name": each, "persistentVolumeClaim": {"claimName": each}} for each in names]
    return compile_pod(pod(name, volumes=volumes))


def place(columns: Columns, info: PodInfo) -> Decision:
    return decide(default_profile(), info, columns, random.Random(1))


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ((), 'persistentvolumeclaim "data" not found'),
        ((claim(cls="now"),), "pod has unbound immediate PersistentVolumeClaims"),
        (
            (claim(volume="gone") | {"status": {"phase": "Lost"}},),
            'persistentvolumeclaim "data" bound to non-existent persistentvolume "gone"',
        ),
    ],
)
def test_claims_that_rule_out_every_node(claims: tuple[Object, ...], said: str) -> None:
    decision = place(cluster(*claims), wants("data"))
    assert decision.message == f"0/3 nodes are available: {said}."
    assert decision.rejected_by == {"VolumeBinding"}
    assert not decision.failures.curable


def test_a_bound_volume_draws_the_pod_to_its_nodes() -> None:
    columns = cluster(claim(volume="v"), volumes=(volume("v", "n2"),))
    assert place(columns, wants("data")).node == "n2"
    columns.remove_node("n2")
    assert place(columns, wants("data")).message == (
        "0/2 nodes are available: 2 node(s) had volume node affinity conflict."
    )


def test_a_claim_that_waits_goes_where_a_volume_is_free() -> None:
    columns = cluster(claim(), volumes=(volume("v", "n1"), volume("small", "n0", size="1Mi")))
    assert place(columns, wants("data")).node == "n1"
    columns.volumes.reserved["v"] = "default/other"
    assert place(columns, wants("data")).message == (
        "0/3 nodes are available: 3 node(s) didn't find available persistent volumes to bind."
    )


def test_two_claims_need_two_volumes_on_one_node() -> None:
    volumes = (volume("v0", "n0"), volume("v1", "n1"), volume("v2", "n1", size="5Gi"))
    columns = cluster(claim("data"), claim("logs"), volumes=volumes)
    info = wants("data", "logs")
    assert place(columns, info).node == "n1"
    plugin = VolumeBinding()
    assert plugin.reserve(info, "n1", columns) is None
    assert columns.volumes.plans[info.uid] == Plan((("v1", "default/data"), ("v2", "default/logs")))
    assert columns.volumes.reserved == {"v1": "default/data", "v2": "default/logs"}
    plugin.unreserve(info, "n1", columns)
    assert not columns.volumes.reserved
    assert plugin.reserve(info, "n0", columns) is not None


def test_a_class_that_provisions_is_held_to_its_topologies() -> None:
    term = {"matchLabelExpressions": [{"key": ZONE, "values": ["z2"]}]}
    columns = cluster(claim(), cls=storage_class("csi.example.com", allowedTopologies=[term]))
    assert place(columns, wants("data")).node == "n2"
    columns.volumes.claims["default/data"]["metadata"]["annotations"][SELECTED_NODE] = "n0"
    assert place(columns, wants("data")).node is None


def test_a_zone_label_of_the_volume_binds_the_pod_to_the_zone() -> None:
    zoned = volume("v")
    zoned["metadata"]["labels"] = {"failure-domain.beta.kubernetes.io/zone": "z1__z9"}
    columns = cluster(claim(volume="v"), volumes=(zoned,))
    assert place(columns, wants("data")).node == "n1"
    columns.remove_node("n1")
    assert place(columns, wants("data")).message == (
        "0/2 nodes are available: 2 node(s) had no available volume zone."
    )


def test_read_write_once_pod_serves_one_pod_at_a_time() -> None:
    columns = cluster(claim(volume="v", mode="ReadWriteOncePod"), volumes=(volume("v"),))
    columns.add_pod(wants("data", name="first"), "n0")
    assert place(columns, wants("data")).message == (
        "0/3 nodes are available: 3 node has pod using PersistentVolumeClaim with the same name "
        "and ReadWriteOncePod access mode."
    )
    columns.remove_pod("default/first")
    assert place(columns, wants("data")).node is not None


def test_a_driver_limits_the_volumes_of_a_node() -> None:
    csi = [{"csi": {"driver": "d", "volumeHandle": str(i)}} for i in range(2)]
    columns = cluster(
        claim("a", volume="va"),
        claim("b", volume="vb"),
        volumes=(volume("va", **csi[0]), volume("vb", **csi[1])),
    )
    for name in ("n0", "n1", "n2"):
        spec = {"drivers": [{"name": "d", "allocatable": {"count": 1 if name != "n2" else 0}}]}
        columns.volumes.csi_nodes[name] = {"metadata": {"name": name}, "spec": spec}
    columns.add_pod(wants("a", name="first"), "n0")
    assert place(columns, wants("b")).node == "n1"
    assert place(columns, wants("a")).node in ("n0", "n1")  # a volume that is there already costs nothing


class Handle:
    """Writes land in the columns, as the volume controller and the watch would bring them."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.written: list[Object] = []

    async def bind_pod(self, pod: PodInfo, node: str) -> None:
        raise AssertionError("not yet")

    async def get(self, gvr: Any, name: str, namespace: str | None = None) -> Object:
        raise AssertionError("the view is enough")

    async def update(self, gvr: Any, obj: Object) -> Object:
        self.written.append(obj)
        return obj

    async def changed(self, ready: Callable[[], bool], seconds: float) -> None:
        assert not ready()
        for each in self.columns.volumes.claims.values():
            each["spec"]["volumeName"] = "v"
            each["metadata"]["annotations"][BIND_COMPLETED] = "yes"
        assert ready()


def test_binding_says_which_volume_and_waits_for_the_controller() -> None:
    columns = cluster(claim(), volumes=(volume("v", "n1"),))
    info, plugin, handle = wants("data"), VolumeBinding(), Handle(columns)
    plugin.reserve(info, "n1", columns)
    asyncio.run(plugin.pre_bind(handle, info, "n1"))
    reference = handle.written[0]["spec"]["claimRef"]
    assert (reference["name"], reference["uid"], reference["resourceVersion"]) == ("data", "data", "7")
    assert "claimRef" not in columns.volumes.volumes["v"]["spec"]  # what the cache holds is not touched
    assert not columns.volumes.reserved


def test_provisioning_is_asked_for_by_the_selected_node() -> None:
    columns = cluster(claim(), cls=storage_class("csi.example.com"))
    info, plugin, handle = wants("data"), VolumeBinding(), Handle(columns)
    plugin.reserve(info, "n0", columns)
    asyncio.run(plugin.pre_bind(handle, info, "n0"))
    assert handle.written[0]["metadata"]["annotations"][SELECTED_NODE] == "n0"
