"""The parts of the harness that need no cluster."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from deploy.judge.history import Batch, Event, Watch
from deploy.judge.model import Delete, Get, KeyValue, Put
from tests.robustness import __main__ as command
from tests.robustness import schedule
from tests.robustness.campaign import _cut, _gap
from tests.robustness.lab import Certificates, Host
from tests.robustness.members import ETCD, ETCDLITE, Member, program
from tests.robustness.recorder import Journal, Recorder
from tests.robustness.schedule import SCENARIOS, STRIKES, _begin_record
from tests.robustness.workload import KEYS, Load


def test_the_longest_time_without_a_write_includes_both_ends() -> None:
    assert _gap([3.0, 1.0], 0.0, 4.5) == 2.0
    assert _gap([], 0.0, 4.0) == 4.0


def test_what_came_after_the_end_is_cut_off_a_watch() -> None:
    events = [Event(revision, "k", KeyValue("k", str(revision))) for revision in (1, 2, 3)]
    batches = (Batch(0.0, 1, (events[0],)), Batch(1.0, 3, (events[1], events[2])), Batch(2.0, 4))
    whole = Watch(name="w", key="k", end="", start=1, batches=batches)
    assert _cut(whole, 2).batches == (batches[0], Batch(1.0, 3, (events[1],)))
    assert _cut(whole, 4) == whole


def test_every_sixth_round_is_the_real_etcds() -> None:
    assert command.kinds("both", 12).count(ETCD) == 2
    assert command.kinds("both", 12).count(ETCDLITE) == 10
    assert command.kinds("stale-reads", 2) == ["stale-reads"] * 2


def test_a_scenario_names_strikes() -> None:
    assert {name for names in SCENARIOS.values() for name in names} <= set(STRIKES)
    assert set(SCENARIOS["all"]) == set(STRIKES)


def test_clients_ask_everything() -> None:
    async def main() -> set[type]:
        nobody = Recorder("nobody", None, Journal())  # type: ignore[arg-type]
        load = Load([], nobody, Journal(), random.Random(1), True, 1.0)
        requests = [load.request() for _ in range(400)]
        assert any(request.serializable for request in requests)
        assert any(request.compares for request in requests)
        assert any(len(request.success) > 2 for request in requests)
        values = [op.value for one in requests for op in one.operations() if isinstance(op, Put)]
        assert len(values) == len(set(values)), "what is written says who wrote it"
        return {type(op) for request in requests for op in request.operations()}

    assert asyncio.run(main()) == {Put, Get, Delete}
    assert len(KEYS) > 2


def test_a_torn_tail_is_a_record_begun_or_zeros(tmp_path: Path) -> None:
    whole = (4).to_bytes(4, "little") + b"\1" + b"sumssums" + b"data"
    for seed in range(50):
        segment = tmp_path / "segment"
        segment.write_bytes(whole)
        _begin_record(segment, random.Random(seed))
        added = segment.read_bytes()[len(whole) :]
        assert added
        assert (added == whole[: len(added)] and len(added) < len(whole)) or not any(added)


def test_members_run_the_same_flags_on_both_stores(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abcde"]

    def flags(kind: str) -> dict[str, str]:
        host = Host("m0", "10.77.0.10", 1)
        return Member(kind, host, {"m0": "https://10.77.0.10:2380"}, tmp_path, Certificates(*paths)).flags()

    theirs, ours = flags(ETCD), flags(ETCDLITE)
    assert {name for name in theirs if theirs[name] != ours.get(name)} == {"logger", "snapshot-count"}
    assert ours["client-cert-auth"] == ours["peer-client-cert-auth"] == "true"
    assert program("stale-reads")[-2:] == ["tests.robustness.broken", "stale-reads"]


def test_a_removal_that_was_carried_out_without_an_answer_is_gone_on_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under a partition etcdctl gives up while the cluster does not."""
    listed = {f"1{n}": f"1{n}, started, m{n}, http://m{n}:2380, http://m{n}:2379, false" for n in range(3)}

    async def etcdctl(member: object, *words: str) -> str:
        match words[1]:
            case "list":
                return "\n".join(listed.values())
            case "remove":
                listed.pop(words[2])
                return ""
            case "add":
                listed["20"] = "20, unstarted, , http://m0:2380, , false"
                return ""
        raise AssertionError(words)

    monkeypatch.setattr(schedule, "etcdctl", etcdctl)
    members = [
        SimpleNamespace(name=f"m{n}", peer_url=f"http://m{n}:2380", generation=0, state="new", starts=0)
        for n in range(3)
    ]
    victim, said = members[0], list[str]()
    victim.end = lambda how: None
    victim.start = lambda: setattr(victim, "starts", victim.starts + 1)
    stage = SimpleNamespace(members=members, one=lambda: victim, say=said.append)
    asyncio.run(schedule.replace(cast(schedule.Stage, stage)))
    assert said == ["  replaced m0: removed True, added True"]
    assert (victim.generation, victim.state, victim.starts) == (1, "existing", 1)
