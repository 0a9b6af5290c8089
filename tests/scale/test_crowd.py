"""A control plane with many hollow nodes, in small: the story that `python -m bench hollow` tells of 1,000.

Every step of it raises what it did not see happen in its patience; a zone that stops takes its nodes with it
and no others.
"""

from __future__ import annotations

from typing import Any

import pytest
import uvloop

from bench import hollow, plane

pytestmark = [pytest.mark.serial, pytest.mark.timeout(600)]


class Dead:
    """A plane of which one daemon has ended, with these last words."""

    def __init__(self, name: str, words: str) -> None:
        self._name, self._words = name, words
        self.revived: list[str] = []

    def died(self) -> list[str]:
        return [self._name]

    def last_words(self, name: str) -> str:
        return self._words

    def revive(self, names: list[str]) -> None:
        self.revived += names


@pytest.mark.parametrize(
    ("name", "words", "comes_back"),
    [
        ("scheduler", "ERROR componentbase.tasks LeaseLost: kube-scheduler", True),
        ("scheduler", "ERROR componentbase.tasks KeyError: 'spec'", False),
        ("etcdlite-0", "ERROR componentbase.tasks LeaseLost: nonsense", False),
    ],
)
def test_only_a_leader_without_lease_is_started_again(name: str, words: str, comes_back: bool) -> None:
    plane: Any = Dead(name, words)
    nobody: Any = None
    cast = hollow.Crowd(plane, hollow.Scale(), nobody, nobody, nobody)
    if comes_back:
        cast.revive_leaders("rolled")
    else:
        with pytest.raises(hollow.Ended, match=f"rolled: {name} ended"):
            cast.revive_leaders("rolled")
    assert plane.revived == [name] * comes_back


def test_nodes_pods_an_update_a_drain_and_a_dead_zone() -> None:
    scale = hollow.Scale(nodes=45, pods=120, deployment=40, drained=3, patience=240.0, idle=12.0)
    with plane.running() as running:
        running.start_scheduler()
        # Fewer seconds than a cluster would wait, so that the test does not.
        running.start_controllers(node_monitor_grace_period="16s", node_monitor_period="2s")
        took = uvloop.run(hollow.story(running, scale))
        assert not running.died()
    assert set(took) >= {"registered", "filled", "rolled", "drained", "zone lost", "zone back"}
    assert took["oldest lease"] < 40
