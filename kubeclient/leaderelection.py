"""Leader election over a Lease (client-go `tools/leaderelection`).

Clocks of different hosts are never compared. A candidate remembers when *it* last saw the lease change, by
its own monotonic clock, and takes over when that is longer ago than the lease's duration. A leader that
could not renew for `renew_deadline` seconds stops leading; since that is shorter than `lease_duration`, it
has stopped before anybody else may start, as long as clocks run at about the same speed.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from apimachinery.errors import StatusError, is_not_found
from componentbase import metrics
from componentbase.clock import Clock, RealClock
from kubeclient.resources import LEASES
from kubeclient.rest import ConnectionFailed, RestClient

log = logging.getLogger(__name__)

JITTER = 1.2
_RELEASE_TIMEOUT = 5.0

_status = metrics.gauge(
    "leader_election_master_status", "Whether this process is the leader: 1 or 0.", ["name"]
)

Spec = dict[str, Any]


class LeaseLost(Exception):
    """What a daemon ends with that led and does so no longer: whoever started it starts it again, and it is a
    candidate as any other.
    """


def micro_time(seconds: float) -> str:
    """RFC 3339 with microseconds, as `metav1.MicroTime` is written."""
    stamp = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return stamp.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(slots=True)
class Observation:
    """What this candidate last saw of the lease, and when it saw it, by its own monotonic clock. Pure."""

    spec: Spec = field(default_factory=dict)
    seen_at: float = float("-inf")

    def see(self, spec: Spec, now: float) -> None:
        """Note the lease's state; only a change counts as a sign of life."""
        if spec != self.spec:
            self.spec = spec
            self.seen_at = now

    @property
    def holder(self) -> str:
        return str(self.spec.get("holderIdentity") or "")

    def expired(self, now: float) -> bool:
        """Whether the holder gave no sign of life for as long as the lease lasts."""
        duration = float(self.spec.get("leaseDurationSeconds") or 0)
        return not self.holder or self.seen_at + duration <= now

    def claim(self, identity: str, duration: int, wall: str) -> Spec:
        """The spec that makes `identity` the holder, or keeps it so."""
        transitions = int(self.spec.get("leaseTransitions") or 0)
        acquired = self.spec.get("acquireTime")
        if self.holder != identity:
            transitions += 1
            acquired = wall
        return {
            "holderIdentity": identity,
            "leaseDurationSeconds": duration,
            "acquireTime": acquired,
            "renewTime": wall,
            "leaseTransitions": transitions,
        }


