"""One worker for each pod: from what the API wants and the runtime has, step by step, until they agree.

A worker is woken by a change of either side, by a probe's verdict or by time, and always starts from the
present state, so a lost or doubled wake-up does no harm. Termination interrupts whatever the worker is
doing; it never goes back to running.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from componentbase.backoff import Backoff as Delay
from componentbase.clock import Clock
from componentbase.tasks import Background
from kubelet.cache import RuntimeCache
from kubelet.cri.port import RuntimeFailure
from kubelet.executor import Executor, Recorder, StartFailure
from kubelet.pods.config import grace_period
from kubelet.pods.observed import EXITED, PodView, fingerprint
from kubelet.pods.plan import Backoff, KillContainer, PodActions, StartContainer, compute_pod_actions
from kubelet.pods.resize import IN_PROGRESS, PENDING, Resize, compute_resizes, given_pod
from kubelet.pods.spec import about_container, find_container, known_containers
from kubelet.pods.status import OVER, Facts, Status, Waiting, pod_ips, pod_status
from kubelet.probes import Probes
from kubelet.statuses import StatusManager
from kubelet.volumes.manager import VolumeManager
from kubelet.volumes.payload import VolumeError

log = logging.getLogger(__name__)

Pod = Mapping[str, Any]
EVICTED = "Evicted"
RESYNC = 60.0
ROUNDS = 12
CRASH_INITIAL, CRASH_MAX = 10.0, 300.0
LET_GO_AGAIN = 5.0  # seconds after which the API is asked again to let an ended pod's object go
FORGIVEN_AFTER = 600.0  # seconds a container must run for its crashes to be forgotten (twice the maximum)


@dataclass(frozen=True, slots=True)
class Hold:
    """A start that failed is not tried again before `until` (epoch seconds), unless its container is made
    from something else by then. What wakes the worker meanwhile must neither hide the reason nor hammer.
    """

    made_from: str
    until: float


class Lifecycle(Protocol):
    """What happens around a pod outside the runtime."""

    async def finished(self, pod: Pod) -> None:
        """Nothing runs any more and the final status is written: let the API object go."""

    async def released(self, pod: Pod) -> None:
        """The pod has left this node: forget everything about it."""

    def refusal(self, pod: Pod) -> tuple[str, str] | None:
        """Reason and message when the node cannot take the pod."""

    def resize_refusal(self, pod: Pod) -> tuple[str, str] | None:
        """Reason (Infeasible, Deferred) and message when the pod asks for what the node cannot give."""

    async def prepare(self, pod: Pod, before: Pod | None = None) -> None:
        """Give the pod's cgroup its figures; with `before`, enough for both. Raises OSError."""


@dataclass
class Work:
    """What a worker knows beside the API and the runtime; all of it may be lost without harm."""

    pod: Pod
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    gone: bool = False
    admitted: bool = False
    failed: tuple[str, str] | None = None
    kill_grace: float | None = None
    waiting: dict[str, Waiting] = field(default_factory=dict)
    held: dict[str, Hold] = field(default_factory=dict)
    backoffs: dict[str, Backoff] = field(default_factory=dict)
    retry: Delay = field(default_factory=lambda: Delay(1.0, 20.0))
    step: asyncio.Task[float | None] | None = None
    finished: bool = False
    let_go_again: float = 0.0  # monotonic; until then what is seen of the pod is news of our own writes
    resize: tuple[str, str, str] | None = None
    volumes_said: str = ""

    @property
    def terminating(self) -> bool:
        return self.gone or bool(self.pod["metadata"].get("deletionTimestamp"))

    @property
    def grace(self) -> float:
        asked = float(grace_period(self.pod))
        return asked if self.kill_grace is None else min(asked, self.kill_grace)


