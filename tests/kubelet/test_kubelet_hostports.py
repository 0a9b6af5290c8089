"""Ports of the node: who has them, and the pod that comes too late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kubelet.pods.hostports import HostPort, conflict, taken
from tests.kubelet.world import World

Object = dict[str, Any]


def pod(*ports: Object, **spec: Any) -> Object:
    return {"spec": {"containers": [{"name": "c", "ports": list(ports)}], **spec}}


def test_ports_of_containers_and_sidecars_are_taken() -> None:
    sidecar = {"name": "s", "restartPolicy": "Always", "ports": [{"hostPort": 53, "protocol": "UDP"}]}
    init = {"name": "i", "ports": [{"hostPort": 99}]}
    asked = pod({"containerPort": 80}, {"hostPort": 80, "hostIP": "10.0.0.1"}, initContainers=[sidecar, init])
    assert list(taken(asked["spec"])) == [HostPort("", "UDP", 53), HostPort("10.0.0.1", "TCP", 80)]
    assert list(taken({"containers": [{"name": "c", "ports": None}]})) == []


@pytest.mark.parametrize(
    ("asked", "meets"),
    [
        ({"hostPort": 80}, True),
        ({"hostPort": 80, "protocol": "UDP"}, False),
        ({"hostPort": 81}, False),
        ({"hostPort": 80, "hostIP": "10.0.0.1"}, True),
        ({"hostPort": 80, "hostIP": "10.0.0.2"}, False),
        ({"hostPort": 80, "hostIP": "0.0.0.0"}, True),
    ],
)
def test_addresses_meet_when_equal_or_when_one_is_all(asked: Object, meets: bool) -> None:
    holder = pod({"hostPort": 80, "hostIP": "10.0.0.1"})
    assert (conflict(pod(asked), [pod(), holder]) is not None) is meets


def test_a_pod_that_names_its_node_and_a_taken_port_is_refused(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        ports = [{"containerPort": 80, "hostPort": 8080}]
        container = {"name": "c", "image": "busybox:1.36", "command": ["sleep", "1000"], "ports": ports}
        await world.pod("first", containers=[container])
        await world.until_ready("first")
        await world.pod("second", containers=[container])
        await world.api.until(lambda: world.status("second").get("phase") == "Failed")
        assert world.status("second")["reason"] == "NodePorts"
        assert "free ports" in world.status("second")["message"]
        await world.api.until(lambda: world.api.events("NodePorts"))
        await world.api.delete_pod("first")
        await world.api.until(lambda: world.api.pod("first") is None)
        await world.pod("third", containers=[container])
        await world.until_ready("third")

    play(scenario)
