"""What the store refuses while it reads or applies. The texts are etcd's; server/errors.py maps them to
codes.
"""

from __future__ import annotations


class StoreError(Exception):
    """Base of all errors a client can be answered with. `text` is what goes over the wire."""

    text = "etcdserver: unknown error"

    def __init__(self) -> None:
        super().__init__(self.text)


class Compacted(StoreError):
    """The revision is compacted: its values may be gone."""

    text = "etcdserver: mvcc: required revision has been compacted"


class FutureRevision(StoreError):
    """The revision has not been written yet."""

    text = "etcdserver: mvcc: required revision is a future revision"


class KeyNotFound(StoreError):
    """A put that keeps the old value or lease of a key that does not exist."""

    text = "etcdserver: key not found"


class LeaseNotFound(StoreError):
    """No such lease."""

    text = "etcdserver: requested lease not found"


class LeaseExists(StoreError):
    """The wanted lease id is taken."""

    text = "etcdserver: lease already exists"


class LeaseTTLTooLarge(StoreError):
    """Lease of more than 285 years."""

    text = "etcdserver: too large lease TTL"


class NoSpace(StoreError):
    """The database is over its quota; only deletes, compaction and reads go on."""

    text = "etcdserver: mvcc: database space exceeded"


class CorruptionAlarm(StoreError):
    """A corruption alarm is raised: writes and linearizable reads are refused."""

    text = "etcdserver: corrupt cluster"


class DatabaseReplaced(Exception):
    """The database file was exchanged for another while it was read (a snapshot, a defragmentation)."""


class DatabaseDamaged(Exception):
    """The database file contradicts itself. The member must stop; the message names what is wrong."""
