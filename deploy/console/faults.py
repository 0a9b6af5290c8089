"""The faults that the page offers: the catalogue of `hardway chaos`: a button does what a command does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Data = dict[str, Any]


class Refused(Exception):
    """The fault cannot be worked; the text says why and is shown to the reader."""


class Breaker(Protocol):
    """What can be broken, what is broken now, and how to mend it. Calls block; the caller brings a thread."""

    def kinds(self) -> Sequence[Data]:
        """Each fault with its targets: {"name", "about", "lasting", "targets": [...],
        "settings": [{"name", "default", "help", "choices"}]}."""

    def active(self) -> Sequence[Data]:
        """Each fault that works now: {"id", "fault", "target", "until": seconds since the epoch | None}."""

    def inject(self, fault: str, target: str, seconds: float, settings: Mapping[str, str]) -> None:
        """Break it. Raises Refused."""

    def undo(self, identifier: str) -> None:
        """Mend it before its time. Raises Refused."""
