"""Reading objects, and what is remembered of one's own writes. Pure, by tables."""

from __future__ import annotations

import pytest

from controllers import objects as o
from controllers.podcontrol import slow_start_batches


@pytest.mark.parametrize(
    ("value", "total", "up", "wanted"),
    [
        (3, 10, True, 3),
        ("25%", 10, True, 3),
        ("25%", 10, False, 2),
        ("0%", 7, True, 0),
        ("100%", 7, False, 7),
        (None, 5, True, 0),
    ],
)
def test_int_or_percent(value: int | str | None, total: int, up: bool, wanted: int) -> None:
    assert o.scaled_value(value, total, round_up=up) == wanted


def test_a_string_that_is_no_percentage_is_refused() -> None:
    with pytest.raises(ValueError, match="IntOrString"):
        o.scaled_value("many", 3, round_up=True)


def test_times_keep_their_fraction() -> None:
    assert o.parse_time("2026-01-01T00:00:00.500000Z") == o.parse_time("2026-01-01T00:00:00Z") + 0.5
    assert o.format_time(o.parse_time("2026-01-01T00:00:00Z")) == "2026-01-01T00:00:00Z"


def test_slow_start_doubles() -> None:
    assert list(slow_start_batches(20)) == [1, 2, 4, 8, 5]
    assert list(slow_start_batches(0)) == []
