"""What etcd promises a watcher (its "Watch APIs" page): events ordered by revision, each once, those of one
revision in one response, none left out, resumable from any revision, and bookmarks that tell the truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deploy.judge.history import Batch, Event, History, Watch
from deploy.judge.model import KeyValue
from deploy.judge.replay import Replay
from deploy.judge.violation import Violation, say_value

Change = tuple[int, str, KeyValue | None]


def check(history: History, replay: Replay) -> list[Violation]:
    """Judge every watch of `history` against its log; of each watch, the first thing that is wrong."""
    found = (_check_one(watch, replay) for watch in history.watches)
    return [violation for violation in found if violation is not None]


def _check_one(watch: Watch, replay: Replay) -> Violation | None:
    reached = watch.start - 1  # every revision up to here has been handed over
    for batch in watch.batches:
        violation = _check_batch(watch, batch, reached, replay)
        if violation is not None:
            return violation
        reached = max(reached, batch.events[-1].revision if batch.events else batch.revision)
    if watch.complete > reached:
        missed = replay.events(watch.key, watch.end, reached, watch.complete)
        if missed:
            return _violation(
                watch, "reliable", f"never showed {_say(missed[:1])}, the first of {len(missed)}"
            )
    return None


def _check_batch(watch: Watch, batch: Batch, reached: int, replay: Replay) -> Violation | None:
    revisions = [event.revision for event in batch.events]
    if revisions != sorted(revisions):
        return _violation(watch, "ordered", f"a response with revisions {revisions}")
    if revisions and revisions[0] <= reached:
        return _repeated(watch, batch.events[0], reached)
    until = revisions[-1] if revisions else batch.revision
    if revisions and batch.revision < until:
        return _violation(watch, "bookmarks", f"header {batch.revision} under event {until}")
    expected = replay.events(watch.key, watch.end, reached, until)
    shown: list[Change] = [(event.revision, event.key, event.value) for event in batch.events]
    problem = _compare(watch, sorted(shown, key=lambda change: change[:2]), expected, bool(batch.events))
    return problem or _check_previous(watch, batch.events, replay)


def _repeated(watch: Watch, event: Event, reached: int) -> Violation:
    name = f"{event.key} at {event.revision}"
    if event.revision < watch.start:
        return _violation(watch, "resumable", f"asked from {watch.start} on, was shown {name}")
    shown = [one for batch in watch.batches for one in batch.events if one.revision == event.revision]
    if sum(one.key == event.key for one in shown) > 1:
        return _violation(watch, "unique", f"showed {name} twice")
    if len(shown) > 1:
        return _violation(watch, "atomic", f"revision {event.revision} came in two responses")
    if any(not batch.events and batch.revision >= event.revision for batch in watch.batches):
        return _violation(watch, "bookmarks", f"showed {name} after saying that all up to {reached} was sent")
    return _violation(watch, "ordered", f"showed {name} after {reached}")


def _compare(
    watch: Watch, shown: Sequence[Change], expected: Sequence[Change], events: bool
) -> Violation | None:
    shown_keys = [change[:2] for change in shown]
    expected_keys = [change[:2] for change in expected]
    if len(set(shown_keys)) < len(shown_keys):
        return _violation(watch, "unique", f"one response shows {_say(shown)}")
    missing = [change for change in expected if change[:2] not in set(shown_keys)]
    if missing and events and missing[0][0] == shown[-1][0]:
        return _violation(watch, "atomic", f"showed {_say(shown[-1:])} without {_say(missing[:1])}")
    if missing:
        after = f"before {_say(shown[-1:])}" if events else "before a bookmark past it"
        return _violation(watch, "reliable", f"left out {_say(missing[:1])}, {after}")
    extra = [change for change in shown if change[:2] not in set(expected_keys)]
    if extra:
        return _violation(watch, "true", f"showed {_say(extra[:1])}, which never was")
    for said, so in zip(shown, expected, strict=True):
        if (said[2] is None) != (so[2] is None) or (said[2] and so[2] and not said[2].agrees(so[2])):
            return _violation(watch, "true", f"showed {_say([said])}, which was {_say([so])}")
    return None


def _check_previous(watch: Watch, events: Iterable[Event], replay: Replay) -> Violation | None:
    for event in events if watch.previous else ():
        so = replay.value(event.key, event.revision - 1)
        said = event.previous
        if (said is None) != (so is None) or (said and so and not said.agrees(so)):
            name = f"{event.key} at {event.revision}"
            return _violation(
                watch, "true", f"previous value of {name}: {say_value(said)}, which was {say_value(so)}"
            )
    return None


def _say(changes: Sequence[Change]) -> str:
    said = (
        f"{key} deleted at {revision}" if value is None else f"{say_value(value)} at {revision}"
        for revision, key, value in changes
    )
    return ", ".join(said)


def _violation(watch: Watch, rule: str, what: str) -> Violation:
    return Violation(f"watch: {rule}", f"{watch.name} (from {watch.start} on) {what}")
