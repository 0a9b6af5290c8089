"""From a snapshot file to the data directory of a member of a new cluster.

Every member of the new cluster is restored from the same file with the same flags but its name. The new log
begins after a marker for the founders' membership, not with entries: so a member that joins later, and has
nothing, is behind the log and gets the restored data as a snapshot.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from etcdlite.consensus import wire
from etcdlite.consensus.engine import SNAPSHOT_FOLDER, WAL_FOLDER
from etcdlite.consensus.errors import ConfigurationError
from etcdlite.consensus.membership import Membership, cluster_id, member_id
from etcdlite.mvcc.backend import Backend, Batch, Meta
from etcdlite.raft.types import HardState, Index, NodeId, SnapshotMeta, Term
from etcdlite.wal.codec import Metadata
from etcdlite.wal.disk import PosixDisk
from etcdlite.wal.log import Recovered, Wal

_READ = 1 << 20
_SEGMENT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """Names follow etcd's `snapshot restore`. `bump_revision` is added to the revision, so that clients that
    have seen later revisions than the snapshot's never see one twice; with `mark_compacted` everything up to
    the result counts as compacted, so that their watches end and they list anew.
    """

    snapshot: Path
    data_dir: Path
    name: str
    initial_cluster: Mapping[str, Sequence[str]]
    initial_cluster_token: str
    bump_revision: int = 0
    mark_compacted: bool = False


@dataclass(frozen=True, slots=True)
class Restored:
    """What the new member starts with."""

    cluster_id: int
    member_id: int
    revision: int
    compacted: int


def restore(wanted: Restore) -> Restored:
    """Write the data directory.

    Raises ConfigurationError, DatabaseDamaged (a snapshot that is none), OSError; then there is no directory.
    """
    urls = wanted.initial_cluster.get(wanted.name)
    if not urls:
        raise ConfigurationError(
            f"couldn't find local name {wanted.name!r} in the initial cluster configuration"
        )
    if wanted.bump_revision < 0 or (wanted.bump_revision and not wanted.mark_compacted):
        raise ConfigurationError("--bump-revision is a number of revisions and needs --mark-compacted")
    if wanted.data_dir.exists() and any(wanted.data_dir.iterdir()):
        raise ConfigurationError(f"data-dir {str(wanted.data_dir)!r} not empty or could not be read")
    if not wanted.snapshot.is_file():
        raise ConfigurationError(f"{wanted.snapshot}: no such snapshot")
    building = wanted.data_dir.with_name(wanted.data_dir.name + ".part")
    shutil.rmtree(building, ignore_errors=True)
    try:
        meta = _write_database(building, wanted)
        _write_log(building, wanted)
        building.replace(wanted.data_dir)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    token = wanted.initial_cluster_token
    return Restored(
        cluster_id(wanted.initial_cluster, token), member_id(urls, token), meta.revision, meta.compacted
    )


def _write_database(folder: Path, wanted: Restore) -> Meta:
    (folder / "member").mkdir(mode=0o700, parents=True)
    map_bytes = max(wanted.snapshot.stat().st_size * 4, 1 << 30)
    with closing(Backend(folder / "member" / "db", map_bytes=map_bytes)) as backend:
        backend.install(_chunks(wanted.snapshot))
        old = backend.meta()
        revision = old.revision + wanted.bump_revision
        meta = replace(
            old,
            applied_index=len(wanted.initial_cluster),
            applied_term=1,
            revision=revision,
            compacted=revision if wanted.mark_compacted else old.compacted,
        )
        alarms: dict[tuple[str, bytes], bytes | None] = {
            ("alarm", row): None for row, _ in backend.rows("alarm")
        }
        backend.commit(Batch(rows=alarms), meta)  # alarms name members that are no more
        return meta


def _write_log(folder: Path, wanted: Restore) -> None:
    token = wanted.initial_cluster_token
    founders = Membership.initial(wanted.initial_cluster, token)
    index = Index(len(founders.members))
    marker = SnapshotMeta(index, Term(1), founders.conf_state(), wire.encode_membership(founders))
    metadata = Metadata(
        cluster_id(wanted.initial_cluster, token), member_id(wanted.initial_cluster[wanted.name], token)
    )
    first = Recovered(metadata, marker, HardState(Term(1), NodeId(0), index))
    disk = PosixDisk(folder)
    disk.make_folder(WAL_FOLDER)
    disk.make_folder(SNAPSHOT_FOLDER)
    Wal.create(disk, WAL_FOLDER, metadata, first=first, segment_bytes=_SEGMENT_BYTES)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_READ):
            yield chunk
