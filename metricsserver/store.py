"""The last two points of every node and container, and what follows from them. Pure.

metrics-server's rules: a rate needs two points of one life of a container; a container that has only
just been started counts from its start, once it has run for ten seconds; a pod is told of only when all
of its containers are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from metricsserver.samples import PodKey, Point, Scrape, merged

FRESH_MINIMUM = 10.0  # seconds a container must have run before its start counts as a point


class Usage(NamedTuple):
    """What was used: nano-cores over `window` seconds before `at`, and bytes then."""

    at: float
    window: float
    cpu_nanocores: int
    memory_bytes: int


@dataclass(slots=True)
class Store:
    """Filled by `put`, one round of scrapes after the other; what a round does not name is forgotten."""

    resolution: float = 60.0  # seconds between two rounds
    _nodes: dict[str, tuple[Point | None, Point]] = field(default_factory=dict)
    _pods: dict[PodKey, dict[str, tuple[Point | None, Point]]] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether anything can be told."""
        return any(usage(*points) is not None for points in self._nodes.values())

    def put(self, scrapes: Mapping[str, Scrape]) -> None:
        """A round: what each node's kubelet said."""
        nodes = {name: scrape.node for name, scrape in scrapes.items() if scrape.node is not None}
        self._nodes = {name: _pair(self._nodes.get(name), point) for name, point in nodes.items()}
        self._pods = {
            key: {
                name: _pair(self._pods.get(key, {}).get(name), point, self.resolution)
                for name, point in containers.items()
            }
            for key, containers in merged(scrapes.values())
        }

    def node(self, name: str) -> Usage | None:
        """What a node uses; None when it is not known."""
        points = self._nodes.get(name)
        return usage(*points) if points else None

    def pod(self, key: PodKey) -> dict[str, Usage] | None:
        """What each container of a pod uses; None when it is not known of all of them."""
        found = {name: usage(*points) for name, points in self._pods.get(key, {}).items()}
        known = {name: each for name, each in found.items() if each is not None}
        return known if known and len(known) == len(found) else None


def _pair(
    old: tuple[Point | None, Point] | None, new: Point, resolution: float = 0.0
) -> tuple[Point | None, Point]:
    """The two points to keep now that `new` has come."""
    if old is not None and old[1].started == new.started and new.cpu_seconds >= old[1].cpu_seconds:
        if new.at <= old[1].at:
            return old  # the kubelet has not looked again since
        return old[1], new
    age = new.at - new.started
    if new.started and FRESH_MINIMUM <= age < max(resolution, FRESH_MINIMUM) * 2:
        return Point(new.started, 0.0, 0, new.started), new
    return None, new


def usage(before: Point | None, after: Point) -> Usage | None:
    """The rate between two points."""
    if before is None or after.at <= before.at:
        return None
    window = after.at - before.at
    nanocores = round((after.cpu_seconds - before.cpu_seconds) / window * 1e9)
    return Usage(after.at, window, nanocores, after.memory_bytes)
