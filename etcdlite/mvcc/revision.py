"""Revisions: (main, sub) packed into one integer.

The main revision counts write transactions, the sub revision the changes inside one. Packed, revisions
compare as the pair does, hash fast, cost one object, and their big-endian bytes are their key in the
database.
"""

from __future__ import annotations

from typing import Final, NewType

Revision = NewType("Revision", int)

SUB_BITS: Final = 32
_SUB_MASK: Final = (1 << SUB_BITS) - 1
KEY_BYTES: Final = 12


def revision(main: int, sub: int = 0) -> Revision:
    """Pack a pair."""
    return Revision(main << SUB_BITS | sub)


def last_of(main: int) -> Revision:
    """The highest revision with this main part: reads "at revision N" see changes up to here."""
    return Revision(main << SUB_BITS | _SUB_MASK)


def main_of(packed: int) -> int:
    """The transaction's number, which is what clients call revision."""
    return packed >> SUB_BITS


def to_key(packed: int) -> bytes:
    """The database key."""
    return packed.to_bytes(KEY_BYTES, "big")


def from_key(key: bytes) -> Revision:
    """The revision of a database key (which may carry a tombstone mark after it)."""
    return Revision(int.from_bytes(key[:KEY_BYTES], "big"))
