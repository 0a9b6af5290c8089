"""Members that join, come back, and are made the only ones."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

import pytest

from etcdlite.consensus import joining
from etcdlite.consensus.errors import BadChange, ConfigurationError, Stopped
from etcdlite.consensus.membership import ChangeKind, Member, MemberChange, member_id
from tests.etcdlite.consensus.harness import Harness, ListMachine, run, running
from tests.ports import free_port


async def add(cluster: Harness, name: str, kind: ChangeKind = ChangeKind.ADD_VOTER) -> Member:
    """Add a member and prepare its start: other names keep running with the flags they have."""
    url = f"http://127.0.0.1:{free_port()}"
    asked = cluster.members[await cluster.leader()]
    fresh = Member(member_id([url], "etcd-cluster", 5), peer_urls=(url,))
    await asked.propose_conf_change(MemberChange(kind, fresh))
    cluster.cluster = {**cluster.cluster, name: [url]}
    cluster.machines[name] = ListMachine()
    cluster.options["initial_cluster_state"] = "existing"
    return fresh


def test_a_member_joins_learns_its_id_and_comes_back(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 1) as cluster:
            await cluster.put("m0", b"before")
            fresh = await add(cluster, "m1")
            cluster.start("m1")
            await cluster.put("m1", b"joined")
            assert cluster.members["m1"].member_id == fresh.id
            assert cluster.members["m1"].cluster_id == cluster.members["m0"].cluster_id
            assert cluster.machines["m1"].data == [b"before", b"joined"]
            await cluster.stop("m1", "m0")
            cluster.start()  # "existing" with a log: the log knows
            await cluster.put("m1", b"again")
            assert cluster.members["m1"].member_id == fresh.id

    run(test)


def test_a_learner_is_promoted_only_when_it_has_the_log(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 3) as cluster:
            for number in range(20):
                await cluster.put("m0", b"%d" % number)
            learner = await add(cluster, "m3", ChangeKind.ADD_LEARNER)
            promotion = MemberChange(ChangeKind.PROMOTE, Member(learner.id))
            for asked in ("m0", "m1", "m2"):  # followers ask the leader
                with pytest.raises(BadChange, match="in sync with leader"):
                    await cluster.members[asked].propose_conf_change(promotion)
            cluster.start("m3")
            await cluster.put("m3", b"seen")
            assert cluster.members["m3"].status().is_learner
            follower = next(name for name in await cluster.followers() if name != "m3")
            async with asyncio.timeout(5):
                while cluster.members[follower].status().members[learner.id].is_learner:
                    with contextlib.suppress(BadChange):  # the leader may not have heard of its progress yet
                        await cluster.members[follower].propose_conf_change(promotion)
            await cluster.until(lambda: not cluster.members["m3"].status().is_learner)

    run(test)


def test_who_was_not_added_cannot_join(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 1) as cluster:
            await cluster.leader()
            cluster.cluster = {**cluster.cluster, "m1": ["http://127.0.0.1:1"]}
            cluster.machines["m1"] = ListMachine()
            cluster.options["initial_cluster_state"] = "existing"
            cluster.start("m1")
            reason = await cluster.ended("m1")
            assert isinstance(reason, ConfigurationError) and "add it first" in str(reason)

    run(test)


def test_joining_nobody_says_whom_it_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "JOIN_SECONDS", 0.2)

    async def test() -> None:
        cluster = Harness(tmp_path, 2, initial_cluster_state="existing")
        cluster.start("m0")
        reason = await cluster.ended("m0")
        assert isinstance(reason, ConfigurationError)
        assert cluster.cluster["m1"][0] in str(reason)

    run(test)


@pytest.mark.parametrize("state", ["new", "existing"])
def test_a_member_that_lost_its_data_does_not_vote_again(tmp_path: Path, state: str) -> None:
    async def test() -> None:
        async with running(tmp_path, 3) as cluster:
            await cluster.put("m0", b"x")
            await cluster.until(
                lambda: all(m.client_urls for m in cluster.members["m0"].status().members.values())
            )
            await cluster.stop("m2")
            shutil.rmtree(tmp_path / "m2")
            cluster.machines["m2"] = ListMachine()
            cluster.options["initial_cluster_state"] = state
            cluster.start("m2")
            reason = await cluster.ended("m2")
            assert isinstance(reason, ConfigurationError) and "already been bootstrapped" in str(reason)

    run(test)


def test_a_member_is_replaced_end_to_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 3) as cluster:
            await cluster.put("m0", b"x")
            gone = next(name for name in await cluster.followers())
            lost = cluster.members[gone].member_id
            await cluster.stop(gone)
            shutil.rmtree(tmp_path / gone)
            asked = cluster.members[await cluster.leader()]
            await asked.propose_conf_change(MemberChange(ChangeKind.REMOVE, Member(lost)))
            del cluster.cluster[gone]
            fresh = await add(cluster, gone)
            assert fresh.id != lost
            cluster.start(gone)
            await cluster.put(gone, b"y")
            assert cluster.machines[gone].data == [b"x", b"y"]
            assert set(cluster.members[gone].status().members) == {
                m.member_id for m in cluster.members.values()
            }

    run(test)


def test_one_member_is_made_a_cluster_of_its_own(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 3) as cluster:
            for number in range(10):
                await cluster.put("m1", b"%d" % number)
            await cluster.stop()
            cluster.options["force_new_cluster"] = True
            cluster.start("m1")
            await cluster.put("m1", b"alone")
            assert list(cluster.members["m1"].status().members) == [cluster.members["m1"].member_id]
            await cluster.stop("m1")
            del cluster.options["force_new_cluster"]
            cluster.start("m1", "m2")  # m2 still believes in three members; m1 tells it that it was removed
            reason = await cluster.ended("m2")
            assert isinstance(reason, ExceptionGroup) and reason.subgroup(Stopped) is not None
            await cluster.put("m1", b"still alone")
            assert cluster.machines["m1"].data[-2:] == [b"alone", b"still alone"]

    run(test)


def test_force_new_cluster_needs_data(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Harness(tmp_path, 1, force_new_cluster=True)
        cluster.start()
        reason = await cluster.ended("m0")
        assert isinstance(reason, ConfigurationError) and "needs the data directory" in str(reason)

    run(test)
