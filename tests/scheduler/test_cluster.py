"""Watch events against queue and columns."""

from __future__ import annotations

import copy
from typing import Any

from scheduler.cluster import Cluster
from scheduler.columns import Columns
from scheduler.framework import ClusterEvent
from scheduler.podinfo import compile_pod
from scheduler.queue import Place, SchedulingQueue
from tests.scheduler.objects import node, pod


def cluster() -> Cluster:
    made = Cluster(Columns(), SchedulingQueue(lambda: 0.0), {"default-scheduler"})
    made.node_added(node("n1"))
    return made


def test_a_pending_pod_is_queued_and_another_schedulers_is_not() -> None:
    made = cluster()
    made.pod_added(pod("mine"))
    made.pod_added(pod("theirs", schedulerName="other"))
    assert made.queue.get("default/mine") is not None
    assert made.queue.get("default/theirs") is None


def test_binding_seen_in_the_watch_ends_assumption_and_queue() -> None:
    made = cluster()
    waiting = pod("p", cpu="1")
    made.pod_added(waiting)
    queued = made.queue.pop()
    assert queued is not None
    made.assume(queued.info, "n1")
    made.pod_updated(waiting, copy.deepcopy(waiting))  # a status change while the binding is on its way
    assert queued.place is Place.IN_FLIGHT
    bound = copy.deepcopy(waiting)
    bound["spec"]["nodeName"] = "n1"
    made.pod_updated(waiting, bound)
    made.forget(queued.info)  # the answer to the binding got lost; the watch knows better
    assert "default/p" in made.columns.pods
    assert made.queue.get("default/p") is None


def test_a_failed_binding_is_taken_off_the_node() -> None:
    made = cluster()
    info = compile_pod(pod("p", cpu="1"))
    made.assume(info, "n1")
    assert made.columns.requested.any()
    made.forget(info)
    assert not made.columns.requested.any()


def test_a_finished_or_deleted_pod_wakes_who_waits_for_room() -> None:
    made = cluster()
    big = pod("big", cpu="4", node_name="n1")
    made.pod_added(big)
    made.pod_added(pod("waits", cpu="1"))
    queued = made.queue.pop()
    assert queued is not None
    made.queue.park(queued, ClusterEvent.POD_REMOVED)
    done = copy.deepcopy(big)
    done["status"]["phase"] = "Succeeded"
    made.pod_updated(big, done)
    assert queued.place is not Place.UNSCHEDULABLE


def test_a_heartbeat_wakes_nobody() -> None:
    made = cluster()
    made.pod_added(pod("waits", cpu="1"))
    queued = made.queue.pop()
    assert queued is not None
    made.queue.park(queued, ~ClusterEvent(0))
    old = node("n1")
    new = copy.deepcopy(old)
    new["status"]["conditions"] = [{"type": "Ready", "status": "True", "lastHeartbeatTime": "later"}]
    made.node_updated(old, new)
    assert queued.place is Place.UNSCHEDULABLE


def test_a_pod_made_again_under_its_name_is_queued_anew() -> None:
    made = cluster()
    first = pod("p")
    made.pod_added(first)
    queued = made.queue.pop()
    assert queued is not None
    made.assume(queued.info, "n1")
    second = copy.deepcopy(first)
    second["metadata"]["uid"] = "another"
    made.pod_updated(first, second)
    again = made.queue.pop()
    assert again is not None
    assert again.info.uid == "another"
    assert not made.columns.pods


def test_a_resource_nobody_named_before_gets_its_column() -> None:
    made = cluster()
    extended: dict[str, Any] = {"example.com/gpu": "2"}
    made.node_added(node("n2", **extended))
    made.columns.add_pod(compile_pod(pod("p", cpu="1")), "n2")
    row = made.columns.resource_row("example.com/gpu")
    assert made.columns.allocatable[row, made.columns.row_of["n2"]] == 2
    assert made.columns.allocatable[row, made.columns.row_of["n1"]] == 0


def test_a_binding_that_comes_true_changes_no_column_and_wakes_who_waited_for_it() -> None:
    """A decision counts a pod once; its confirmation makes no row worth another look, but lets pods with an
    affinity to it try again.
    """
    made = cluster()
    waiting = pod("p", cpu="1")
    made.pod_added(waiting)
    queued = made.queue.pop()
    assert queued is not None
    made.pod_added(pod("follower"))
    follower = made.queue.pop()
    assert follower is not None
    made.queue.park(follower, ClusterEvent.POD_PLACED)
    made.assume(queued.info, "n1")
    before, requested = made.columns.journal.position, made.columns.requested.copy()
    bound = copy.deepcopy(waiting)
    bound["spec"]["nodeName"] = "n1"
    made.pod_updated(waiting, bound)
    assert made.columns.journal.position == before
    assert (made.columns.requested == requested).all()
    assert follower.place is not Place.UNSCHEDULABLE
    made.pod_updated(bound, bound)
    assert made.columns.journal.position == before
    made.pod_deleted(bound)
    assert not made.columns.requested.any()


def test_a_pod_that_others_bound_elsewhere_is_counted_there() -> None:
    made = cluster()
    made.node_added(node("n2"))
    waiting = pod("p", cpu="1")
    made.assume(compile_pod(waiting), "n1")
    bound = copy.deepcopy(waiting)
    bound["spec"]["nodeName"] = "n2"
    made.pod_updated(waiting, bound)
    placed = made.columns.pods["default/p"]
    assert made.columns.names[placed.row] == "n2"
