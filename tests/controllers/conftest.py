"""Cached objects are never changed: the detector is on in every test here."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from tests.controllers.world import World


@pytest.fixture(autouse=True)
def _detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDWAY_CACHE_MUTATION_DETECTOR", "1")


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run one asynchronous test within a minute."""
    asyncio.run(asyncio.wait_for(work, 60))


__all__ = ["World", "run"]