class PodWorkers:
    """All workers; `update`, `remove` and `wake` are called by whoever sees a change."""

    def __init__(
        self,
        *,
        cache: RuntimeCache,
        executor: Executor,
        volumes: VolumeManager,
        statuses: StatusManager,
        probes: Probes,
        recorder: Recorder,
        lifecycle: Lifecycle,
        clock: Clock,
        tasks: Background,
        host_ips: tuple[str, ...],
        runtime_name: str = "containerd",
    ) -> None:
        self._cache = cache
        self._executor = executor
        self._volumes = volumes
        self._statuses = statuses
        self._probes = probes
        self._events = recorder
        self._lifecycle = lifecycle
        self._clock = clock
        self._tasks = tasks
        self._host_ips = host_ips
        self._runtime_name = runtime_name
        self._work: dict[str, Work] = {}

    def uids(self) -> set[str]:
        return set(self._work)

    def pod(self, uid: str) -> Pod | None:
        work = self._work.get(uid)
        return work.pod if work else None

    def pods(self) -> list[Pod]:
        """Pods that hold the node's resources: all that have not ended."""
        return [w.pod for w in self._work.values() if w.admitted and not w.finished and not w.failed]

    def update(self, pod: Pod) -> None:
        """The API shows this pod as it now is."""
        uid = pod["metadata"]["uid"]
        work = self._work.get(uid)
        if work is None:
            work = self._work[uid] = Work(pod)
            self._tasks.spawn(f"pod/{pod['metadata']['name']}", self._run(uid, work))
        before, grace = work.terminating, work.grace
        work.pod = pod
        sooner = work.terminating and (not before or work.grace < grace)
        if sooner and work.step is not None:
            work.step.cancel()
        work.wake.set()

    def remove(self, pod: Pod) -> None:
        """The API has no such pod any more: whatever runs of it must end."""
        uid = pod["metadata"]["uid"]
        if uid not in self._work:
            self._work[uid] = Work(pod, gone=True)
            self._tasks.spawn(f"pod/{pod['metadata']['name']}", self._run(uid, self._work[uid]))
            return
        work = self._work[uid]
        running = work.step if not work.terminating else None
        work.gone = True
        if running is not None:
            running.cancel()
        work.wake.set()

    def wake(self, uid: str) -> None:
        """Something about the pod has changed. Its worker looks anew; while that is busy ending the pod,
        which may take long, the status is told from here.
        """
        work = self._work.get(uid)
        if work is None:
            return
        if work.terminating and work.step is not None and not (work.finished or work.gone):
            self._publish(work, self._cache.view(uid))
        work.wake.set()

    def evict(self, pod: Pod, message: str, grace: float, reason: str = EVICTED) -> None:
        """The node cannot keep this pod: it fails for good and has `grace` seconds to end."""
        work = self._work.get(pod["metadata"]["uid"])
        if work is None or work.failed or work.terminating:
            return
        self._events.event(work.pod, "Warning", reason, message)
        work.failed, work.kill_grace = (reason, message), grace
        if work.step is not None:
            work.step.cancel()
        work.wake.set()

    def retry(self, uid: str) -> None:
        """What the pod refers to has changed: what could not start for want of it is tried at once."""
        if uid in self._work:
            self._work[uid].held.clear()
            self._work[uid].wake.set()

    async def _run(self, uid: str, work: Work) -> None:
        """Step until the pod has left; a step that is interrupted is simply followed by the next."""
        async with asyncio.TaskGroup() as group:
            while True:
                work.wake.clear()
                work.step = group.create_task(self._guarded(uid, work), name=f"step/{uid}")
                await asyncio.wait([work.step])
                pause = 0.0 if work.step.cancelled() else work.step.result()
                work.step = None
                if pause is None:
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await work.wake.wait()
        del self._work[uid]

    async def _guarded(self, uid: str, work: Work) -> float | None:
        """One step; the seconds to wait for something to happen before the next, None when there is none."""
        try:
            pause = await self._step(uid, work)
        except (RuntimeFailure, OSError) as error:
            pause = work.retry.next()
            log.warning(
                "pod sync failed: %s", error, extra={"pod": _name(work.pod), "retry": f"{pause:.1f}s"}
            )
        except Exception:
            pause = work.retry.next()
            log.exception("pod sync failed", extra={"pod": _name(work.pod), "retry": f"{pause:.1f}s"})
        return pause

    async def _step(self, uid: str, work: Work) -> float | None:
        if work.terminating:
            return await self._terminate(uid, work)
        if not work.admitted and (over := self._admit(uid, work)):
            return over
        view = self._cache.view(uid)
        status = self._publish(work, view)
        if status["phase"] in OVER:
            return await self._conclude(uid, work, view)
        work.failed = work.failed or _deadline(work.pod, status, self._clock.now())
        if work.failed:
            self._events.event(work.pod, "Normal", work.failed[0], work.failed[1])
            return await self._conclude(uid, work, view)
        return await self._converge(uid, work, view)

    def _admit(self, uid: str, work: Work) -> float | None:
        """Take the pod in, or refuse it for good; one that already ran here is not asked again."""
        status = work.pod.get("status") or {}
        phase = status.get("phase", "Pending")
        if phase == "Failed" and status.get("reason"):
            # The verdict of an earlier life of this kubelet: it stands, whatever still runs.
            work.failed = status["reason"], status.get("message", "")
        fresh = self._cache.view(uid).empty and phase == "Pending"
        refusal = self._lifecycle.refusal(work.pod) if fresh else None
        if refusal is None:
            work.admitted = True
            return None
        work.failed = refusal
        self._events.event(work.pod, "Warning", *refusal)
        self._publish(work, self._cache.view(uid))
        return RESYNC

    def _publish(self, work: Work, view: PodView, *, finished: bool = False) -> Status:
        current = {**work.pod, "status": self._statuses.latest(work.pod)}
        facts = Facts(
            now=self._clock.now(),
            host_ips=self._host_ips,
            runtime_name=self._runtime_name,
            waiting=dict(work.waiting),
            ready=self._probes.ready(),
            started=self._probes.started(),
            failed=work.failed,
            terminating=work.terminating,
            finished=finished,
            given=self._executor.given(work.pod["metadata"]["uid"], view),
            resize=work.resize,
        )
        before = current["status"]
        if before.get("phase") in OVER and view.empty:
            return dict(before)
        status = pod_status(current, view, facts)
        if not work.gone:
            self._statuses.set(work.pod, status)
        return status

    async def _converge(self, uid: str, work: Work, view: PodView) -> float:
        try:
            volumes = await self._volumes.ensure(work.pod)
        except VolumeError as error:
            if str(error) != work.volumes_said:
                self._events.event(work.pod, "Warning", "FailedMount", str(error))
                work.volumes_said = str(error)
            return work.retry.next()
        work.volumes_said = ""
        for _ in range(ROUNDS):
            ips = pod_ips(work.pod["spec"], view, self._host_ips)
            self._probes.sync(work.pod, view, ips[0] if ips else "")
            plan = await self._resize(work, view) or self._plan(work, view)
            if plan.nothing:
                break
            await self._execute(work, view, plan, volumes)
            view = await self._cache.refresh(uid)
            if self._publish(work, view)["phase"] in OVER:
                return await self._conclude(uid, work, view)
        await self._prune(work, view)
        work.retry.reset()
        now = self._clock.now()
        timers = [until - now for until in self._plan(work, view).waiting.values()]
        timers += [hold.until - now for hold in work.held.values()]
        limit = work.pod["spec"].get("activeDeadlineSeconds")
        return max(0.05, min([*timers, RESYNC if limit is None else min(RESYNC, float(limit))]))

    async def _prune(self, work: Work, view: PodView) -> None:
        """Leftovers are no part of the pod: what cannot be removed now does not hold it up."""
        try:
            await self._executor.prune(view)
        except (RuntimeFailure, OSError) as error:
            log.warning("leftovers not removed: %s", error, extra={"pod": _name(work.pod)})

    def _plan(self, work: Work, view: PodView) -> PodActions:
        plan = compute_pod_actions(
            work.pod, view, now=self._clock.now(), backoffs=work.backoffs, probed=self._probes.probed()
        )
        metadata = work.pod["metadata"]
        for name in plan.waiting:
            whom = f"container={name} pod={metadata['name']}_{metadata['namespace']}({metadata['uid']})"
            delay = f"{work.backoffs[name].seconds:g}s"
            text = f"back-off {delay} restarting failed {whom}"
            if work.waiting.get(name) != Waiting("CrashLoopBackOff", text):
                work.waiting[name] = Waiting("CrashLoopBackOff", text)
                said = f"Back-off restarting failed container {name} in pod {metadata['name']}"
                text = f"{said}_{metadata['namespace']}({metadata['uid']})"
                self._events.event(about_container(work.pod, name), "Warning", "BackOff", text)
                self._publish(work, view)
        return self._due(work, plan)

    def _due(self, work: Work, plan: PodActions) -> PodActions:
        """The plan without the starts that failed just now."""
        now = self._clock.now()
        for start in plan.start:
            hold = work.held.get(start.name)
            made_from = fingerprint(find_container(work.pod["spec"], start.name))
            if hold is not None and (hold.until <= now or hold.made_from != made_from):
                del work.held[start.name]
        return replace(plan, start=tuple(start for start in plan.start if start.name not in work.held))

    async def _execute(
        self, work: Work, view: PodView, plan: PodActions, volumes: Mapping[str, Path]
    ) -> None:
        """Carry out a plan."""
        pod, uid = work.pod, work.pod["metadata"]["uid"]
        if plan.kill_pod:
            await self._executor.kill_pod(pod, view, work.grace)
        for kill in plan.kill:
            await self._kill(work, view, kill)
        if plan.create_sandbox:
            await self._lifecycle.prepare(pod)
            await self._executor.create_sandbox(pod, plan.attempt)
            view = await self._cache.refresh(uid)
        for start in plan.start:
            await self._start(work, view, start, volumes)

    async def _resize(self, work: Work, view: PodView) -> PodActions | None:
        """Bring running containers to the resources of the spec; a plan for those that must restart
        for it.
        """
        given = self._executor.given(work.pod["metadata"]["uid"], view)
        wanted = compute_resizes(work.pod["spec"], view, given)
        refusal = self._lifecycle.resize_refusal(work.pod) if wanted else None
        before, work.resize = work.resize, None
        if refusal is not None:
            work.resize = (PENDING, *refusal)
        elif wanted:
            await self._resize_in_place(
                work, [resize for resize in wanted if not resize.restart], given, view
            )
        if work.resize != before or wanted:
            self._publish(work, view)
        restarts = [] if refusal is not None else [resize for resize in wanted if resize.restart]
        if not restarts:
            return None
        text = "Container {} resize requires restart"
        kill = tuple(KillContainer(resize.id, resize.name, text.format(resize.name)) for resize in restarts)
        attempts = {c.id: c.attempt for c in view.containers}
        start = tuple(StartContainer(resize.name, attempts[resize.id] + 1) for resize in restarts)
        return PodActions(kill=kill, start=start)

    async def _resize_in_place(
        self, work: Work, wanted: list[Resize], given: Mapping[str, Mapping[str, Any]], view: PodView
    ) -> None:
        """The pod's group grows before its containers do, and shrinks after them."""
        try:
            await self._lifecycle.prepare(work.pod, given_pod(work.pod, view, given))
            for resize in wanted:
                await self._executor.resize_container(work.pod, resize)
            await self._lifecycle.prepare(work.pod)
        except (RuntimeFailure, OSError) as error:
            work.resize = (IN_PROGRESS, "Error", str(error))
            self._publish(work, view)
            raise

    async def _kill(self, work: Work, view: PodView, kill: KillContainer) -> None:
        target = next((container for container in view.containers if container.id == kill.id), None)
        if target is not None:
            ips = pod_ips(work.pod["spec"], view, self._host_ips)
            grace = _probe_grace(work.pod, kill, work.grace)
            await self._executor.kill_container(work.pod, target, grace, kill.message, ips[0] if ips else "")

    async def _start(
        self, work: Work, view: PodView, start: StartContainer, volumes: Mapping[str, Path]
    ) -> None:
        last = view.latest(start.name)
        if last is not None and last.state == EXITED:
            ran = last.finished_at - last.started_at if last.started_at else 0.0
            before = work.backoffs.get(start.name) if ran < FORGIVEN_AFTER else None
            work.backoffs[start.name] = Backoff(
                min(CRASH_MAX, before.seconds * 2) if before else CRASH_INITIAL
            )
        try:
            await self._executor.start_container(work.pod, start.name, start.attempt, view, volumes)
        except StartFailure as failure:
            work.waiting[start.name] = failure.waiting
            made_from = fingerprint(find_container(work.pod["spec"], start.name))
            work.held[start.name] = Hold(made_from, self._clock.now() + failure.retry)
            return
        work.waiting.pop(start.name, None)

    async def _conclude(self, uid: str, work: Work, view: PodView) -> float:
        """The pod has ended by itself, or was ended: stop what is left, give the disk back, keep what can be
        read (logs, status).
        """
        self._probes.stop(uid)
        if view.alive:
            await self._executor.kill_pod(work.pod, view, work.grace)
            view = await self._cache.refresh(uid)
        self._publish(work, view, finished=True)
        work.finished = True
        await self._volumes.tear_down(uid)
        if work.failed and work.failed[0] == EVICTED:
            await self._vacate(uid, work, view)
        return RESYNC

    async def _vacate(self, uid: str, work: Work, view: PodView) -> None:
        """An evicted pod leaves the node at once, with its layers and logs: it went to make room. Not before
        its status is written, from which alone it is known from then on.
        """
        await self._statuses.flushed(uid)
        await self._executor.remove_pod(view)
        await self._cache.refresh(uid)
        await self._remove_logs(work.pod)

    async def _remove_logs(self, pod: Pod) -> None:
        metadata = pod["metadata"]
        namespace = metadata.get("namespace", "")
        await self._executor.remove_logs(namespace, metadata["name"], metadata["uid"])

    async def _terminate(self, uid: str, work: Work) -> float | None:
        """Stop everything, write the last status, let the object go, and leave nothing behind."""
        if not work.gone and (left := work.let_go_again - self._clock.monotonic()) > 0:
            return left
        self._probes.wind_down(uid)
        view = await self._cache.refresh(uid)
        if view.alive:
            if not work.gone:
                self._publish(work, view)
            await self._executor.kill_pod(work.pod, view, work.grace)
            view = await self._cache.refresh(uid)
            if view.alive:
                raise RuntimeFailure("the pod is still alive after it was killed")
        self._probes.stop(uid)
        if not work.finished:
            work.finished = True
            self._publish(work, view, finished=True)
        await self._volumes.remove(uid)
        if not work.gone:
            await self._statuses.flushed(uid)
            await self._lifecycle.finished(work.pod)
            work.let_go_again = self._clock.monotonic() + LET_GO_AGAIN
            return LET_GO_AGAIN
        await self._executor.remove_pod(view)
        await self._cache.refresh(uid)  # otherwise housekeeping would take the old view for an orphan
        await self._remove_logs(work.pod)
        self._statuses.forget(uid)
        self._executor.forget_pod(uid)
        await self._lifecycle.released(work.pod)
        return None


def _name(pod: Pod) -> str:
    return f"{pod['metadata'].get('namespace', '')}/{pod['metadata'].get('name', '')}"


def _deadline(pod: Pod, status: Mapping[str, Any], now: float) -> tuple[str, str] | None:
    """Whether the pod has been active longer than it may."""
    limit = pod["spec"].get("activeDeadlineSeconds")
    began = status.get("startTime")
    if limit is None or not began or now - _seconds(began) < float(limit):
        return None
    return "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"


def _seconds(stamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def _probe_grace(pod: Pod, kill: KillContainer, default: float) -> float:
    """A probe may name a grace period of its own."""
    kind = {"LivenessProbe": "livenessProbe", "StartupProbe": "startupProbe"}.get(kill.reason)
    if kind:
        for container in known_containers(pod["spec"]):
            own = (container.get(kind) or {}).get("terminationGracePeriodSeconds")
            if container["name"] == kill.name and own is not None:
                return float(own)
    return default
