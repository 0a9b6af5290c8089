"""A control plane with many hollow nodes, in small: the story that `python -m bench hollow` tells of 1,000.

Every step of it raises what it did not see happen in its patience; a zone that stops takes its nodes with it
and no others.
"""

from __future__ import annotations

import pytest
import uvloop

from bench import hollow, plane

pytestmark = [pytest.mark.serial, pytest.mark.timeout(600)]


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
