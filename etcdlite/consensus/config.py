"""Settings of one member. Field names follow etcd's flags; times are seconds, sizes are bytes."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusConfig:
    """How a member takes part in its cluster.

    `initial_cluster` maps member names to peer URLs (`https://10.240.0.10:2380`) and must contain `name`. It
    is read only when `data_dir` holds no log yet; a restart takes the membership from disk.
    """

    name: str
    data_dir: Path
    initial_cluster: Mapping[str, Sequence[str]]
    initial_cluster_token: str = "etcd-cluster"  # noqa: S105 -- etcd's name for a namespace, not a secret
    initial_cluster_state: str = "new"  # or "existing": without a log in data_dir, the peers are asked
    force_new_cluster: bool = False
    listen_peer_urls: Sequence[str] = ()  # default: this member's URLs in initial_cluster
    advertise_client_urls: Sequence[str] = ()  # published to the other members
    peer_server_tls: ssl.SSLContext | None = field(
        default=None, repr=False
    )  # required for https:// listeners
    peer_client_tls: ssl.SSLContext | None = field(default=None, repr=False)  # required for https:// peers
    heartbeat_interval: float = 0.1
    election_timeout: float = 1.0
    snapshot_count: int = 10_000  # applied entries between two compactions of the log
    catch_up_entries: int = 5_000  # kept behind a compaction for slow followers
    max_request_bytes: int = 1_572_864
    wal_segment_bytes: int = 16 << 20  # read whole at a start, so it is also memory
    pre_vote: bool = True
