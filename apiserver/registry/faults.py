"""The one map from what the store raises to what the API answers."""

from __future__ import annotations

from apimachinery import errors
from apimachinery.errors import StatusError
from apimachinery.scheme import Kind
from apiserver.storage.interface import (
    Compacted,
    FutureRevision,
    KeyExists,
    RevisionMismatch,
    StorageError,
    Unavailable,
    Undecodable,
    WriteOutcomeUnknown,
)

MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def as_status(error: StorageError, kind: Kind | None = None, name: str = "") -> StatusError:
    """A status for every leaf of StorageError; what has no better one is a 500 that says what happened."""
    group, resource = (kind.group, kind.resource) if kind else ("", "")
    if isinstance(error, KeyExists):
        return errors.already_exists(group, resource, name)
    if isinstance(error, RevisionMismatch):
        if error.current is None:
            return errors.not_found(group, resource, name)
        return errors.conflict(group, resource, name, MODIFIED)
    if isinstance(error, Compacted):
        return errors.gone("The resourceVersion for the provided list is too old.")
    if isinstance(error, FutureRevision):
        return too_large_version(0, 0)
    if isinstance(error, WriteOutcomeUnknown):
        return errors.timeout(f"the write was sent but its outcome is unknown: {error}")
    if isinstance(error, Unavailable):
        return errors.service_unavailable(f"the store is unavailable: {error}")
    if isinstance(error, Undecodable):
        return errors.internal_error(str(error))
    return errors.internal_error(f"storage: {error}")


def too_large_version(wanted: int, current: int) -> StatusError:
    """The cache has not reached the asked-for version within the time a read may wait (a retriable 504)."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return errors.status(
        504,
        "Timeout",
        f"Too large resource version: {wanted}, current: {current}",
        details={"causes": [cause]},
        retry_after=1,
    )