class LeaderElector:
    """One candidate for one lease."""

    def __init__(
        self,
        client: RestClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        lease_duration: float = 15,
        renew_deadline: float = 10,
        retry_period: float = 2,
        on_new_leader: Callable[[str], None] | None = None,
        clock: Clock | None = None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        if not lease_duration > renew_deadline > retry_period * JITTER:
            raise ValueError("need lease_duration > renew_deadline > 1.2 * retry_period")
        if lease_duration < 1 or not identity:
            raise ValueError("need a lease_duration of at least 1 second and an identity")
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration = lease_duration
        self._renew_deadline = renew_deadline
        self._retry_period = retry_period
        self._on_new_leader = on_new_leader
        self._clock = clock or RealClock()
        self._rng = rng
        self._observed = Observation()
        self._lease: dict[str, Any] = {}
        self._reported = ""
        self.is_leader = False

    @property
    def leader(self) -> str:
        """The identity last seen holding the lease."""
        return self._observed.holder

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, run `lead` while holding it, and return when `lead` ended or the lease was
        lost.

        `lead` is cancelled, and has ended, before the lease is given back. What it raises is raised here.
        """
        await self._acquire()
        self._become_leader()
        try:
            await self._lead_until_lost(lead)
        finally:
            still_held = self.is_leader
            self._become_follower()
            if still_held:
                await self._release()

    async def _acquire(self) -> None:
        extra = {"lease": f"{self._namespace}/{self._name}"}
        log.info("waiting for the lease", extra=extra)
        while not await self._try_acquire_or_renew():
            await self._clock.sleep(self._retry_period * (1 + JITTER * self._rng()))
        log.info("lease acquired", extra=extra)

    async def _lead_until_lost(self, lead: Callable[[], Awaitable[None]]) -> None:
        failures: list[Exception] = []

        async def leading() -> None:
            try:
                await lead()
            except Exception as error:
                failures.append(error)
            renewing.cancel()

        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(self._renew(), name=f"renew/{self._name}")
            work = group.create_task(leading(), name=f"lead/{self._name}")
            renewing.add_done_callback(lambda _: work.cancel())
        if failures:
            raise failures[0]

    async def _renew(self) -> None:
        """Return when the lease could not be renewed in time."""
        renewed_at = self._clock.monotonic()
        while True:
            await self._clock.sleep(self._retry_period)
            left = renewed_at + self._renew_deadline - self._clock.monotonic()
            if left > 0 and await self._try_within(left):
                renewed_at = self._clock.monotonic()
            elif self._clock.monotonic() >= renewed_at + self._renew_deadline or self._taken_by_other():
                self.is_leader = False
                log.error("lease lost", extra={"lease": self._name, "holder": self._observed.holder})
                return

    async def _try_within(self, seconds: float) -> bool:
        try:
            return await asyncio.wait_for(self._try_acquire_or_renew(), seconds)
        except TimeoutError:
            return False

    def _taken_by_other(self) -> bool:
        return self._observed.holder not in ("", self._identity)

    async def _try_acquire_or_renew(self) -> bool:
        try:
            return await self._attempt()
        except (StatusError, ConnectionFailed, OSError) as error:
            log.warning("lease: %s", error, extra={"lease": self._name})
            # What is stored now is unknown: the next attempt reads it first.
            self._lease = {}
            return False

    async def _attempt(self) -> bool:
        # A leader knows what it wrote last and need not read it back; a conflict tells it when it is wrong.
        if not (self.is_leader and self._lease):
            try:
                await self._look()
            except StatusError as error:
                if not is_not_found(error):
                    raise
                self._lease = {}
                self._see(await self._client.create(LEASES, self._new_lease()))
                return True
        if self._taken_by_other() and not self._observed.expired(self._clock.monotonic()):
            return False
        spec = self._observed.claim(self._identity, int(self._duration), micro_time(self._clock.now()))
        self._see(await self._client.update(LEASES, {**self._lease, "spec": spec}))
        return True

    async def _look(self) -> None:
        """Read the lease. Who waits looks into the apiserver's cache, which costs the store nothing: one that
        is behind makes it wait, or its claim fail, and then the store is read. No look goes back in time.
        """
        if not self._lease:
            self._see(await self._client.get(LEASES, self._name, self._namespace))
            return
        found = await self._client.get(LEASES, self._name, self._namespace, params={"resourceVersion": "0"})
        if _revision(found) >= _revision(self._lease):
            self._see(found)

    def _new_lease(self) -> dict[str, Any]:
        wall = micro_time(self._clock.now())
        spec = Observation().claim(self._identity, int(self._duration), wall) | {"leaseTransitions": 0}
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": spec,
        }

    def _see(self, lease: dict[str, Any]) -> None:
        self._lease = lease
        self._observed.see(lease.get("spec") or {}, self._clock.monotonic())
        if self._on_new_leader is not None and self.leader != self._reported:
            self._on_new_leader(self.leader)
        self._reported = self.leader

    def _become_leader(self) -> None:
        self.is_leader = True
        _status.labels(self._name).set(1)

    def _become_follower(self) -> None:
        self.is_leader = False
        _status.labels(self._name).set(0)

    async def _release(self) -> None:
        """Give the lease back, so that the next leader need not wait for it to expire."""
        wall = micro_time(self._clock.now())
        spec = {
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
            "acquireTime": wall,
            "renewTime": wall,
            "leaseTransitions": int(self._observed.spec.get("leaseTransitions") or 0),
        }
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                if not self._lease:
                    self._see(await self._client.get(LEASES, self._name, self._namespace))
                    if self._observed.holder != self._identity:
                        return
                await self._client.update(LEASES, {**self._lease, "spec": spec})
        except (StatusError, ConnectionFailed, OSError, TimeoutError) as error:
            log.warning("lease not released: %s", error, extra={"lease": self._name})


def _revision(lease: dict[str, Any]) -> int:
    return int(lease["metadata"]["resourceVersion"])
