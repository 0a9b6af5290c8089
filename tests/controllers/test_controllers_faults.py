"""Every controller, disturbed: at each of its writes the manager is killed, the connection cut, the write
refused or answered too late; its events come late or twice. The end must be that of the undisturbed run.

Every fourth write is disturbed, each time by another fault; HARDWAY_LONG=1 tries every fault at every write.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest

from controllers.registry import CONTROLLERS
from controllers.runtime import Runnable
from tests.controllers.faults import cluster, devices, nodes, storage, workloads
from tests.controllers.faults.stage import Build
from tests.controllers.faults.story import Story, tell
from tests.controllers.faults.wire import AT_A_WRITE, EVENTS, Fault

STORIES: dict[str, Story] = {
    **workloads.STORIES,
    **cluster.STORIES,
    **nodes.STORIES,
    **storage.STORIES,
    **devices.STORIES,
}
LONG = bool(os.environ.get("HARDWAY_LONG"))
STRIDE = 4


def faults(writes: int) -> Iterator[Fault]:
    """Which disturbances a story of so many writes is told with."""
    for events in EVENTS:
        yield Fault(events=events)
    if LONG:
        for number in range(1, writes + 1):
            yield from (Fault(kind, number) for kind in AT_A_WRITE)
        return
    kinds = max(len(AT_A_WRITE), (writes + STRIDE - 1) // STRIDE)
    for turn in range(kinds):
        yield Fault(AT_A_WRITE[turn % len(AT_A_WRITE)], 1 + turn * writes // kinds)


def made(writes: list[str]) -> Counter[str]:
    """How many objects were created, by collection; questions (reviews) may be asked again."""
    return Counter(each for each in writes if each.startswith("POST") and not each.endswith("reviews"))


def told_by(build: Build) -> type[Runnable]:
    found = build if isinstance(build, type) else get_type_hints(build)["return"]
    assert isinstance(found, type)
    return found


def test_every_controller_has_its_story() -> None:
    told = {told_by(build) for story in STORIES.values() for build in story.builders}
    assert {entry.controller for entry in CONTROLLERS} <= told


@pytest.mark.timeout(3600 if LONG else 120)
@pytest.mark.parametrize("name", list(STORIES))
def test_whatever_goes_wrong_the_end_is_the_same(name: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        calm = await tell(STORIES[name], tmp_path)
        assert calm.writes and bool(calm.outcome) is not STORIES[name].leaves_nothing
        for fault in faults(len(calm.writes)):
            told = await tell(STORIES[name], tmp_path, fault)
            assert told.outcome == calm.outcome, f"{fault}: {told.writes}"
            if fault.events != "plain":
                assert made(told.writes) == made(calm.writes), f"{fault}: something was made twice"

    asyncio.run(scenario())
