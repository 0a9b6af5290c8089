"""Scheduling: decisions per second of the core alone, then pods bound per second through the API
(`bench.binding`).

The core: decide, and count the pod on its node, on one CPU core.

Beside each figure stands the least a decision over columns can do in numpy: two resources filtered, scored
and bound over as many nodes, with nothing kept from one decision to the next.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench import binding
from scheduler.columns import Columns
from scheduler.config import default_profile
from scheduler.core import decide
from scheduler.podinfo import compile_pod
from scheduler.sheets import Sheets

Object = dict[str, Any]
NODES = (100, 1_000, 5_000, 15_000)
SECONDS = 2.0  # CPU time per figure
WARM = 20
ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
TARGETS = {"plain": 4_000, "spread and affinity": 2_000}  # at 5,000 nodes


def _node(index: int) -> Object:
    name = f"node-{index}"
    return {
        "metadata": {"name": name, "labels": {HOST: name, ZONE: f"zone-{index % 3}"}},
        "status": {
            "allocatable": {"cpu": "64", "memory": "256Gi", "pods": "250"},
            "images": [{"names": [f"registry/base:{index % 50}"], "sizeBytes": 80_000_000}],
        },
    }


def _pod(index: int, labels: dict[str, str], **spec: Any) -> Object:
    container = {"image": "registry/app:1", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}
    return {
        "metadata": {"name": f"pod-{index}", "namespace": "default", "uid": str(index), "labels": labels},
        "spec": {"containers": [container], **spec},
    }


def plain(index: int) -> Object:
    """Replicas of one Deployment that ask for cpu and memory."""
    return _pod(index, {"app": "web"})


def distinct(index: int) -> Object:
    """As plain, but no two pods alike (an indexed Job, a StatefulSet)."""
    return _pod(index, {"app": "web", "index": str(index)})


def mixed(index: int) -> Object:
    """Twenty Deployments in turn."""
    return _pod(index, {"app": f"app-{index % 20}"})


def constrained(index: int) -> Object:
    """Hard spread over zones, soft spread over nodes, affinity to a zone, anti-affinity by preference."""
    labels = {"app": f"app-{index % 5}"}
    selector = {"matchLabels": labels}
    near = {"topologyKey": ZONE, "labelSelector": selector}
    apart = {"topologyKey": HOST, "labelSelector": selector}
    spreads = [
        {"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector},
        {"maxSkew": 1, "topologyKey": HOST, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector},
    ]
    affinity = {
        "podAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "podAffinityTerm": near}]
        },
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 50, "podAffinityTerm": apart}]
        },
    }
    return _pod(index, labels, topologySpreadConstraints=spreads, affinity=affinity)


def exclusive(index: int) -> Object:
    """Hard spread over zones and required anti-affinity by node, forty Deployments in turn."""
    labels = {"app": f"app-{index % 40}"}
    selector = {"matchLabels": labels}
    return _pod(
        index,
        labels,
        topologySpreadConstraints=[
            {
                "maxSkew": 1,
                "topologyKey": ZONE,
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": selector,
            }
        ],
        affinity={
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": HOST, "labelSelector": selector}
                ]
            }
        },
    )


KINDS: dict[str, Callable[[int], Object]] = {
    "plain": plain,
    "plain, 20 kinds in turn": mixed,
    "plain, all different": distinct,
    "spread and affinity": constrained,
    "spread and required anti-affinity": exclusive,
}


def decisions(nodes: int, make: Callable[[int], Object]) -> Iterator[None]:
    """One decision per step, from the Pod object to its place in the columns."""
    columns, profile, sheets, rng = Columns(), default_profile(), Sheets(), random.Random(1)
    for index in range(nodes):
        columns.set_node(_node(index))
    for index in itertools.count():
        info = compile_pod(make(index))
        decision = decide(profile, info, columns, rng, sheets=sheets)
        if decision.node is None:  # full: begin anew would distort, so say so
            raise RuntimeError(f"{nodes} nodes are full after {index} pods: {decision.message}")
        columns.add_pod(info, decision.node)
        yield


def sketch(nodes: int) -> Iterator[None]:
    """The bare limit: filter, score and bind over two resources."""
    total = np.array([[64_000] * nodes, [256 << 30] * nodes], dtype=np.int64)
    used = np.zeros_like(total)
    asked = np.array([[100], [128 << 20]], dtype=np.int64)
    while True:
        after = used + asked
        fits = (after <= total).all(axis=0)
        score = ((total - after) * 100 // total).sum(axis=0)
        row = int(np.where(fits, score, -1).argmax())
        used[:, row] += asked[:, 0]
        yield


def rate(steps: Iterator[None], limit: int) -> float:
    """Steps per second of CPU time."""
    for _ in itertools.islice(steps, WARM):
        pass
    started, count = time.process_time(), 0
    while count < limit and time.process_time() - started < SECONDS:
        next(steps)
        count += 1
    return count / (time.process_time() - started)


def main() -> None:
    """Print the table."""
    print(f"{'decisions/s of one core':36}" + "".join(f"{count:>10,} nodes" for count in NODES))
    bare = {count: rate(sketch(count), 10**9) for count in NODES}
    print(
        f"{'numpy sketch (the bare limit)':36}" + "".join(f"{bare[count]:>10,.0f}      " for count in NODES)
    )
    for kind, make in KINDS.items():
        cells = []
        for count in NODES:
            capacity = count * 250 if kind != "spread and required anti-affinity" else count * 40
            found = rate(decisions(count, make), capacity - 2 * WARM - 100)
            cells.append(f"{found:>10,.0f} {found / bare[count]:4.2f}x")
        target = f"   target at 5,000: {TARGETS[kind]:,}" if kind in TARGETS else ""
        print(f"{kind:36}" + "".join(cells) + target, flush=True)
    binding.main()


if __name__ == "__main__":
    main()
