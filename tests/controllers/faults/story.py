"""A story: somebody changes the desired state, controllers bring it about. Told undisturbed and disturbed, it
must end the same.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from apimachinery import errors
from controllers.options import Options
from kubeclient.http1.message import Answer, Request
from tests.controllers.faults.stage import Admin, Build, Stage, stage
from tests.controllers.faults.wire import Fault

ROUNDS = 120  # looks at the world before a phase is given up
PREFIX = "/registry/"
CALM = Fault()


@dataclass(frozen=True)
class Phase:
    """Somebody changes something; then it is `reached`."""

    change: Callable[[Admin], Awaitable[Any]]
    reached: Callable[[Admin], Awaitable[Any]]


async def kubelets(on: Stage) -> None:
    await on.kubelets()


@dataclass(frozen=True)
class Story:
    """`play` is the rest of the cluster, `step` the seconds that pass between two looks. `answers` are what
    other API servers say, by the beginning of the path. `leaves_nothing`: all it made is gone at its
    end.
    """

    builders: Sequence[Build]
    phases: Sequence[Phase]
    play: Callable[[Stage], Awaitable[None]] = kubelets
    options: Callable[[Path], Options] = lambda _: Options()
    step: float = 0.5
    answers: Mapping[str, Callable[[Request], Answer]] = field(default_factory=dict)
    leaves_nothing: bool = False


@dataclass(frozen=True)
class Told:
    """How it ended: the store's content as a user could tell it apart, and what the managers wrote."""

    outcome: list[str]
    writes: list[str]


async def tell(story: Story, files: Path, fault: Fault = CALM) -> Told:
    """Every phase in turn; a manager that was killed has an undisturbed successor. `files` is where its keys
    are. Fails when a phase is not reached.
    """
    options = story.options(files)
    async with stage() as on:
        on.answers = dict(story.answers)
        before = {entry.key for entry in (await on.store.list(PREFIX)).items}
        writes: list[str] = []
        for number, phase in enumerate(story.phases):
            await _insist(partial(phase.change, on.admin))
            if not await _reach(story, options, phase, on, fault, writes):
                raise AssertionError(f"phase {number} is not reached with {fault}; last: {writes[-12:]}")
        return Told(await outcome(on, before), writes)


async def _insist(change: Callable[[], Awaitable[Any]]) -> None:
    """A user whose edit meets a conflict tries again."""
    for attempt in range(5):
        try:
            await change()
            return
        except errors.StatusError as error:
            if not errors.is_conflict(error) or attempt == 4:
                raise


async def _reach(
    story: Story, options: Options, phase: Phase, on: Stage, fault: Fault, writes: list[str]
) -> bool:
    """Managers, each until it has died or the phase is reached; the fault strikes once in a story."""
    for _ in range(3):
        left = fault.number - len(writes)
        now = Fault(fault.kind, left, fault.events) if fault.number else fault
        async with on.running(story.builders, options, now) as manager:
            reached = False
            for _ in range(ROUNDS):
                await on.settle()
                await story.play(on)
                await on.settle()
                reached = not manager.dead and bool(await phase.reached(on.admin))
                if manager.dead or reached:
                    break
                on.clock.advance(story.step)
            if reached:
                await _afterwards(story, on)
                reached = not manager.dead
            writes += manager.writes
            if reached and await phase.reached(on.admin):
                return True
    return False


async def _afterwards(story: Story, on: Stage) -> None:
    """What was reached must last: whatever is still on its way arrives."""
    for _ in range(4):
        on.clock.advance(1.0)
        await on.settle()
        await story.play(on)
        await on.settle()


# -- the end state -------------------------------------------------------------------------------------------

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SUFFIX = re.compile(r"-[bcdfghjklmnpqrstvwxz2456789]{5}\b")
_ADDRESS = re.compile(r"10\.(32|200)\.\d+\.\d+")
_MINUTE = re.compile(r"-\d{8}\b")  # of a CronJob's run, in its name
_TOKEN = re.compile(r"(ZXlK|LS0tLS1CRUdJTi)[A-Za-z0-9+/=_-]+")  # a JWT, a PEM block; in base64
_LEFT_OUT = {"resourceVersion", "managedFields", "generation", "observedGeneration", "message", "reason"}
_LEFT_OUT |= {"lastScaleTime"}  # known to nobody when the one who scaled dies
_IGNORED = ("events/", "masterleases/", "leases/", "ranges/", "apiregistration")


async def outcome(on: Stage, before: set[str]) -> list[str]:
    """Everything in the store that the server did not start with; names, times, UIDs and addresses that
    nobody chose are blotted out.
    """
    out = []
    for entry in (await on.store.list(PREFIX)).items:
        key = entry.key.removeprefix(PREFIX)
        if entry.key in before or key.startswith(_IGNORED):
            continue
        text = orjson.dumps(_plain(orjson.loads(entry.value)), option=orjson.OPT_SORT_KEYS).decode()
        for pattern in (_TIME, _UID, _ADDRESS, _TOKEN, _MINUTE, _SUFFIX):
            text = pattern.sub("*", text)
        out.append(text)
    return sorted(out)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items() if name not in _LEFT_OUT}
    if isinstance(value, list):
        parts = [_plain(part) for part in value]
        return sorted(parts, key=lambda part: _ADDRESS.sub("*", _SUFFIX.sub("*", repr(part))))
    return value
