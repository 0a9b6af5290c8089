"""One resource's state and recent history, as encoded bytes. Pure: time, tasks and the store are elsewhere.

Entries are ordered by key relative to the resource (`<namespace>/<name>`, or `<name>` for cluster scope),
the order of the store itself. The log is a window on the recent events; a watcher is a position in it.
Invariants:

- `floor` is the oldest revision a watch may start from: every event of this resource with a larger revision
  is in the log.
- An event's frame (the bytes of one watch event) is encoded once, whoever asks first, and shared by all
  watchers.
- Entries are immutable; an update replaces the entry.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson
from sortedcontainers import SortedDict

Object = dict[str, Any]

LOG_CAPACITY = 4096
NOTHING: Mapping[str, str] = {}


class Entry(NamedTuple):
    """One object: its bytes as the API hands them out, and what selectors ask about."""

    key: str
    namespace: str
    name: str
    revision: int
    data: bytes
    labels: Mapping[str, str]
    fields: Mapping[str, str]

    def decoded(self) -> Object:
        """A fresh copy the caller owns."""
        obj: Object = orjson.loads(self.data)
        return obj


Filter = Callable[[Entry], bool]


def json_line(kind: str, data: bytes) -> bytes:
    """One watch line: `{"type":...,"object":...}` and a newline."""
    return b'{"type":"' + kind.encode() + b'","object":' + data + b"}\n"


class Renderer(NamedTuple):
    """A form events are sent in: `name` identifies it for sharing; `render` None means the object's own
    bytes; `frame` puts an event's type around them.
    """

    name: str
    render: Callable[[Object], Any] | None
    frame: Callable[[str, bytes], bytes] = json_line


PLAIN = Renderer("", None)


class Event:
    """A change of one key: `entry` is the state after it (None: deleted), `previous` the one before (None:
    created).
    """

    __slots__ = ("_frames", "entry", "previous", "revision")

    def __init__(self, revision: int, entry: Entry | None, previous: Entry | None) -> None:
        self.revision = revision
        self.entry = entry
        self.previous = previous
        self._frames: dict[tuple[str, str], bytes] = {}

    def type_for(self, accepts: Filter | None) -> str:
        """ADDED, MODIFIED or DELETED as a watcher with this filter sees it; "" when it does not.

        An object that starts (stops) matching a selector appears to that watcher as added (deleted).
        """
        now = self.entry is not None and (accepts is None or accepts(self.entry))
        before = self.previous is not None and (accepts is None or accepts(self.previous))
        if now:
            return "MODIFIED" if before else "ADDED"
        return "DELETED" if before else ""

    def frame(self, kind: str, renderer: Renderer = PLAIN) -> bytes:
        """What a watch sends for this event as `kind`."""
        key = (kind, renderer.name)
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = encode_frame(kind, self._data(kind), renderer)
        return frame

    def _data(self, kind: str) -> bytes:
        if kind != "DELETED":
            assert self.entry is not None
            return self.entry.data
        assert self.previous is not None
        last = self.previous.decoded()
        last["metadata"]["resourceVersion"] = str(self.revision)
        return orjson.dumps(last)


def encode_frame(kind: str, data: bytes, renderer: Renderer = PLAIN) -> bytes:
    """One event as a watch sends it."""
    if renderer.render is not None:
        data = orjson.dumps(renderer.render(orjson.loads(data)))
    return renderer.frame(kind, data)


class ResourceCache:
    """The state of one resource and the window of its recent events."""

    def __init__(self, capacity: int = LOG_CAPACITY) -> None:
        self.entries: SortedDict = SortedDict()
        self.floor = 0
        self.latest = 0  # revision of the newest change; the state is the same at every later one
        self.generation = 0  # counts resets; a watcher of an older generation must start over
        self.changes = 0  # counts events ever applied; indexes built on the entries compare it
        self._capacity = capacity
        self._log: list[Event] = []
        self._offset = 0
        self._waiting: set[Callable[[], None]] = set()
        self.feeder: Any = None  # storage/feeder.py, of a kind whose objects are converted

    def reset(self, entries: Mapping[str, Entry], revision: int) -> None:
        """Replace everything with a fresh list read at `revision`."""
        self.entries = SortedDict(entries)
        self.floor = self.latest = revision
        self.generation += 1
        self.changes += 1
        self._offset += len(self._log)
        self._log = []
        self._wake()

    def apply(self, key: str, revision: int, entry: Entry | None) -> Event | None:
        """Record that `key` became `entry` at `revision`; None when a deletion hits nothing."""
        previous: Entry | None = self.entries.get(key)
        if entry is None:
            if previous is None:
                return None
            del self.entries[key]
        else:
            self.entries[key] = entry
        event = Event(revision, entry, previous)
        self._log.append(event)
        self.latest = revision
        self.changes += 1
        if len(self._log) > 2 * self._capacity:
            drop = len(self._log) - self._capacity
            self.floor = self._log[drop - 1].revision
            del self._log[:drop]
            self._offset += drop
        self._wake()
        return event

    @property
    def end(self) -> int:
        """The position after the newest event."""
        return self._offset + len(self._log)

    def position_after(self, revision: int) -> int:
        """The position of the first event newer than `revision`, which must not be below `floor`."""
        return self._offset + bisect_right(self._log, revision, key=lambda event: event.revision)

    def since(self, position: int) -> list[Event] | None:
        """Events from `position` on; None when some have left the window: the watcher is too slow."""
        if position < self._offset:
            return None
        return self._log[position - self._offset :]

    def get(self, key: str) -> Entry | None:
        entry: Entry | None = self.entries.get(key)
        return entry

    def scan(self, prefix: str = "", start: str = "") -> Iterator[Entry]:
        """Entries below `prefix`, from key `start` on, in order."""
        entries = self.entries
        if not prefix and not start:
            yield from entries.values()
            return
        stop = prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else None
        for key in entries.irange(start or prefix, stop, inclusive=(True, False)):
            yield entries[key]

    def on_change(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` at every change until the returned function is called."""
        self._waiting.add(wake)
        return lambda: self._waiting.discard(wake)

    def _wake(self) -> None:
        for wake in self._waiting:
            wake()
