"""What is compacted when, on a clock that the test turns."""

from __future__ import annotations

import pytest

from etcdlite.consensus.errors import ConfigurationError
from etcdlite.server.autocompact import HOUR, Periodic, Policy, Revisions, parse


def play(policy: Policy, seconds: float) -> list[tuple[float, int]]:
    """One revision a second; what was asked for, and when."""
    asked: list[tuple[float, int]] = []
    now = 0.0
    while now <= seconds:
        target = policy.look(now, int(now) + 1)
        if target:
            asked.append((now, target))
        now += policy.interval
    return asked


def test_a_short_retention_is_compacted_once_per_retention() -> None:
    assert play(Periodic(600), 1900) == [(600, 1), (1200, 601), (1800, 1201)]


def test_a_long_retention_is_compacted_every_hour_once_it_has_passed() -> None:
    asked = play(Periodic(3 * HOUR), 5.5 * HOUR)
    assert asked == [(3 * HOUR, 1), (4 * HOUR, HOUR + 1), (5 * HOUR, 2 * HOUR + 1)]


def test_nothing_new_is_not_compacted_again() -> None:
    policy = Periodic(600)
    assert [found for now in range(0, 1900, 60) if (found := policy.look(now, 7))] == [7]


def test_revisions_are_kept_by_number() -> None:
    policy = Revisions(1000)
    assert [policy.look(0, revision) for revision in (10, 1000, 1001, 1001, 5000)] == [0, 0, 1, 0, 4000]


@pytest.mark.parametrize(
    ("mode", "retention", "kind"),
    [
        ("periodic", "0", None),
        ("periodic", "1", Periodic(HOUR)),
        ("periodic", "5m", Periodic(300)),
        ("revision", "0", None),
        ("revision", "500", Revisions(500)),
    ],
)
def test_flags(mode: str, retention: str, kind: Policy | None) -> None:
    policy = parse(mode, retention)
    if policy is None or kind is None:
        assert policy is kind
    else:
        assert vars(policy).keys() == vars(kind).keys() and policy.interval == kind.interval


@pytest.mark.parametrize(("mode", "retention"), [("revision", "5m"), ("periodic", "x"), ("revision", "-1")])
def test_bad_flags_are_refused(mode: str, retention: str) -> None:
    with pytest.raises(ConfigurationError, match="auto-compaction-retention"):
        parse(mode, retention)
