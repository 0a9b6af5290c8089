"""Do all members hold the same? The hash of a member's data, and the comparison with the others.

Members apply the same log, so the changes between the compacted revision and any later one are the same bytes
on all of them. A member that differs has a bug or a bad disk, and nobody can tell it from its answers: so the
leader compares from time to time (`--corrupt-check-time`) and raises CORRUPT for whoever differs, and a
member that starts compares first (`--initial-corrupt-check`) and does not serve if it differs (etcd:
server/etcdserver/corrupt.go).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import google_crc32c

from etcdlite.consensus.errors import ConfigurationError
from etcdlite.mvcc.errors import Compacted, DatabaseDamaged, DatabaseReplaced, FutureRevision, StoreError
from etcdlite.mvcc.revision import from_key, main_of
from etcdlite.pb import internal_pb2, raft_pb2
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.server.machine import Machine
from etcdlite.server.requests import Requests

log = logging.getLogger(__name__)

_AT_ONCE: Final = 1000  # changes hashed between two turns of the loop


@dataclass(frozen=True, slots=True)
class DataHash:
    """Of all changes after `compacted` up to `revision`."""

    digest: int
    compacted: int
    revision: int


class Peers(Protocol):
    """What the comparison needs of consensus."""

    def peer_hashes(self, revision: int) -> Awaitable[Mapping[int, raft_pb2.Hash]]:
        """What the other members say, by member id; without those that cannot say."""


async def hash_data(machine: Machine, revision: int) -> DataHash:
    """Hash what the database holds up to `revision` (0: all it has got). Raises Compacted, FutureRevision,
    DatabaseDamaged.

    The state that is hashed is one that the file had as a whole, with every compaction it knows of done:
    then the hash depends on nothing but the two revisions.
    """
    if revision > machine.store.revision:
        raise FutureRevision
    while True:
        await machine.wait_compacted()  # and flushed; more may have come meanwhile
        with contextlib.suppress(DatabaseReplaced), machine.backend.reading() as (meta, changes):
            if revision and revision < meta.compacted:
                raise Compacted
            if meta.compacted_physically == meta.compacted:
                last = revision or meta.revision
                return DataHash(await _digest(changes, last), meta.compacted, last)


async def _digest(changes: Iterator[tuple[bytes, bytes]], last: int) -> int:
    digest = 0
    for count, (key, encoded) in enumerate(changes, start=1):
        if main_of(from_key(key)) > last:
            break
        digest = google_crc32c.extend(google_crc32c.extend(digest, key), encoded)
        if count % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return digest


def odd_ones(digests: Mapping[int, int], me: int) -> list[int]:
    """Who holds other data than the rest: than the majority of those asked, or without one than `me`."""
    counted = Counter(digests.values())
    right, votes = counted.most_common(1)[0]
    if 2 * votes <= len(digests):
        right = digests[me]
    return sorted(member for member, digest in digests.items() if digest != right)


class CorruptionCheck:
    """Compares this member's data with the others'."""

    def __init__(self, machine: Machine, requests: Requests, peers: Peers) -> None:
        self._machine, self._requests, self._peers = machine, requests, peers

    async def answer(self, revision: int) -> raft_pb2.Hash:
        """What a peer is told that compares. Raises as `hash_data`."""
        try:
            found = await hash_data(self._machine, revision)
        except DatabaseDamaged:
            await self._raise_alarm(self._me)
            raise
        return raft_pb2.Hash(digest=found.digest, compacted=found.compacted, revision=found.revision)

    @property
    def _me(self) -> int:
        return self._requests.consensus.status().member_id

    async def _compare(self) -> list[int]:
        """The members that hold other data than the rest. Raises DatabaseDamaged."""
        mine = await hash_data(self._machine, 0)
        others = await self._peers.peer_hashes(mine.revision)
        digests = {self._me: mine.digest} | {
            member: theirs.digest
            for member, theirs in others.items()
            if (theirs.compacted, theirs.revision) == (mine.compacted, mine.revision)
        }
        log.debug("%d members compared data up to revision %d", len(digests), mine.revision)
        return odd_ones(digests, self._me)

    async def initial(self) -> None:
        """Refuse to serve data that the others do not have. Raises ConfigurationError, DatabaseDamaged."""
        odd = await self._compare()
        if odd:
            names = ", ".join(f"{member:x}" for member in odd)
            raise ConfigurationError(
                f"checkInitialHashKV failed: found data inconsistency with peers ({names} differ)"
            )

    async def run(self, interval: float) -> None:
        """Compare every `interval` seconds, on whichever member leads, until cancelled."""
        while True:
            await asyncio.sleep(interval)
            if self._requests.consensus.status().is_leader:
                await self.check()

    async def check(self) -> None:
        """Compare once; raise the alarm for each member that differs, and for this one if it is damaged."""
        try:
            await self._requests.confirm()
            odd = await self._compare()
        except DatabaseDamaged as reason:
            log.error("the database is damaged: %s", reason)
            odd = [self._me]
        except StoreError as reason:
            log.info("no comparison of data: %s", reason.text)
            return
        for member in odd:
            await self._raise_alarm(member)

    async def _raise_alarm(self, member: int) -> None:
        if (member, rpc.CORRUPT) in self._machine.alarms:
            return
        log.error("member %x holds other data than the rest: raising the CORRUPT alarm", member)
        alarm = rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, memberID=member, alarm=rpc.CORRUPT)
        try:
            await self._requests.submit(internal_pb2.InternalRaftRequest(alarm=alarm), internal=True)
        except StoreError as reason:
            log.warning("alarm not raised yet: %s", reason.text)
