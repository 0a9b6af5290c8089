"""Leader election: candidates on one fake clock, over one Lease."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from apimachinery import errors
from componentbase.clock import FakeClock
from kubeclient.leaderelection import LeaderElector, Observation, micro_time
from kubeclient.resources import GVR
from kubeclient.rest import ConnectionFailed
from tests.kubeclient.loops import on_loop


class LeaseStore:
    """Stands in for the client: one Lease with compare-and-swap, and a switch that cuts it off."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.unreachable = False
        self.writes = 0
        self.consistent_reads = 0
        self.stale: dict[str, Any] | None = None  # what a cache that stands still shows

    def _reach(self) -> None:
        if self.unreachable:
            raise ConnectionFailed("cut off")

    async def get(
        self, gvr: GVR, name: str, namespace: str, *, params: dict[str, str] | None = None
    ) -> dict[str, Any]:
        self._reach()
        if params is None:
            self.consistent_reads += 1
        elif self.stale is not None:
            assert params == {"resourceVersion": "0"}
            return self.stale
        if self.lease is None:
            raise errors.not_found("coordination.k8s.io", "leases", name)
        return self.lease

    async def create(self, gvr: GVR, obj: dict[str, Any]) -> dict[str, Any]:
        self._reach()
        if self.lease is not None:
            raise errors.already_exists("coordination.k8s.io", "leases", "x")
        return self._write(obj)

    async def update(self, gvr: GVR, obj: dict[str, Any]) -> dict[str, Any]:
        self._reach()
        assert self.lease is not None
        if obj["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise errors.conflict("coordination.k8s.io", "leases", "x", "modified")
        return self._write(obj)

    def _write(self, obj: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.writes += 1
        self.lease = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        return self.lease

    @property
    def holder(self) -> str:
        return str(self.lease["spec"]["holderIdentity"]) if self.lease else ""


class Candidates:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.leading: set[str] = set()
        self.store = LeaseStore()

    def elector(self, name: str, store: LeaseStore | None = None) -> LeaderElector:
        client: Any = store or self.store
        return LeaderElector(
            client, namespace="kube-system", name="x", identity=name, clock=self.clock, rng=lambda: 0.0
        )

    def work(self, name: str) -> Callable[[], Any]:
        async def lead() -> None:
            self.leading.add(name)
            assert len(self.leading) == 1, f"two leaders: {self.leading}"
            try:
                await asyncio.Event().wait()
            finally:
                self.leading.discard(name)

        return lead

    async def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)
            await self.clock.settle()


def test_one_leads_and_hands_over_at_once_when_it_leaves() -> None:
    async def test() -> None:
        all_ = Candidates(FakeClock())
        async with asyncio.TaskGroup() as group:
            first = group.create_task(all_.elector("a").run(all_.work("a")))
            await all_.clock.settle()
            second = group.create_task(all_.elector("b").run(all_.work("b")))
            await all_.pass_time(60)
            assert all_.leading == {"a"}
            assert all_.store.lease is not None
            assert all_.store.lease["spec"]["leaseTransitions"] == 0
            first.cancel()
            await all_.clock.settle()
            assert all_.store.holder == ""
            await all_.pass_time(3)
            assert all_.leading == {"b"}
            assert all_.store.lease["spec"]["leaseTransitions"] == 1
            second.cancel()

    on_loop(test)


def test_who_waits_asks_a_cache_and_is_not_held_up_by_one_that_stands_still() -> None:
    async def test() -> None:
        all_ = Candidates(FakeClock())
        store, clock = all_.store, all_.clock

        def renew() -> None:
            spec = Observation().claim("other", 15, micro_time(clock.now())) | {"leaseTransitions": 0}
            store._write({"metadata": {"name": "x", "namespace": "kube-system"}, "spec": spec})

        async def renewed(seconds: int) -> None:
            for _ in range(seconds):
                renew()
                await all_.pass_time(1)

        renew()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(all_.elector("b").run(all_.work("b")))
            await renewed(60)
            assert store.consistent_reads == 1
            store.stale = store.lease  # from here on the cache stands still, and the lease does not
            await renewed(60)
            assert not all_.leading
            assert store.consistent_reads > 1
            await all_.pass_time(40)  # the leader is dead
            assert all_.leading == {"b"}
            waiting.cancel()

    on_loop(test)


def test_a_leader_that_is_cut_off_stops_before_another_starts() -> None:
    async def test() -> None:
        all_ = Candidates(FakeClock())
        cut = LeaseStore()

        class Shared(LeaseStore):
            """Same lease, own connection."""

            async def get(self, *args: Any, **options: Any) -> dict[str, Any]:
                self._reach()
                return await all_.store.get(*args)

            async def create(self, *args: Any) -> dict[str, Any]:
                self._reach()
                return await all_.store.create(*args)

            async def update(self, *args: Any) -> dict[str, Any]:
                self._reach()
                return await all_.store.update(*args)

        cut = Shared()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(all_.elector("a", cut).run(all_.work("a")))
            await all_.clock.settle()
            second = group.create_task(all_.elector("b").run(all_.work("b")))
            await all_.pass_time(10)
            cut.unreachable = True
            await all_.pass_time(11)
            assert all_.leading == set()
            assert first.done()
            assert all_.store.holder == "a"
            await all_.pass_time(10)
            assert all_.leading == {"b"}
            second.cancel()

    on_loop(test)


def test_a_dead_leaders_lease_is_taken_after_its_duration() -> None:
    async def test() -> None:
        all_ = Candidates(FakeClock())
        await all_.elector("dead")._try_acquire_or_renew()
        # Its own idea of the time is far in the future, and must not matter.
        assert all_.store.lease is not None
        all_.store.lease["spec"]["renewTime"] = "2099-01-01T00:00:00.000000Z"
        async with asyncio.TaskGroup() as group:
            task = group.create_task(all_.elector("b").run(all_.work("b")))
            await all_.pass_time(14)
            assert all_.leading == set()
            await all_.pass_time(4)
            assert all_.leading == {"b"}
            task.cancel()

    on_loop(test)


def test_losing_a_race_is_no_error() -> None:
    async def test() -> None:
        all_ = Candidates(FakeClock())
        outcomes = await asyncio.gather(
            *(all_.elector(name)._try_acquire_or_renew() for name in ("a", "b", "c"))
        )
        assert sorted(outcomes) == [False, False, True]

    on_loop(test)


def test_what_the_leader_raises_is_raised_and_the_lease_given_back() -> None:
    async def test() -> None:
        all_ = Candidates(FakeClock())

        async def fail() -> None:
            raise ValueError("bug")

        with pytest.raises(ValueError, match="bug"):
            await all_.elector("a").run(fail)
        assert all_.store.holder == ""

    on_loop(test)


def test_run_returns_when_the_work_ends() -> None:
    async def test() -> None:
        all_ = Candidates(FakeClock())

        async def brief() -> None:
            with contextlib.suppress(ValueError):
                raise ValueError

        await all_.elector("a").run(brief)
        assert all_.store.holder == ""

    on_loop(test)


def test_observation_counts_changes_by_its_own_clock() -> None:
    seen = Observation()
    assert seen.expired(0)
    spec = {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "t1"}
    seen.see(spec, 100)
    seen.see(dict(spec), 110)
    assert not seen.expired(114.9)
    assert seen.expired(115)
    seen.see({**spec, "renewTime": "t0"}, 116)
    assert not seen.expired(130)


def test_unusable_timings_are_refused() -> None:
    client: Any = LeaseStore()
    with pytest.raises(ValueError, match="lease_duration > renew_deadline"):
        LeaderElector(client, namespace="n", name="x", identity="a", lease_duration=5)


def test_micro_time() -> None:
    assert micro_time(1_767_225_600.25) == "2026-01-01T00:00:00.250000Z"
