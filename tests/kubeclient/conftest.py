"""Every test of this room runs with the cache mutation detector on."""

from __future__ import annotations

import pytest

from kubeclient.store import DETECTOR_VARIABLE


@pytest.fixture(autouse=True)
def _detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DETECTOR_VARIABLE, "1")
