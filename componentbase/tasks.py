"""Who owns a task: running a daemon's main coroutine, background work that may fail alone, loops,
deadlines.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any

import uvloop

from componentbase.backoff import Backoff
from componentbase.clock import Clock, RealClock

log = logging.getLogger(__name__)

SHUTDOWN_GRACE = 30.0
"""Seconds a daemon may take to end after SIGTERM before it names what still runs and exits with status 1."""


def run(main: Callable[[], Awaitable[None]], *, shutdown_grace: float = SHUTDOWN_GRACE) -> int:
    """Run a daemon on uvloop until `main` returns, fails, or SIGTERM or SIGINT cancels it.

    Returns the exit status: 0 after a return or a signal, 1 after an exception, which is logged. A second
    signal, or a shutdown longer than `shutdown_grace` seconds, ends the process at once.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_supervise(main, shutdown_grace))


async def _supervise(main: Callable[[], Awaitable[None]], grace: float) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    signalled: list[str] = []

    def on_signal(name: str) -> None:
        if signalled:
            log.error("second signal during shutdown, leaving at once", extra={"signal": name})
            os._exit(1)
        signalled.append(name)
        log.info("shutting down", extra={"signal": name})
        loop.call_later(grace, _give_up, grace)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
    try:
        await main()
    except asyncio.CancelledError:
        if not signalled:
            raise
    except Exception as error:
        _log_failure(error)
        return 1
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    return 0


def _give_up(grace: float) -> None:
    for task in asyncio.all_tasks():
        frames = task.get_stack(limit=1)
        where = f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else "?"
        log.error("still running after the shutdown grace", extra={"task": task.get_name(), "at": where})
    log.error("shutdown took too long", extra={"seconds": grace})
    os._exit(1)


def _log_failure(error: BaseException) -> None:
    """Log each leaf of an exception group on its own: that is where the cause is."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            _log_failure(each)
        return
    log.error("%s: %s", type(error).__name__, error, exc_info=error)


@contextlib.asynccontextmanager
async def deadline(seconds: float, what: str) -> AsyncIterator[None]:
    """Bound the block; raises TimeoutError that says what was waited for."""
    try:
        async with asyncio.timeout(seconds) as scope:
            yield
    except TimeoutError as error:
        if scope.expired():
            raise TimeoutError(f"{what}: no result within {seconds:g}s") from error
        raise


async def all_of(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run them at once, to the last. The first that fails ends the others, and what it raised is raised as it
    is.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def forever(
    name: str,
    step: Callable[[], Awaitable[None]],
    interval: float,
    *,
    jitter: float = 0.0,
    backoff: Backoff | None = None,
    clock: Clock | None = None,
    rng: Callable[[], float] | None = None,
) -> None:
    """Run `step` again and again, `interval` seconds (stretched by up to `jitter` times) after it ended.

    A failing step is logged and followed by the back-off's delay instead; it never ends the loop.
    """
    clock = clock or RealClock()
    pause = Backoff(max(interval, 1e-3), max(interval, 1e-3), 1.0, jitter, rng)
    backoff = backoff or Backoff(min(1.0, max(interval, 0.01)), max(30.0, interval), rng=rng)
    while True:
        try:
            await step()
        except Exception as error:
            delay = backoff.next()
            log.warning(
                "%s failed: %s: %s", name, type(error).__name__, error, extra={"retry": f"{delay:.1f}s"}
            )
            log.debug("%s failed", name, exc_info=error)
        else:
            backoff.reset()
            delay = pause.next() if interval > 0 else 0.0
        await clock.sleep(delay)


class Background:
    """Tasks that belong to one owner and may fail alone: a failure is logged, the others go on.

    Use as an async context manager; leaving it cancels what still runs and waits for it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Background:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
        await self._group.__aexit__(kind, error, trace)

    def spawn(self, name: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        task = self._group.create_task(self._guard(name, work), name=f"{self._name}/{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def __len__(self) -> int:
        return len(self._tasks)

    async def _guard(self, name: str, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except Exception as error:
            log.error("%s/%s failed: %s", self._name, name, error, exc_info=error)
