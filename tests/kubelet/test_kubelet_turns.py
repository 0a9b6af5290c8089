"""Pods start a few at once, however many come: whom the runtime is asked for next; nobody is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.port import RuntimeFailure
from kubelet.turns import LEAST, Rank, Turns, starts_at_once
from tests.kubelet.world import World

Job = Callable[[str, Rank], Awaitable[None]]


class Desk:
    """Workers that take a turn and keep it until they are told to go."""

    def __init__(self, limit: int) -> None:
        self.turns = Turns(limit)
        self.served: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}

    async def work(self, name: str, rank: Rank) -> None:
        self._leave[name] = asyncio.Event()
        async with self.turns.turn(rank):
            self.served.append(name)
            await self._leave[name].wait()

    async def done(self, name: str) -> None:
        self._leave[name].set()
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_containers_go_before_sandboxes_and_each_in_its_order() -> None:
    async def scenario() -> None:
        desk = Desk(1)
        async with asyncio.TaskGroup() as group:
            for name in ("s0", "s1", "s2", "c1", "c2"):
                rank = Rank.CONTAINER if name.startswith("c") else Rank.SANDBOX
                group.create_task(desk.work(name, rank))
                await settle()
            for name in ("s0", "c1", "c2", "s1", "s2"):
                assert desk.served[-1] == name
                await desk.done(name)
        assert desk.served == ["s0", "c1", "c2", "s1", "s2"]

    asyncio.run(scenario())


def test_who_gives_up_waiting_keeps_nobody_out() -> None:
    async def scenario() -> None:
        desk = Desk(1)
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(desk.work(name, Rank.SANDBOX)) for name in ("a", "b", "c", "d")}
            await settle()
            tasks["b"].cancel()
            await settle()
            # Let in and cancelled before it could run: its turn is the next one's.
            desk._leave["a"].set()
            await asyncio.sleep(0)
            tasks["c"].cancel()
            await settle()
            assert desk.served[-1] == "d"
            await desk.done("d")
            await desk_is_free(desk)

    async def desk_is_free(desk: Desk) -> None:
        async with asyncio.timeout(5), desk.turns.turn(Rank.SANDBOX):
            desk.served.append("e")

    asyncio.run(scenario())


def test_a_failure_gives_the_turn_back() -> None:
    async def scenario() -> None:
        turns = Turns(1)
        for _ in range(3):
            with pytest.raises(OSError, match="refused"):
                async with asyncio.timeout(5), turns.turn(Rank.CONTAINER):
                    raise OSError("refused")

    asyncio.run(scenario())


def test_how_many() -> None:
    assert [starts_at_once(cpus) for cpus in (1, 2, 8)] == [LEAST, LEAST, 16]
    with pytest.raises(ValueError, match="at least one"):
        Turns(0)


def test_a_crowd_of_pods_starts_a_few_at_once(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubelet.agent.starts_at_once", lambda cpus: 3)
    under_way, most = [0], [0]

    async def scenario(world: World) -> None:
        run: Any = world.runtime.run_sandbox

        async def slowly(config: pb.PodSandboxConfig, handler: str = "") -> str:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
            await asyncio.sleep(0.01)
            under_way[0] -= 1
            return str(await run(config, handler))

        monkeypatch.setattr(world.runtime, "run_sandbox", slowly)
        for number in range(12):
            await world.pod(f"p{number}")
        for number in range(12):
            await world.until_ready(f"p{number}")
        assert most[0] == 3

    play(scenario)


def test_leftovers_that_cannot_be_removed_do_not_hold_a_pod_up(play: Callable[..., None]) -> None:
    """containerd refuses to remove a container that it gave up while its task was being made."""

    async def scenario(world: World) -> None:
        refused: list[str] = []

        async def refuse(container_id: str) -> None:
            refused.append(container_id)
            raise RuntimeFailure("cannot delete running task")

        await world.pod("p", restartPolicy="Always")
        await world.until_ready("p")
        world.runtime.remove_container = refuse  # type: ignore[method-assign]
        kubelet = world.kubelet
        assert kubelet is not None
        (uid,) = kubelet.workers.uids()
        work = kubelet.workers._work[uid]
        for _ in range(3):
            (alive,) = world.living()
            world.runtime.exit_container(alive, 1)
            await world.api.until(lambda: bool(work.backoffs) or bool(world.living()))
            work.backoffs.clear()
            kubelet.workers.wake(uid)
            await world.api.until(lambda: bool(world.living()))
        while not refused:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await world.until_ready("p")
        held = work.retry.next()
        assert held < 2.0, "no failure was counted against the pod"

    play(scenario)
