"""`hardway etcd ...`: work on the files of a store's member that does not run."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from etcdlite.consensus.errors import ConfigurationError
from etcdlite.mvcc.errors import DatabaseDamaged
from etcdlite.tools.dump import dump_database, dump_wal
from etcdlite.tools.restore import Restore, restore
from etcdlite.wal.records import WalCorrupt


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Declare `etcd snapshot restore`, `etcd dump-wal`, `etcd dump-db`; `run` runs them."""
    etcd = commands.add_parser(
        "etcd", help="files of a stopped store: restore a snapshot, show log and database"
    )
    tools = etcd.add_subparsers(required=True, metavar="tool")
    snapshot = tools.add_parser("snapshot", help="snapshot files").add_subparsers(
        required=True, metavar="action"
    )
    restoring = snapshot.add_parser("restore", help="make the data directory of a new cluster's member")
    restoring.add_argument("snapshot", type=Path)
    restoring.add_argument("--data-dir", type=Path, required=True)
    restoring.add_argument("--name", default="default")
    restoring.add_argument("--initial-cluster", default="default=http://localhost:2380")
    restoring.add_argument("--initial-cluster-token", default="etcd-cluster")
    restoring.add_argument("--bump-revision", type=int, default=0, help="how much to add to the revision")
    restoring.add_argument("--mark-compacted", action="store_true", help="end the watches of the old cluster")
    restoring.set_defaults(etcd_run=_restore)
    wal = tools.add_parser("dump-wal", help="the records of a member's log")
    wal.add_argument("data_dir", type=Path)
    wal.set_defaults(etcd_run=_dump_wal)
    database = tools.add_parser("dump-db", help="what a member's database holds")
    database.add_argument("data_dir", type=Path)
    database.add_argument("--prefix", default="", help="only keys that begin so")
    database.add_argument("--values", action="store_true", help="values too, not only their length")
    database.set_defaults(etcd_run=_dump_database)
    return etcd


def run(given: argparse.Namespace) -> int:
    """Run the tool that was chosen; the exit status."""
    try:
        given.etcd_run(given)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ConfigurationError, DatabaseDamaged, WalCorrupt, OSError) as error:
        print(f"hardway etcd: {error}")
        return 1
    return 0


def _restore(given: argparse.Namespace) -> None:
    cluster: dict[str, list[str]] = {}
    for part in given.initial_cluster.split(","):
        name, _, url = part.partition("=")
        cluster.setdefault(name.strip(), []).append(url)
    made = restore(
        Restore(
            snapshot=given.snapshot,
            data_dir=given.data_dir,
            name=given.name,
            initial_cluster=cluster,
            initial_cluster_token=given.initial_cluster_token,
            bump_revision=given.bump_revision,
            mark_compacted=given.mark_compacted,
        )
    )
    print(f"restored {given.data_dir}: member {made.member_id:x} of cluster {made.cluster_id:x}")
    print(f"revision {made.revision}, compacted {made.compacted}")


def _dump_wal(given: argparse.Namespace) -> None:
    for line in dump_wal(given.data_dir):
        print(line)


def _dump_database(given: argparse.Namespace) -> None:
    for line in dump_database(given.data_dir, prefix=given.prefix.encode(), values=given.values):
        print(line)


def main(argv: list[str] | None = None) -> int:
    """`python -m deploy.etcdtools ...`, without the rest of the `hardway` command."""
    parser = argparse.ArgumentParser(prog="hardway")
    add_commands(parser.add_subparsers(required=True, metavar="command"))
    return run(parser.parse_args(argv))
