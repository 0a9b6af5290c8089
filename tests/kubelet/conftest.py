"""The stage of whole-agent tests: the kubelet looks often, and leaves the machine's cgroups alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kubelet import agent, cgroups
from tests.kubelet.world import World


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(cgroups, "sweep", lambda *_: None)
    monkeypatch.setattr(cgroups, "apply", lambda *_: None)
    monkeypatch.setattr(agent, "RELIST", 0.02)
    monkeypatch.setattr(agent, "HOUSEKEEPING", 0.02)
    monkeypatch.setattr(agent, "MANIFESTS", 0.02)

    def run(scenario: Callable[[World], Awaitable[None]]) -> None:
        asyncio.run(World(tmp_path).play(scenario))

    return run
