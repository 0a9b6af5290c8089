"""Graceful node shutdown: the machine waits for its pods.

The words are systemd's, which the lab's pid 1 speaks as well: a shutdown that has been decided is the file
`/run/systemd/shutdown/scheduled`; who needs time first holds a lock below `/run/systemd/inhibit` (a
delay inhibitor).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from componentbase.clock import Clock
from kubelet.node.shutdown import MESSAGE, REASON, Period, Pod, Step, compute_steps

log = logging.getLogger(__name__)

SCHEDULED = Path("/run/systemd/shutdown/scheduled")
INHIBITORS = Path("/run/systemd/inhibit")
LOOK = 0.5  # seconds between two looks


class Pods(Protocol):
    """The pods of this node, and how to end one."""

    def pods(self) -> list[Pod]: ...

    def evict(self, pod: Pod, message: str, grace: float, reason: str) -> None: ...


class ShutdownManager:
    """Invariant: from the moment `leaving` is true no pod is admitted, and the inhibitor is let go only
    when every step has been taken."""

    def __init__(
        self,
        periods: Sequence[Period],
        pods: Pods,
        alive: Callable[[str], bool],
        report: Callable[[], Awaitable[None]],
        clock: Clock,
        *,
        scheduled: Path = SCHEDULED,
        inhibitors: Path = INHIBITORS,
    ) -> None:
        """`alive` says whether anything of the pod with this uid still runs; `report` writes the node's
        status."""
        self._periods, self._pods, self._alive, self._report = periods, pods, alive, report
        self._clock, self._scheduled, self._inhibitors = clock, scheduled, inhibitors
        self.leaving = False

    async def run(self) -> None:
        """Watch for ever; does nothing when no time is configured."""
        while self._periods:
            with self._inhibitor():
                await self._until(lambda: self._scheduled.exists())
                log.warning("the machine is shutting down", extra={"pods": len(self._pods.pods())})
                self.leaving = True
                await self._tell()
                for step in compute_steps(self._pods.pods(), self._periods):
                    await self._take(step)
                log.info("pods have ended: the machine may go")
            await self._until(lambda: not self._scheduled.exists())
            log.info("the shutdown was called off")
            self.leaving = False
            await self._tell()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._clock.sleep(LOOK)

    async def _tell(self) -> None:
        """The node's Ready condition is to change at once. It is reported anyway, a little later."""
        try:
            await self._report()
        except Exception as error:
            log.warning("node status not reported: %s", error)

    async def _take(self, step: Step) -> None:
        deadline = self._clock.monotonic() + step.seconds
        for pod in step.pods:
            self._pods.evict(pod, MESSAGE, step.seconds, REASON)
        uids = {pod["metadata"]["uid"] for pod in step.pods}
        while any(self._alive(uid) for uid in uids) and self._clock.monotonic() < deadline:
            await self._clock.sleep(LOOK / 5)

    @contextlib.contextmanager
    def _inhibitor(self) -> Iterator[None]:
        """Hold up the shutdown. Where that cannot be asked for, pods have what time the machine gives."""
        descriptor = -1
        try:
            self._inhibitors.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._inhibitors / "kubelet", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            log.warning("shutdown cannot be held up: %s", error)
        try:
            yield
        finally:
            if descriptor >= 0:
                os.close(descriptor)
