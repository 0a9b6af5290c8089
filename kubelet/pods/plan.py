"""The pod plan: from a spec and what the runtime has, the next steps. Pure; nothing here waits or acts.

The rules are those of Kubernetes' `computePodActions`: no ready sandbox means a new one, and with it
everything anew; init containers run one after another, each to success; a restartable init container
(sidecar, KEP-753) must have started before the next may; then all containers run at once, and are restarted
as the restart policy says, not before their back-off has passed. A plan is executed at most once and then
computed anew from fresh observation, so every step may fail without harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubelet.pods.observed import CREATED, EXITED, RUNNING, UNKNOWN, ContainerView, PodView, fingerprint

Container = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Create and start this container as its `attempt`-th incarnation (0 is the first)."""

    name: str
    attempt: int
    init: bool = False


@dataclass(frozen=True, slots=True)
class KillContainer:
    """Stop this container; `message` is told in the Killing event, `restart` says whether a successor
    comes.
    """

    id: str
    name: str
    message: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PodActions:
    """What to do now, in this order: kill the pod, or kill containers; create the sandbox; start
    containers.
    """

    kill_pod: bool = False
    create_sandbox: bool = False
    attempt: int = 0
    kill: tuple[KillContainer, ...] = ()
    start: tuple[StartContainer, ...] = ()
    waiting: Mapping[str, float] = field(default_factory=dict)
    """Containers that will be started, once their back-off has passed: name -> when (epoch seconds)."""

    @property
    def nothing(self) -> bool:
        return not (self.kill_pod or self.create_sandbox or self.kill or self.start)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a crashed container must rest after its end, in seconds; absent means not at all."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Probed:
    """The latest probe verdicts of one container; None means not known yet (or no such probe)."""

    startup: bool | None = None
    live: bool | None = None


def restartable(container: Container) -> bool:
    """Whether an init container is a sidecar."""
    return container.get("restartPolicy") == "Always"


def should_restart(policy: str, container: ContainerView) -> bool:
    """What the restart policy says about a container that has ended."""
    if policy == "Always":
        return True
    return policy == "OnFailure" and container.exit_code != 0


def compute_pod_actions(
    pod: Mapping[str, Any],
    view: PodView,
    *,
    now: float,
    backoffs: Mapping[str, Backoff],
    probed: Mapping[str, Probed],
) -> PodActions:
    """Decide the next steps for a pod that should be running. `probed` is keyed by container id."""
    spec = pod["spec"]
    policy = spec.get("restartPolicy", "Always")
    if view.sandbox is None:
        return _new_sandbox(spec, view, policy, now, backoffs)
    if sum(1 for sandbox in view.sandboxes if sandbox.ready) > 1:
        return PodActions(kill_pod=True, create_sandbox=True, attempt=_next_attempt(view))
    if _finished(spec, view, policy):
        return PodActions(kill_pod=True)
    planner = _Planner(spec, view, policy, now, backoffs, probed)
    planner.plan()
    planner.debug()
    return PodActions(kill=tuple(planner.kill), start=tuple(planner.start), waiting=planner.waiting)


def _next_attempt(view: PodView) -> int:
    return view.sandboxes[0].attempt + 1 if view.sandboxes else 0


def _new_sandbox(
    spec: Mapping[str, Any], view: PodView, policy: str, now: float, backoffs: Mapping[str, Backoff]
) -> PodActions:
    """The pod has no living sandbox: it starts from the beginning, unless its policy says that it has had
    its run.
    """
    if view.sandboxes and policy == "Never" and view.containers:
        return PodActions(kill_pod=view.alive)
    wanted = [
        container
        for container in spec.get("containers", [])
        if (last := view.latest(container["name"])) is None
        or not (policy == "OnFailure" and last.state == EXITED and last.exit_code == 0)
    ]
    if not wanted:
        return PodActions(kill_pod=view.alive)
    attempt = _next_attempt(view)
    inits = spec.get("initContainers", [])
    candidates = inits[:1] if inits else wanted
    start: list[StartContainer] = []
    waiting: dict[str, float] = {}
    for container in candidates:
        last = view.latest(container["name"])
        ready_at = _ready_at(container["name"], last, backoffs)
        if ready_at > now:
            waiting[container["name"]] = ready_at
        else:
            start.append(StartContainer(container["name"], last.attempt + 1 if last else 0, bool(inits)))
    return PodActions(view.alive, True, attempt, start=tuple(start), waiting=waiting)


def _ready_at(name: str, last: ContainerView | None, backoffs: Mapping[str, Backoff]) -> float:
    if last is None or last.state != EXITED or name not in backoffs:
        return 0.0
    return (last.finished_at or last.created_at) + backoffs[name].seconds


