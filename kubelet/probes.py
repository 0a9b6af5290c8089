"""Probes: when to ask, how often it must fail before it counts, and the tasks that ask.

The count (`Tally`) is pure. A probe's verdict changes only after `successThreshold` or `failureThreshold`
equal answers in a row; liveness and readiness wait for the startup probe; what changed is told to the pod's
worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from componentbase.clock import Clock
from componentbase.tasks import Background
from kubelet.cri.port import Runtime
from kubelet.hooks import Outcome, act
from kubelet.pods.observed import RUNNING, ContainerView, PodView
from kubelet.pods.plan import Probed, restartable

log = logging.getLogger(__name__)

STARTUP, LIVENESS, READINESS = "startupProbe", "livenessProbe", "readinessProbe"
KINDS = (STARTUP, LIVENESS, READINESS)
Key = tuple[str, str]  # container id, kind of probe


@dataclass(slots=True)
class Tally:
    """Answers in a row. `verdict` is None until a threshold has been reached for the first time."""

    success_threshold: int
    failure_threshold: int
    verdict: bool | None = None
    last: bool | None = None
    row: int = 0

    def record(self, ok: bool) -> bool:
        """Count one answer; whether the verdict changed by it."""
        self.row = self.row + 1 if self.last is ok else 1
        self.last = ok
        if self.row < (self.success_threshold if ok else self.failure_threshold) or self.verdict is ok:
            return False
        self.verdict = ok
        return True


def tally_for(probe: Mapping[str, Any]) -> Tally:
    return Tally(int(probe.get("successThreshold") or 1), int(probe.get("failureThreshold") or 3))


Unhealthy = Callable[[Mapping[str, Any], str, str], None]
Ask = Callable[[Runtime, Mapping[str, Any], str, str, Mapping[str, Any], float], Awaitable[Outcome]]


class Probes:
    """One task for each probe of each running container; verdicts by container id."""

    def __init__(
        self,
        runtime: Runtime,
        clock: Clock,
        tasks: Background,
        on_change: Callable[[str], None],
        on_unhealthy: Unhealthy,
        ask: Ask = act,
    ) -> None:
        self._ask = ask
        self._runtime = runtime
        self._clock = clock
        self._background = tasks
        self._on_change = on_change
        self._on_unhealthy = on_unhealthy
        self._tallies: dict[Key, Tally] = {}
        self._tasks: dict[Key, tuple[str, asyncio.Task[None]]] = {}

    def probed(self) -> dict[str, Probed]:
        """The verdicts the plan decides by, for every container that is probed."""
        ids = {container_id for container_id, _ in self._tallies}
        return {i: Probed(self._verdict(i, STARTUP), self._verdict(i, LIVENESS)) for i in ids}

    def ready(self) -> dict[str, bool]:
        return {i: bool(t.verdict) for (i, kind), t in self._tallies.items() if kind == READINESS}

    def started(self) -> dict[str, bool]:
        return {i: bool(t.verdict) for (i, kind), t in self._tallies.items() if kind == STARTUP}

    def _verdict(self, container_id: str, kind: str) -> bool | None:
        tally = self._tallies.get((container_id, kind))
        return tally.verdict if tally else None

    def sync(self, pod: Mapping[str, Any], view: PodView, ip: str) -> None:
        """Probe what runs, forget what does not."""
        spec, uid = pod["spec"], pod["metadata"]["uid"]
        wanted: set[Key] = set()
        sidecars = [c for c in spec.get("initContainers", []) if restartable(c)]
        for container in [*sidecars, *spec.get("containers", [])]:
            current = view.latest(container["name"])
            if current is None or current.state != RUNNING:
                continue
            for kind in KINDS:
                if container.get(kind):
                    key = (current.id, kind)
                    wanted.add(key)
                    if key not in self._tasks:
                        self._begin(key, pod, container, current, ip)
        for key in [key for key, (owner, _) in self._tasks.items() if owner == uid and key not in wanted]:
            self._end(key)

    def wind_down(self, uid: str) -> None:
        """The pod is ending, and must not be restarted any more; whether it can serve is still asked."""
        for (_, kind), (owner, task) in self._tasks.items():
            if owner == uid and kind != READINESS:
                task.cancel()

    def stop(self, uid: str) -> None:
        """The pod has ended: nobody asks any more."""
        for key in [key for key, (owner, _) in self._tasks.items() if owner == uid]:
            self._end(key)

    def _begin(
        self, key: Key, pod: Mapping[str, Any], container: Mapping[str, Any], current: ContainerView, ip: str
    ) -> None:
        self._tallies[key] = tally_for(container[key[1]])
        work = self._probe(key, pod, container, current, ip)
        self._tasks[key] = (
            pod["metadata"]["uid"],
            self._background.spawn(f"{key[1]}:{container['name']}", work),
        )

    def _end(self, key: Key) -> None:
        _, task = self._tasks.pop(key)
        task.cancel()
        self._tallies.pop(key, None)

    async def _probe(
        self, key: Key, pod: Mapping[str, Any], container: Mapping[str, Any], current: ContainerView, ip: str
    ) -> None:
        container_id, kind = key
        probe, tally = container[kind], self._tallies[key]
        delay = float(probe.get("initialDelaySeconds") or 0)
        period, timeout = float(probe.get("periodSeconds") or 10), float(probe.get("timeoutSeconds") or 1)
        await self._clock.sleep(max(0.0, current.started_at + delay - self._clock.now()))
        while True:
            if kind == STARTUP or STARTUP not in container or self._verdict(container_id, STARTUP):
                outcome = await self._ask(self._runtime, container, container_id, ip, probe, timeout)
                self._count(tally, outcome, pod, container, kind)
                if kind == STARTUP and tally.verdict:
                    return
                await self._clock.sleep(period)
            else:
                await self._clock.sleep(min(period, 1.0))

    def _count(
        self, tally: Tally, outcome: Outcome, pod: Mapping[str, Any], container: Mapping[str, Any], kind: str
    ) -> None:
        if outcome.ok is None:
            log.info(
                "probe could not be carried out",
                extra={"container": container["name"], "why": outcome.detail},
            )
            return
        if not outcome.ok:
            name = {STARTUP: "Startup", LIVENESS: "Liveness", READINESS: "Readiness"}[kind]
            self._on_unhealthy(pod, container["name"], f"{name} probe failed: {outcome.detail}")
        if tally.record(outcome.ok):
            self._on_change(pod["metadata"]["uid"])
