"""Simple tokens: random words that stand for a user until they are idle for five minutes.

A token enters every member through the log (so a client may change members) and ends by each member's own
clock, which the caller brings. Members forget all of them when they restart; clients ask for a new one then.
"""

from __future__ import annotations

from typing import Final

IDLE_SECONDS: Final = 300.0  # etcd's simpleTokenTTLDefault
_SWEEP_AT: Final = 1000


class Tokens:
    """Which token is whose."""

    def __init__(self) -> None:
        self._users: dict[str, tuple[str, float]] = {}

    def assign(self, token: str, user: str, now: float) -> None:
        """A token is a user's from now on."""
        if len(self._users) >= _SWEEP_AT:
            self._users = {each: entry for each, entry in self._users.items() if entry[1] > now}
        self._users[token] = (user, now + IDLE_SECONDS)

    def user(self, token: str, now: float) -> str | None:
        """Whose token it is; using it keeps it alive. None if it is nobody's (any more)."""
        user, until = self._users.get(token, ("", 0.0))
        if until <= now:
            self._users.pop(token, None)
            return None
        self._users[token] = (user, now + IDLE_SECONDS)
        return user

    def invalidate(self, user: str | None = None) -> None:
        """End all tokens of a user, or of everybody."""
        if user is None:
            self._users.clear()
        else:
            self._users = {token: entry for token, entry in self._users.items() if entry[0] != user}