def _finished(spec: Mapping[str, Any], view: PodView, policy: str) -> bool:
    """Every container has ended for good, or an init container has failed for good: only the sandbox is
    left.
    """
    sandbox = view.sandbox
    assert sandbox is not None
    if policy == "Always":
        return False
    for container in spec.get("initContainers", []):
        last = view.latest(container["name"])
        over = last is not None and last.state == EXITED and last.sandbox_id == sandbox.id
        if last and over and not restartable(container) and last.exit_code != 0 and policy == "Never":
            return True
    for container in spec.get("containers", []):
        last = view.latest(container["name"])
        if last is None or last.state != EXITED or should_restart(policy, last):
            return False
    return True


class _Planner:
    """One pass over the containers of a pod that has its sandbox."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        view: PodView,
        policy: str,
        now: float,
        backoffs: Mapping[str, Backoff],
        probed: Mapping[str, Probed],
    ) -> None:
        self.spec, self.view, self.policy = spec, view, policy
        self.now, self.backoffs, self.probed = now, backoffs, probed
        self.kill: list[KillContainer] = []
        self.start: list[StartContainer] = []
        self.waiting: dict[str, float] = {}

    def plan(self) -> None:
        if self._initialized():
            for container in self.spec.get("containers", []):
                self._keep(container, self.policy)

    def debug(self) -> None:
        """Ephemeral containers run once, whatever the others do, and are never restarted."""
        for container in self.spec.get("ephemeralContainers") or []:
            if self.view.latest(container["name"]) is None:
                self.start.append(StartContainer(container["name"], 0))

    def _current(self, name: str) -> ContainerView | None:
        """The youngest container of that name that belongs to the living sandbox."""
        last = self.view.latest(name)
        sandbox = self.view.sandbox
        return last if last and sandbox and last.sandbox_id == sandbox.id else None

    def _initialized(self) -> bool:
        """Advance the init containers by one step; whether all have done their part."""
        inits = self.spec.get("initContainers", [])
        started = any(
            (current := self._current(container["name"])) is not None and current.state != CREATED
            for container in self.spec.get("containers", [])
        )
        for container in inits:
            if restartable(container):
                self._keep(container, "Always", init=True)
                if not started and not self._sidecar_up(container):
                    return False
            elif not started and not self._init_done(container):
                return False
        return True

    def _sidecar_up(self, container: Container) -> bool:
        current = self._current(container["name"])
        if current is None or current.state != RUNNING:
            return False
        return "startupProbe" not in container or self._verdict(current).startup is True

    def _init_done(self, container: Container) -> bool:
        current = self._current(container["name"])
        if current is not None and current.state == EXITED and current.exit_code == 0:
            return True
        policy = "OnFailure" if self.policy == "Always" else self.policy
        self._keep(container, policy, init=True)
        return False

    def _verdict(self, container: ContainerView) -> Probed:
        return self.probed.get(container.id, Probed())

    def _keep(self, container: Container, policy: str, *, init: bool = False) -> None:
        """Bring one container where it should be: start, restart, replace or leave it."""
        name = container["name"]
        current = self._current(name)
        if current is None:
            self._start(name, init)
        elif current.state == EXITED:
            if should_restart(policy, current):
                self._start(name, init)
        elif current.state == UNKNOWN:
            self._replace(current, init, "Container is in unknown state, try killing it before restart")
        elif current.state == CREATED:
            self._replace(current, init, f"Container {name} was created but never started")
        elif current.hash and current.hash != fingerprint(container):
            self._replace(current, init, f"Container {name} definition changed, will be restarted")
        elif self._verdict(current).live is False:
            self._unhealthy(current, init, f"Container {name} failed liveness probe", "LivenessProbe")
        elif self._verdict(current).startup is False:
            self._unhealthy(current, init, f"Container {name} failed startup probe", "StartupProbe")

    def _start(self, name: str, init: bool) -> None:
        last = self.view.latest(name)
        ready_at = _ready_at(name, last, self.backoffs)
        if ready_at > self.now:
            self.waiting[name] = ready_at
            return
        self.start.append(StartContainer(name, last.attempt + 1 if last else 0, init))

    def _replace(self, current: ContainerView, init: bool, message: str) -> None:
        self.kill.append(KillContainer(current.id, current.name, message))
        self.start.append(StartContainer(current.name, current.attempt + 1, init))

    def _unhealthy(self, current: ContainerView, init: bool, message: str, reason: str) -> None:
        """A failed probe kills; whether a successor follows, and after which back-off, the next pass
        decides.
        """
        will = ", will be restarted" if self.policy != "Never" or init else ""
        self.kill.append(KillContainer(current.id, current.name, message + will, reason))
