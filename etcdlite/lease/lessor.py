"""The lessor: which leases there are, which keys hang on them, and when they run out. Pure: the caller brings
the time.

Grants, renewals and revocations come through the log, so all members agree on which leases exist. Time does
not come through the log: each member measures from the moment it applied a grant or renewal, and only the
leader acts on it, by proposing a revocation. A new leader gives every lease its full time again plus
`extend`, since it cannot know which renewals were on their way to its predecessor (as in etcd's
lessor.Promote); a lease may live too long, never too short.

Unlike etcd, a renewal is an entry of the log. It costs a write, and in return any member can answer one, and
an acknowledged renewal is known to every later leader. A leader decides that a lease is over by what it has
applied; a renewal may be on its way into the log by then, or the leader may have been deposed while it was
frozen. So its proposal names the last renewal it knew, and one that comes after a newer renewal does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from etcdlite.mvcc.errors import LeaseExists, LeaseNotFound, LeaseTTLTooLarge

MAX_TTL = 9_000_000_000  # seconds, etcd's maxLeaseTTL
REVOKES_AT_ONCE = 1000  # proposals per expiry round


@dataclass(slots=True)
class Lease:
    """`ttl` in whole seconds; `expires` on the clock of whoever calls; `renewed` is the index of the log's
    entry that granted it or renewed it last.
    """

    id: int
    ttl: int
    expires: float
    renewed: int = 0
    keys: set[bytes] = field(default_factory=set)

    def remaining(self, now: float) -> int:
        """Whole seconds left, rounded down as etcd does; 0 when it is due."""
        return max(0, math.floor(self.expires - now))


class Lessor:
    """All leases of a member. `minimum_ttl` (seconds) is raised to: below it a leader change would outlast a
    lease.
    """

    def __init__(self, minimum_ttl: int) -> None:
        self._minimum_ttl = minimum_ttl
        self._leases: dict[int, Lease] = {}
        self._by_key: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def clear(self) -> None:
        """Forget everything; a snapshot is about to be loaded."""
        self._leases.clear()
        self._by_key.clear()

    def restore(self, rows: Iterable[tuple[int, int, int]], now: float) -> None:
        """Leases (id, ttl, renewed) as the database has them. Attachments follow from the keys."""
        for id, ttl, renewed in rows:
            self._leases[id] = Lease(id, ttl, now + ttl, renewed)

    # -- what the log says

    def grant(self, id: int, ttl: int, now: float, index: int) -> Lease:
        """Create a lease. Raises LeaseExists, LeaseTTLTooLarge."""
        if ttl > MAX_TTL:
            raise LeaseTTLTooLarge
        if id in self._leases:
            raise LeaseExists
        ttl = max(ttl, self._minimum_ttl)
        lease = self._leases[id] = Lease(id, ttl, now + ttl, index)
        return lease

    def renew(self, id: int, now: float, index: int) -> Lease:
        """Give a lease its full time again. Raises LeaseNotFound."""
        lease = self.get(id)
        lease.expires, lease.renewed = now + lease.ttl, index
        return lease

    def revoke(self, id: int) -> list[bytes]:
        """Remove a lease; the keys that must be deleted with it, in order. Raises LeaseNotFound."""
        lease = self.get(id)
        del self._leases[id]
        for key in lease.keys:
            del self._by_key[key]
        return sorted(lease.keys)

    # -- the store's LeaseBook

    def attach(self, lease: int, key: bytes) -> None:
        """A key now lives as long as this lease (which `exists`, or the put would have been refused)."""
        found = self._leases.get(lease)
        if found is not None:
            found.keys.add(key)
            self._by_key[key] = lease

    def release(self, key: bytes) -> None:
        """A key hangs on no lease any more."""
        lease = self._by_key.pop(key, None)
        if lease is not None:
            self._leases[lease].keys.discard(key)

    # -- reading

    def exists(self, lease: int) -> bool:
        """Whether keys may be attached to this lease."""
        return lease in self._leases

    def get(self, id: int) -> Lease:
        """One lease. Raises LeaseNotFound."""
        found = self._leases.get(id)
        if found is None:
            raise LeaseNotFound
        return found

    def keys_of(self, id: int) -> list[bytes]:
        """The keys of a lease, in order; none if there is no such lease."""
        found = self._leases.get(id)
        return sorted(found.keys) if found is not None else []

    def ids(self) -> list[int]:
        """All leases, those that run out first at the front."""
        return [lease.id for lease in sorted(self._leases.values(), key=lambda each: each.expires)]

    # -- the leader's part

    def promote(self, now: float, extend: float) -> None:
        """This member has become the leader: every lease has its full time again."""
        for lease in self._leases.values():
            lease.expires = now + lease.ttl + extend

    def expired(self, now: float) -> list[int]:
        """Leases that are due, the oldest first, no more than REVOKES_AT_ONCE."""
        due = [lease for lease in self._leases.values() if lease.expires <= now]
        due.sort(key=lambda each: each.expires)
        return [lease.id for lease in due[:REVOKES_AT_ONCE]]
