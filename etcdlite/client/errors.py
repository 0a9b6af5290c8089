"""What can go wrong between a client and the store, as types.

EtcdError
├── Unavailable          no member answered in time; the request was certainly not carried out
├── OutcomeUnknown       a write was sent and its answer lost: it may or may not be in the store
├── WatchBroken          the stream of a watch ended; resume from the revision after the last one seen
└── RequestFailed        the store refused: .code and .text are its own
    ├── Compacted        the revision asked for is compacted
    ├── FutureRevision   the revision asked for does not exist yet
    └── LeaseNotFound    the lease is unknown or expired
"""

from __future__ import annotations

from componentbase.grpcwire.status import Code


class EtcdError(Exception):
    """Base of everything the client raises on its own."""


class Unavailable(EtcdError):
    """No member could be asked before the deadline; nothing was changed."""


class OutcomeUnknown(EtcdError):
    """A write left this process and no answer came back: read before you repeat it."""


class WatchBroken(EtcdError):
    """The watch's stream ended for a reason other than the caller's; no event was skipped before that."""


class RequestFailed(EtcdError):
    """The store answered with an error."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(f"{text} ({code.name})")
        self.code = code
        self.text = text


class Compacted(RequestFailed):
    """The wanted revision is compacted."""


class FutureRevision(RequestFailed):
    """The wanted revision is higher than the store's."""


class LeaseNotFound(RequestFailed):
    """There is no such lease (any more)."""


_BY_TEXT: dict[str, type[RequestFailed]] = {
    "etcdserver: mvcc: required revision has been compacted": Compacted,
    "etcdserver: mvcc: required revision is a future revision": FutureRevision,
    "etcdserver: requested lease not found": LeaseNotFound,
}

# The member refused before anything was proposed: asking another member (or again) is safe even for a write.
NOT_STARTED = frozenset(
    {
        "etcdserver: no leader",
        "etcdserver: not leader",
        "etcdserver: too many requests",
        "etcdserver: unhealthy cluster",
        "etcdserver: rpc not supported for learner",
    }
)


def refused(code: Code, text: str) -> RequestFailed:
    """The typed error for an answer of the store."""
    return _BY_TEXT.get(text, RequestFailed)(code, text)
