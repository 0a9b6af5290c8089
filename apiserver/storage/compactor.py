"""Compaction of the store's history, by whichever apiserver comes first.

As kube-apiserver does it: the key `compact_rev_key` holds the revision that was current at the last turn;
its version counts turns. Each turn one server wins the swap of that key and compacts to the revision *it*
saw one interval ago, so at least one interval of history is always kept.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from apiserver.storage.interface import StorageError

logger = logging.getLogger("apiserver.compactor")


class Compactable(Protocol):
    async def compaction_turn(self, seen_turn: int) -> tuple[int, int]: ...
    async def compact(self, revision: int) -> None: ...


async def compact_forever(store: Compactable, interval: float) -> None:
    """Take a turn every `interval` seconds; errors are logged and the next turn tries again."""
    turn, revision = 0, 0
    while True:
        await asyncio.sleep(interval)
        try:
            before, (won, current) = turn, await store.compaction_turn(turn)
            if won == before + 1 and revision:
                await store.compact(revision)
                logger.info("compacted the store up to revision %d", revision)
            turn, revision = won, current
        except StorageError as error:
            logger.warning("compaction turn failed: %s", error)
