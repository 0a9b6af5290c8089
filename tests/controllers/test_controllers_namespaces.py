"""When the content of a namespace that goes is looked at again."""

from __future__ import annotations

import pytest

from controllers.namespace import Found, next_look


@pytest.mark.parametrize(
    ("waited", "grace", "delay"),
    [
        (0, 30, 1),  # most pods go at once
        (8, 30, 2),
        (60, 30, 15),
        (1000, 30, 15),
        (3, 1, 1),
        (0, 0, 1),  # held by a finalizer: nothing says for how long
        (1000, 0, 2.5),
    ],
)
def test_the_next_look(waited: float, grace: float, delay: float) -> None:
    assert next_look(100.0, Found(grace=grace), 100.0 + waited) == delay
