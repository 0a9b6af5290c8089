"""The loop of whatever programs a table: when something changed, soon; when it was refused, again; when
somebody else took the table away, anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from componentbase.backoff import Backoff
from componentbase.clock import Clock
from kubeclient.informer import InformerFactory
from kubeproxy.nftables import NftError

log = logging.getLogger(__name__)

FAILURES = (NftError, OSError, TimeoutError)


class Reconciler:
    """`programmed` is what is in force, a value that only its back end looks into; None when that is not
    known, and everything is programmed anew."""

    def __init__(
        self,
        what: str,
        sync: Callable[[], Awaitable[None]],
        present: Callable[[], Awaitable[bool]],
        clock: Clock,
        *,
        min_sync_period: float,
        sync_period: float,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """`what` names the rules in the log; `sync` programs the present state, and raises one of
        FAILURES when the old one stays in force; `present` says whether the table is still there."""
        self._what, self._sync, self._present, self._clock = what, sync, present, clock
        self._min_sync_period, self._sync_period = min_sync_period, sync_period
        self._on_failure = on_failure
        self._dirty = asyncio.Event()
        self.programmed: Any = None

    def touch(self) -> None:
        """Something that the rules are made from has changed."""
        self._dirty.set()

    def taken_up(self) -> None:
        """A sync begins: what changes from here on is for the next."""
        self._dirty.clear()

    async def run(self, factory: InformerFactory) -> None:
        """Until cancelled. Half of the picture would take away what is only not known yet, so nothing
        is programmed before everything has been listed."""
        while not factory.synced:
            try:
                await factory.wait_synced(30)
            except TimeoutError as error:
                log.warning("still waiting: %s", error)
        self.touch()
        backoff = Backoff(1.0, 30.0)
        while True:
            await self._wait()
            self.taken_up()
            try:
                await self._sync()
                backoff.reset()
                await self._clock.sleep(self._min_sync_period)
            except FAILURES as error:
                self._on_failure()
                self._anew()
                delay = backoff.next()
                log.error("%s not programmed: %s", self._what, error, extra={"retry": f"{delay:.1f}s"})
                await self._clock.sleep(delay)

    async def _wait(self) -> None:
        """Until something changed; meanwhile look now and then whether our table is still there."""
        while not self._dirty.is_set():
            try:
                async with asyncio.timeout(self._sync_period):
                    await self._dirty.wait()
            except TimeoutError:
                if not await self._present():
                    log.warning(
                        "the table of %s was removed by somebody else: programming it anew", self._what
                    )
                    self._anew()

    def _anew(self) -> None:
        self.programmed = None
        self._dirty.set()
