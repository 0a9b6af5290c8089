"""What clients did and saw. Times are seconds of one monotonic clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.judge.model import Compare, Delete, Get, KeyValue, Op, Put, Request, Response, Revoke


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request of one client.

    `response` None and `returned` None: its outcome is unknown; it may have taken effect at any time after
    `invoked`, or never. `refused` names the error of a request that certainly had no effect.
    """

    client: str
    request: Request
    invoked: float
    returned: float | None = None
    response: Response | None = None
    refused: str = ""

    @property
    def unknown(self) -> bool:
        return self.response is None and not self.refused


@dataclass(frozen=True, slots=True)
class Event:
    """A change of one key at a revision. `value` None: deleted. `previous` is what the watch said was there
    before (None: it said nothing).
    """

    revision: int
    key: str
    value: KeyValue | None
    previous: KeyValue | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One response of a watch stream. Without events it is a bookmark: all up to `revision` has been sent."""

    at: float
    revision: int
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One watcher of [key, end) from `start` on, over one or several streams, each resumed where the last
    ended. `complete` is a revision that it must have reached, if it was waited for.
    """

    name: str
    key: str
    end: str
    start: int
    batches: tuple[Batch, ...] = ()
    previous: bool = False  # the watch was asked for previous values
    complete: int = 0


@dataclass(frozen=True, slots=True)
class Renewal:
    """A grant or a keep-alive that was answered with `ttl` seconds."""

    invoked: float
    returned: float
    ttl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One lease. `revoking` is when somebody first asked for its end (None: nobody did)."""

    id: int
    renewals: tuple[Renewal, ...]
    revoking: float | None = None


@dataclass(slots=True)
class History:
    """A run. `log` is every change after revision `base`, whose state is `initial`: where it comes from does
    not matter, since a history is accepted only if everything that was said to anyone agrees with it.

    `whole`: nobody else wrote to the store, so every revision must be somebody's. Otherwise revisions may be
    missing, but `log` has all changes of the keys that the calls name.
    """

    calls: list[Call] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    log: list[Event] = field(default_factory=list)
    initial: tuple[KeyValue, ...] = ()
    base: int = 0
    final: int = 0
    whole: bool = True


def put(key: str, value: str, lease: int = 0) -> Request:
    """A single put."""
    return Request((Put(key, value, lease),))


def get(key: str, end: str = "", *, revision: int = 0, serializable: bool = False) -> Request:
    """A single range."""
    return Request((Get(key, end, revision),), serializable=serializable)


def delete(key: str, end: str = "") -> Request:
    """A single delete."""
    return Request((Delete(key, end),))


# -- JSON ----------------------------------------------------------------------------------------------------

_OPS: Mapping[str, type[Op]] = {"put": Put, "get": Get, "delete": Delete, "revoke": Revoke}


def to_json(history: History) -> dict[str, Any]:
    """A document that `from_json` reads back."""
    document = dataclasses.asdict(history)
    for call, entry in zip(history.calls, document["calls"], strict=True):
        for branch in ("success", "failure"):
            ops: Sequence[Op] = getattr(call.request, branch)
            for op, written in zip(ops, entry["request"][branch], strict=True):
                written["op"] = type(op).__name__.lower()
    return document


def from_json(document: Mapping[str, Any]) -> History:
    """The history that `to_json` described. Raises KeyError, TypeError on anything else."""
    return History(
        calls=[_call(entry) for entry in document["calls"]],
        watches=[_watch(entry) for entry in document["watches"]],
        leases=[_lease(entry) for entry in document["leases"]],
        log=[_event(entry) for entry in document["log"]],
        initial=_values(document["initial"]),
        base=document["base"],
        final=document["final"],
        whole=document["whole"],
    )


def _value(entry: Mapping[str, Any] | None) -> KeyValue | None:
    return None if entry is None else KeyValue(**entry)


def _values(entries: Iterable[Mapping[str, Any]]) -> tuple[KeyValue, ...]:
    return tuple(KeyValue(**entry) for entry in entries)


def _event(entry: Mapping[str, Any]) -> Event:
    return Event(entry["revision"], entry["key"], _value(entry["value"]), _value(entry["previous"]))


def _watch(entry: Mapping[str, Any]) -> Watch:
    batches = tuple(
        Batch(batch["at"], batch["revision"], tuple(_event(event) for event in batch["events"]))
        for batch in entry["batches"]
    )
    return Watch(**{**entry, "batches": batches})


def _lease(entry: Mapping[str, Any]) -> Lease:
    return Lease(**{**entry, "renewals": tuple(Renewal(**one) for one in entry["renewals"])})


def _op(entry: Mapping[str, Any]) -> Op:
    fields = dict(entry)
    return _OPS[fields.pop("op")](**fields)


def _call(entry: Mapping[str, Any]) -> Call:
    request = entry["request"]
    response = entry["response"]
    return Call(
        **{
            **entry,
            "request": Request(
                tuple(_op(op) for op in request["success"]),
                tuple(Compare(**compare) for compare in request["compares"]),
                tuple(_op(op) for op in request["failure"]),
                request["serializable"],
            ),
            "response": None if response is None else _response(response),
        }
    )


def _response(entry: Mapping[str, Any]) -> Response:
    answers = tuple(
        _values(answer) if isinstance(answer, list | tuple) else answer for answer in entry["answers"]
    )
    return Response(entry["revision"], answers, entry["succeeded"])
