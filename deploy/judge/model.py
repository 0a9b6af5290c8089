"""What a request does: the specification that answers are held against.

The state of a store is a set of keys with their values, creation and modification revisions, versions and
leases (etcd's `mvccpb.KeyValue`). Every request is a transaction: comparisons, then one of two lists of
operations, all under one revision. A put is a transaction of one put; a lease that ends is a transaction that
deletes its keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Target = Literal["value", "version", "create", "mod"]
Relation = Literal["=", "!=", "<", ">"]


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as it stands. A field that is None is not known and is not compared."""

    key: str
    value: str
    create: int | None = None
    mod: int | None = None
    version: int | None = None
    lease: int | None = None

    def agrees(self, truth: KeyValue) -> bool:
        """Does this answer say nothing that is not so?"""
        if self.key != truth.key or self.value != truth.value:
            return False
        said = (self.create, self.mod, self.version, self.lease)
        so = (truth.create, truth.mod, truth.version, truth.lease)
        return all(a is None or b is None or a == b for a, b in zip(said, so, strict=True))


@dataclass(frozen=True, slots=True)
class Put:
    """Set a key; `lease` 0 is none."""

    key: str
    value: str
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Get:
    """Read a key, or the range [key, end), at a revision or (0) at the newest."""

    key: str
    end: str = ""
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key, or the range [key, end)."""

    key: str
    end: str = ""


@dataclass(frozen=True, slots=True)
class Revoke:
    """End a lease, and with it every key that is attached to it."""

    lease: int


Op = Put | Get | Delete | Revoke
Answer = int | tuple[KeyValue, ...] | None  # of Delete (how many), of Get, of Put and Revoke


@dataclass(frozen=True, slots=True)
class Compare:
    """One condition of a transaction. A key that does not exist has version, create and mod 0; comparing its
    value is false (etcd's applyCompare).
    """

    key: str
    target: Target
    relation: Relation
    operand: int | str

    def holds(self, found: KeyValue | None) -> bool:
        """Is it so, with the key as `found`?"""
        if found is None and self.target == "value":
            return False
        actual = 0 if found is None else getattr(found, self.target)
        if self.relation == "=":
            return bool(actual == self.operand)
        if self.relation == "!=":
            return bool(actual != self.operand)
        operand: Any = self.operand
        return bool(actual < operand if self.relation == "<" else actual > operand)


@dataclass(frozen=True, slots=True)
class Request:
    """A transaction. `serializable` reads may be answered from any past state."""

    success: tuple[Op, ...]
    compares: tuple[Compare, ...] = ()
    failure: tuple[Op, ...] = ()
    serializable: bool = False

    def operations(self) -> tuple[Op, ...]:
        """Of both branches."""
        return self.success + self.failure

    @property
    def may_write(self) -> bool:
        return any(not isinstance(op, Get) for op in self.operations())


@dataclass(frozen=True, slots=True)
class Response:
    """What a client was told. `answers` is one per operation of the branch taken."""

    revision: int
    answers: tuple[Answer, ...] = ()
    succeeded: bool = True


class View(Protocol):
    """A state, as a request sees it."""

    def lookup(self, key: str) -> KeyValue | None:
        """One key."""

    def within(self, key: str, end: str) -> list[KeyValue]:
        """The keys of a range that exist, sorted."""

    def leased(self, lease: int) -> list[KeyValue]:
        """The keys attached to a lease."""

    def past(self, revision: int) -> View:
        """The state as it was at a revision."""


Changes = Mapping[str, KeyValue | None]  # None: deleted


@dataclass(frozen=True, slots=True)
class Effect:
    """What a request must answer, and what it changes."""

    answers: tuple[Answer, ...]
    succeeded: bool
    changes: Changes


def covers(key: str, end: str, candidate: str) -> bool:
    """Is `candidate` inside etcd's range (`end` empty: the key alone; NUL: everything from it on)?"""
    if not end:
        return candidate == key
    return candidate >= key and (end == "\0" or candidate < end)


def evaluate(request: Request, view: View, revision: int) -> Effect:
    """Carry out `request` on `view`; what it changes, it changes as `revision`."""
    succeeded = all(compare.holds(view.lookup(compare.key)) for compare in request.compares)
    overlay = _Overlay(view)
    branch = request.success if succeeded else request.failure
    answers = tuple(_perform(op, overlay, revision) for op in branch)
    return Effect(answers, succeeded, overlay.changes)


def _perform(op: Op, state: _Overlay, revision: int) -> Answer:
    if isinstance(op, Get):
        view = state.view.past(op.revision) if op.revision else state
        return tuple(view.within(op.key, op.end))
    if isinstance(op, Put):
        old = state.lookup(op.key)
        create = revision if old is None else old.create
        version = 1 if old is None else None if old.version is None else old.version + 1
        state.changes[op.key] = KeyValue(op.key, op.value, create, revision, version, op.lease)
        return None
    doomed = state.leased(op.lease) if isinstance(op, Revoke) else state.within(op.key, op.end)
    state.changes.update((found.key, None) for found in doomed)
    return None if isinstance(op, Revoke) else len(doomed)


class _Overlay:
    """A state with the changes of a transaction under way: later operations see the earlier ones."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.changes: dict[str, KeyValue | None] = {}

    def lookup(self, key: str) -> KeyValue | None:
        return self.changes[key] if key in self.changes else self.view.lookup(key)

    def within(self, key: str, end: str) -> list[KeyValue]:
        if not end:
            found = self.lookup(key)
            return [] if found is None else [found]
        return self._merge(
            self.view.within(key, end),
            (new for new in self.changes.values() if new is not None and covers(key, end, new.key)),
        )

    def leased(self, lease: int) -> list[KeyValue]:
        return self._merge(
            self.view.leased(lease),
            (new for new in self.changes.values() if new is not None and new.lease == lease),
        )

    def _merge(self, old: Iterable[KeyValue], new: Iterable[KeyValue]) -> list[KeyValue]:
        kept = [one for one in old if one.key not in self.changes]
        return sorted([*kept, *new], key=lambda found: found.key)


def agrees(response: Response, effect: Effect) -> bool:
    """Does what the client was told follow from what happened?"""
    if response.succeeded != effect.succeeded or len(response.answers) != len(effect.answers):
        return False
    return all(_same(said, so) for said, so in zip(response.answers, effect.answers, strict=True))


def _same(said: Answer, so: Answer) -> bool:
    if isinstance(said, tuple) and isinstance(so, tuple):
        return len(said) == len(so) and all(a.agrees(b) for a, b in zip(said, so, strict=True))
    return said == so


def same_changes(one: Changes, other: Changes) -> bool:
    """Are these the same keys with the same values, as far as both know?"""
    if one.keys() != other.keys():
        return False
    for key, a in one.items():
        b = other[key]
        if (a is None) != (b is None) or (a is not None and b is not None and not a.agrees(b)):
            return False
    return True
