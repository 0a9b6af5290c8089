"""The work queue by transcript, its limiter by table."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from componentbase.clock import FakeClock
from kubeclient.ratelimit import TokenBucket
from kubeclient.workqueue import FailureLimiter, QueueShutDown, WorkQueue
from tests.kubeclient.loops import on_loop

Scenario = tuple[str, list[tuple[str, str]]]


def scenarios() -> list[Scenario]:
    text = Path(__file__).with_name("testdata").joinpath("workqueue.txt").read_text()
    found: list[Scenario] = []
    for block in text.split("\n\n")[1:]:
        title, *lines = block.strip().splitlines()
        steps = [
            (action.strip(), outcome.strip()) for action, _, outcome in (ln.partition(">") for ln in lines)
        ]
        found.append((title, steps))
    return found


async def act(queue: WorkQueue[str], clock: FakeClock, action: str) -> str:
    verb, *arguments = action.split()
    match verb:
        case "get":
            try:
                return await asyncio.wait_for(queue.get(), 0.01)
            except TimeoutError:
                return "waits"
            except QueueShutDown:
                return "shut down"
        case "add":
            queue.add(arguments[0])
        case "done":
            queue.done(arguments[0])
        case "after":
            queue.add_after(arguments[0], float(arguments[1]))
        case "limited":
            queue.add_rate_limited(arguments[0])
        case "forget":
            queue.forget(arguments[0])
        case "shutdown":
            queue.shut_down()
        case _:
            clock.advance(float(verb.removeprefix("+")) + 1e-9)
    return f"ready {len(queue)}"


@pytest.mark.parametrize(("title", "steps"), scenarios(), ids=[title for title, _ in scenarios()])
def test_transcript(title: str, steps: list[tuple[str, str]]) -> None:
    async def test() -> None:
        clock = FakeClock()
        queue: WorkQueue[str] = WorkQueue(clock)
        for number, (action, expected) in enumerate(steps, 1):
            assert await act(queue, clock, action) == expected, f"{title}: step {number}: {action}"

    on_loop(test)


def test_a_waiting_worker_is_woken_and_a_cancelled_one_loses_no_key() -> None:
    async def test() -> None:
        queue: WorkQueue[str] = WorkQueue(FakeClock())
        async with asyncio.TaskGroup() as group:
            first = group.create_task(queue.get())
            second = group.create_task(queue.get())
            await asyncio.sleep(0)
            queue.add("a")
            first.cancel()
            assert await asyncio.wait_for(second, 1) == "a"
            with contextlib.suppress(asyncio.CancelledError):
                await first

    on_loop(test)


def test_many_workers_never_share_a_key() -> None:
    async def test() -> None:
        queue: WorkQueue[int] = WorkQueue(FakeClock())
        busy: set[int] = set()
        worked: list[int] = []

        async def worker() -> None:
            while True:
                try:
                    key = await queue.get()
                except QueueShutDown:
                    return
                assert key not in busy
                busy.add(key)
                await asyncio.sleep(0)
                if len(worked) < 300:
                    queue.add(key)
                await asyncio.sleep(0)
                busy.discard(key)
                worked.append(key)
                queue.done(key)

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(worker())
            for key in range(20):
                queue.add(key)
            while not (queue.idle and worked):  # noqa: ASYNC110
                await asyncio.sleep(0)
            queue.shut_down()
        assert set(worked) == set(range(20))
        assert len(worked) >= 300

    on_loop(test)


def test_failure_delays_are_those_of_client_go() -> None:
    limiter: FailureLimiter[str] = FailureLimiter(rate=1e6, burst=1000)
    delays = [limiter.when("k", 0.0) for _ in range(20)]
    assert delays[:4] == [0.005, 0.01, 0.02, 0.04]
    assert delays[-1] == 1000.0
    assert limiter.failures("k") == 20
    limiter.forget("k")
    assert limiter.when("k", 0.0) == 0.005


def test_the_overall_rate_holds_back_a_crowd() -> None:
    limiter: FailureLimiter[int] = FailureLimiter()
    delays = [limiter.when(key, 0.0) for key in range(102)]
    assert delays[99] == 0.005
    assert delays[100] == pytest.approx(0.1)
    assert delays[101] == pytest.approx(0.2)


def test_token_bucket() -> None:
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.reserve(0) for _ in range(5)] == [0, 0, 0, 0.5, 1.0]
    assert bucket.reserve(10) == 0
    assert [bucket.try_take(10) for _ in range(3)] == [True, True, False]
    assert bucket.try_take(10.5)
    with pytest.raises(ValueError, match="positive rate"):
        TokenBucket(0, 1)
