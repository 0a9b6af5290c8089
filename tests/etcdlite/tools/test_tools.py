"""A snapshot of a running member becomes a new cluster; logs and databases can be looked at."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from deploy import etcdtools
from etcdlite.client import EtcdClient
from etcdlite.consensus.errors import ConfigurationError
from etcdlite.mvcc.errors import DatabaseDamaged
from etcdlite.tools.dump import dump_database, dump_wal
from etcdlite.tools.restore import Restore, restore
from tests.etcdlite.server.members import member, running
from tests.etcdlite.server.test_walk import Walker
from tests.ports import free_port


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A stopped member's data directory, and a snapshot of it: revision 5, a lease, a deleted key."""
    folder = tmp_path_factory.mktemp("saved")
    with running("etcdlite", folder) as source:
        ctl = Walker(source.client_url, folder)
        ctl("put", "/a", "1")
        lease = ctl("lease", "grant", "1000").split()[1]
        ctl("put", "/leased", "x", f"--lease={lease}")
        ctl("put", "/gone", "x")
        ctl("del", "/gone")
        ctl("snapshot", "save", str(folder / "backup"))
        source.stop()
    return folder / "m0", folder / "backup"


def wanted(snapshot: Path, data_dir: Path, **options: object) -> Restore:
    given = {
        "snapshot": snapshot,
        "data_dir": data_dir,
        "name": "m0",
        "initial_cluster": {"m0": [f"http://127.0.0.1:{free_port()}"]},
        "initial_cluster_token": "etcd-cluster",
        **options,
    }
    return Restore(**given)  # type: ignore[arg-type]


def test_a_restored_cluster_has_the_data_and_gives_it_to_who_joins(
    saved: tuple[Path, Path], tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    made = restore(wanted(saved[1], tmp_path / "m0", initial_cluster={"m0": [url]}))
    assert (made.revision, made.compacted) == (5, 0)
    first = member("etcdlite", tmp_path, "m0", cluster=f"m0={url}")
    joiner_url = f"http://127.0.0.1:{free_port()}"
    flags = ["--initial-cluster-state=existing"]
    joiner = member("etcdlite", tmp_path, "m1", cluster=f"m0={url},m1={joiner_url}", extra=flags)
    try:
        first.start()
        first.wait_ready()
        ctl = Walker(first.client_url, tmp_path)
        assert ctl("get", "/", "--prefix") == "/a\n1\n/leased\nx\n"
        assert '"revision":5' in ctl("get", "/a", "-w", "json")
        assert ctl("put", "/b", "2") == "OK\n"
        ctl("member", "add", "m1", f"--peer-urls={joiner_url}")
        joiner.start()
        joiner.wait_ready()
        there = Walker(joiner.client_url, tmp_path)
        assert there("get", "/", "--prefix") == "/a\n1\n/b\n2\n/leased\nx\n"
        assert ctl("lease", "list").count("\n") == 2
    finally:
        first.stop(9)
        joiner.stop(9)


def test_a_bumped_revision_ends_the_watches_of_the_old_cluster(
    saved: tuple[Path, Path], tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    made = restore(
        wanted(
            saved[1],
            tmp_path / "m0",
            initial_cluster={"m0": [url]},
            bump_revision=1000,
            mark_compacted=True,
        )
    )
    assert (made.revision, made.compacted) == (1005, 1005)
    first = member("etcdlite", tmp_path, "m0", cluster=f"m0={url}")
    try:
        first.start()
        first.wait_ready()
        ctl = Walker(first.client_url, tmp_path)
        assert ctl("get", "/a") == "/a\n1\n"
        with ctl.background("watch", "/a", "--rev=6") as watch:
            assert "compacted" in watch.communicate(timeout=20)[1]
        assert '"revision":1006' in ctl("put", "/a", "2", "-w", "json")
    finally:
        first.stop(9)


def test_what_cannot_be_restored_is_refused_and_leaves_nothing(
    saved: tuple[Path, Path], tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    with pytest.raises(ConfigurationError, match="not empty"):
        restore(wanted(saved[1], full))
    with pytest.raises(ConfigurationError, match="--mark-compacted"):
        restore(wanted(saved[1], tmp_path / "m0", bump_revision=5))
    with pytest.raises(ConfigurationError, match="couldn't find local name"):
        restore(wanted(saved[1], tmp_path / "m0", name="other"))
    broken = tmp_path / "broken"
    content = bytearray(saved[1].read_bytes())
    content[content.index(b"/leased")] ^= 1
    broken.write_bytes(content)
    with pytest.raises(DatabaseDamaged):
        restore(wanted(broken, tmp_path / "m0"))
    assert not (tmp_path / "m0").exists() and not (tmp_path / "m0.part").exists()


def test_dumps_show_what_is_there_and_no_secret(saved: tuple[Path, Path]) -> None:
    log = "\n".join(dump_wal(saved[0]))
    assert "add_voter member" in log and "put key=b'/a' value=1 bytes" in log and "lease_grant" in log
    database = list(dump_database(saved[0], values=True))
    assert database[0].startswith("revision 5, compacted 0")
    assert "2.0 /a created 2 version 1: 1" in database
    assert "5.0 /gone deleted" in database
    assert next(line for line in dump_database(saved[0], prefix=b"/leased") if "/leased" in line).endswith(
        "1 bytes"
    )


def test_the_command(saved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into = str(tmp_path / "new")
    assert etcdtools.main(["etcd", "snapshot", "restore", str(saved[1]), "--data-dir", into]) == 0
    assert "revision 5" in capsys.readouterr().out
    assert etcdtools.main(["etcd", "snapshot", "restore", str(saved[1]), "--data-dir", into]) == 1
    assert "not empty" in capsys.readouterr().out
    assert etcdtools.main(["etcd", "dump-wal", into]) == 0
    assert "marker   index 1" in capsys.readouterr().out
    assert etcdtools.main(["etcd", "dump-db", into, "--prefix", "/a"]) == 0
    assert "/a created 2" in capsys.readouterr().out


def test_a_running_member_can_be_looked_at(tmp_path: Path) -> None:
    async def watch_it(url: str) -> None:
        async with EtcdClient([url]) as client:
            await client.put(b"/x", b"1")
            await asyncio.sleep(0.5)
            lines = await asyncio.to_thread(lambda: list(dump_database(tmp_path / "m0")))
            assert any("/x created 2" in line for line in lines)
            assert (await client.range(b"/x")).kvs[0].value == b"1"

    with running("etcdlite", tmp_path) as source:
        asyncio.run(watch_it(source.client_url))
