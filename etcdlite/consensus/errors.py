"""Errors of consensus.

ConsensusError
├── NoLeader          nobody to propose to or to read from; nothing was proposed, safe to retry
├── ProposalDropped   the leader refused the proposal (transfer under way, backlog full); safe to retry
├── TooLarge          the proposal is over `max_request_bytes`
├── Stopped           the member is shutting down, has failed, or was removed from the cluster
├── DeadlineExceeded  the wait ended without an answer; a proposal may still commit
└── BadChange         a membership change that Raft must not make (unknown member, not a learner, ...)

ConfigurationError    flags that contradict each other or the data directory; raised at start
"""

from __future__ import annotations


class ConsensusError(Exception):
    """Anything that consensus answers to a caller."""


class NoLeader(ConsensusError):
    """There is no leader now. Nothing was proposed."""


class ProposalDropped(ConsensusError):
    """The proposal did not enter the log."""


class TooLarge(ConsensusError):
    """The proposal is larger than a request may be."""


class Stopped(ConsensusError):
    """The member does not run any more."""


class DeadlineExceeded(ConsensusError):
    """No answer in time. The outcome of a proposal is unknown."""


class BadChange(ConsensusError):
    """The membership change is refused; the message says why."""


class ConfigurationError(Exception):
    """The member cannot start with these flags on this data directory."""
