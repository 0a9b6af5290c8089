"""Stories of nodes: addresses, notes, silence, and pods that lost their node."""

from __future__ import annotations

from pathlib import Path

from controllers import objects as o
from controllers.nodeipam import NodeIPAMController
from controllers.nodelifecycle import NodeLifecycleController, TaintEvictionController
from controllers.options import Options
from controllers.podgc import PodGarbageCollector
from controllers.ttl import ANNOTATION, TTLController
from kubeclient import resources as r
from tests.controllers import make
from tests.controllers.faults.stage import Admin, Stage
from tests.controllers.faults.story import Phase, Story
from tests.controllers.faults.workloads import ready_node

UNREACHABLE = "node.kubernetes.io/unreachable"


async def three_nodes(api: Admin) -> None:
    for name in ("n1", "n2", "n3"):
        await ready_node(api, name)


async def every_node_has_a_range(api: Admin) -> bool:
    ranges = {o.spec(node).get("podCIDR") for node in await api.all(r.NODES)}
    return None not in ranges and len(ranges) == 3


async def every_node_is_annotated(api: Admin) -> bool:
    return all(o.annotations_of(node).get(ANNOTATION) == "0" for node in await api.all(r.NODES))


def addresses(_: Path) -> Options:
    return Options(allocate_node_cidrs=True, cluster_cidr="10.200.0.0/16")


async def pod_on_a_node_that_falls_silent(api: Admin) -> None:
    await three_nodes(api)
    taints = [
        {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
    ]
    spec = {**make.TEMPLATE["spec"], "nodeName": "n3", "tolerations": taints}
    await api.create(r.PODS, {"metadata": {"name": "evicted"}, "spec": spec})


async def others_are_alive(on: Stage) -> None:
    """n1 and n2 say that they are ready; n3 is silent. Kubelets of living nodes end pods."""
    for name in ("n1", "n2"):
        stamp = on.now()
        ready = {
            "type": "Ready",
            "status": "True",
            "lastHeartbeatTime": stamp,
            "lastTransitionTime": make.START,
        }
        await on.admin.status(r.NODES, name, {"conditions": [ready]})


async def tainted_and_evicted(api: Admin) -> bool:
    node, pod = await api.get(r.NODES, "n3"), await api.get(r.PODS, "evicted")
    effects = {t["effect"] for t in o.spec(node).get("taints") or () if t["key"] == UNREACHABLE}
    evicted = bool(pod) and o.is_terminating(pod)
    others = [await api.get(r.NODES, name) for name in ("n1", "n2")]
    return (
        effects == {"NoExecute", "NoSchedule"}
        and evicted
        and not any(o.spec(n).get("taints") for n in others)
    )


async def pods_of_a_node_that_is_not(api: Admin) -> None:
    await ready_node(api, "n1")
    for name, node in (("stays", "n1"), ("lost", "n9")):
        await api.create(
            r.PODS, {"metadata": {"name": name}, "spec": {**make.TEMPLATE["spec"], "nodeName": node}}
        )


async def only_one_stays(api: Admin) -> bool:
    return [o.name(pod) for pod in await api.all(r.PODS)] == ["stays"]


async def nobody(_: Stage) -> None:
    """No kubelet acts."""


STORIES = {
    "node addresses": Story(
        [NodeIPAMController], [Phase(three_nodes, every_node_has_a_range)], options=addresses
    ),
    "node ttl": Story([TTLController], [Phase(three_nodes, every_node_is_annotated)]),
    "silent node": Story(
        [NodeLifecycleController, TaintEvictionController],
        [Phase(pod_on_a_node_that_falls_silent, tainted_and_evicted)],
        play=others_are_alive,
        step=5.0,
    ),
    "pods without node": Story(
        [PodGarbageCollector],
        [Phase(pods_of_a_node_that_is_not, only_one_stays)],
        play=nobody,
        step=20.0,
    ),
}
