"""What the time line makes of one look after another."""

from __future__ import annotations

from typing import Any

from deploy.console.timeline import WINDOW, Timeline


def member(host: str, role: str = "follower", term: int = 1, revision: int = 1) -> dict[str, Any]:
    return {"host": host, "role": role, "term": term, "revision": revision}


def spans(timeline: Timeline, now: float, lane: str) -> list[tuple[str, float, float | None]]:
    return [
        (each["text"], each["start"], each["end"])
        for each in timeline.data(now)["spans"]
        if each["lane"] == lane
    ]


def test_a_leader_lasts_until_the_next() -> None:
    timeline = Timeline()
    timeline.members(1, [member("a", "leader"), member("b")])
    timeline.members(2, [member("a", "leader"), member("b")])
    timeline.members(3, [{"host": "a", "role": "unreachable"}, member("b", "no leader")])
    timeline.members(4, [{"host": "a", "role": "unreachable"}, member("b", "leader", 2)])
    assert spans(timeline, 5, "leader") == [
        ("a leads term 1", 1, 3),
        ("no leader", 3, 4),
        ("b leads term 2", 4, None),
    ]
    assert spans(timeline, 5, "store") == [("a silent", 3, None)]


def test_a_deposed_leader_that_has_not_noticed_is_not_the_leader() -> None:
    timeline = Timeline()
    timeline.members(1, [member("a", "leader", 1), member("b", "leader", 2)])
    assert spans(timeline, 1, "leader") == [("b leads term 2", 1, None)]


def test_rates_are_revisions_over_time_and_silence_is_no_rate() -> None:
    timeline = Timeline()
    timeline.members(10, [member("a", "leader", revision=100), member("b", revision=90)])
    timeline.members(11, [member("a", "leader", revision=105), member("b", revision=104)])
    timeline.members(12, [{"host": "a", "role": "unreachable"}])
    timeline.members(13, [member("a", "leader", revision=145)])
    assert timeline.data(13)["rates"] == [[11, 5.0], [13, 20.0]]


def test_a_store_restored_from_a_backup_gives_no_negative_rate() -> None:
    timeline = Timeline()
    timeline.members(10, [member("a", "leader", revision=100)])
    timeline.members(11, [member("a", "leader", revision=40)])
    timeline.members(12, [member("a", "leader", revision=42)])
    assert timeline.data(12)["rates"] == [[12, 2.0]]


def test_hosts_and_units_and_nodes_and_the_api() -> None:
    timeline = Timeline()
    running, failed = {"name": "etcdlite", "state": "running"}, {"name": "etcdlite", "state": "waiting"}
    timeline.hosts(1, [{"name": "a", "up": True, "units": [running]}])
    timeline.hosts(2, [{"name": "a", "up": True, "units": [failed]}])
    timeline.hosts(3, [{"name": "a", "up": False, "units": []}])
    assert spans(timeline, 3, "hosts") == [("a: etcdlite waiting", 2, 3), ("a off", 3, None)]
    timeline.nodes(4, [{"name": "w", "ready": False}])
    timeline.nodes(5, [{"name": "w", "ready": True}])
    assert spans(timeline, 5, "nodes") == [("w not ready", 4, 5)]
    timeline.api(6, "503")
    timeline.api(7, "")
    assert spans(timeline, 7, "api") == [("API unreachable", 6, 7)]


def test_faults_last_as_long_as_they_are_active() -> None:
    timeline = Timeline()
    timeline.faults(1, [{"fault": "pause", "target": "a/etcdlite"}])
    timeline.faults(2, [])
    timeline.moment(3, "faults", "kill b/etcdlite")
    assert spans(timeline, 3, "faults") == [("pause a/etcdlite", 1, 2), ("kill b/etcdlite", 3, 3)]


def test_what_ended_before_the_window_is_gone() -> None:
    timeline = Timeline()
    timeline.api(1, "503")
    timeline.api(2, "")
    timeline.members(1, [member("a", "leader", revision=1)])
    timeline.members(2, [member("a", "leader", revision=2)])
    later = 3 + WINDOW
    assert spans(timeline, later, "api") == []
    assert spans(timeline, later, "leader") == [("a leads term 1", 1, None)]
    assert timeline.data(later)["rates"] == []
