"""Cached objects are never changed: the detector is on in every test here."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDWAY_CACHE_MUTATION_DETECTOR", "1")
