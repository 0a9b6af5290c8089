"""The one shape of a fault: applied once, undone once, whatever happens in between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType


class FaultError(Exception):
    """A fault could not be applied or undone; says which command refused, and why."""


class Fault:
    """Something done to a running system that can be undone.

    `apply` and `undo` may be called in any number; the second call of either does nothing. When applying
    fails half-way, what was done is undone before the error is passed on. As a context manager the fault is
    in force inside the block.
    """

    def __init__(self, name: str, apply: Callable[[], None], undo: Callable[[], None]) -> None:
        self.name = name
        self._apply = apply
        self._undo = undo
        self._applied = False

    def apply(self) -> None:
        """Put the fault in force. Raises FaultError, OSError."""
        if self._applied:
            return
        self._applied = True
        try:
            self._apply()
        except BaseException:
            with contextlib.suppress(FaultError, OSError):  # why it could not be applied says more
                self.undo()
            raise

    def undo(self) -> None:
        """Take the fault away. What it acted on may be gone meanwhile: then there is nothing to undo."""
        if self._applied:
            self._undo()
            self._applied = False

    def adopt(self) -> None:
        """Take over what another process, by the same call, put in force: `undo` undoes it from here."""
        self._applied = True

    @property
    def applied(self) -> bool:
        """Is the fault in force?"""
        return self._applied

    def __enter__(self) -> Fault:
        self.apply()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"<Fault {self.name}>"
