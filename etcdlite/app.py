"""The member's command line: etcd's flags and ETCD_ variables, turned into a running EtcdServer."""

from __future__ import annotations

import faulthandler
import os
import ssl
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from componentbase import flags, log, tasks, tlsutil
from componentbase.grpcwire.keepalive import Keepalive
from etcdlite.consensus.config import ConsensusConfig
from etcdlite.consensus.errors import ConfigurationError
from etcdlite.consensus.node import Consensus
from etcdlite.mvcc.errors import DatabaseDamaged
from etcdlite.server import autocompact
from etcdlite.server.context import CLUSTER_VERSION, SERVER_VERSION, Settings
from etcdlite.server.grpcserver import ServerTLS
from etcdlite.server.serving import EtcdServer, Listen
from etcdlite.wal.records import WalCorrupt

_CLIENT_URL = "http://localhost:2379"
_PEER_URL = "http://localhost:2380"
_QUOTA_BYTES = 2 << 30  # etcd's default; 0 means the same


def _declare() -> flags.Flags:
    known = flags.Flags(
        "etcdlite",
        "A member of the store: etcd v3 over Raft.",
        env_prefix="ETCD_",
        version=f"etcd Version: {SERVER_VERSION}\nAPI version: {CLUSTER_VERSION.rpartition('.')[0]}",
    )
    known.string("name", "default", "Human-readable name for this member.")
    known.string("data-dir", "", "Path to the data directory (default: <name>.etcd).")
    known.strings("listen-client-urls", [_CLIENT_URL], "URLs to listen on for clients.")
    known.strings("advertise-client-urls", [_CLIENT_URL], "Client URLs told to the cluster.")
    known.strings("listen-peer-urls", [_PEER_URL], "URLs to listen on for peers.")
    known.strings("initial-advertise-peer-urls", [_PEER_URL], "Peer URLs told to the cluster.")
    known.strings("listen-metrics-urls", [], "URLs for /health, /version and /metrics.")
    known.string("initial-cluster", "", "name=peerURL,... of the first members.")
    known.string("initial-cluster-token", "etcd-cluster", "Keeps clusters apart.")
    known.string("initial-cluster-state", "new", "Whether the cluster exists.", choices=["new", "existing"])
    known.boolean("force-new-cluster", False, "Make a cluster of this member alone, from its data.")
    known.boolean("strict-reconfig-check", True, "Refuse membership changes that would cost the majority.")
    known.integer("max-learners", 1, "Most learners in the cluster.")
    known.string("cert-file", "", "Certificate of the client port.")
    known.string("key-file", "", "Key of the client port.")
    known.string("trusted-ca-file", "", "CA that signs clients' certificates.")
    known.boolean("client-cert-auth", False, "Refuse clients without a certificate of the CA.")
    known.string("peer-cert-file", "", "Certificate of the peer port, also used towards peers.")
    known.string("peer-key-file", "", "Key of the peer port.")
    known.string("peer-trusted-ca-file", "", "CA that signs peers' certificates.")
    known.boolean("peer-client-cert-auth", False, "Refuse peers without a certificate of the CA.")
    _declare_limits(known)
    return known


def _declare_limits(known: flags.Flags) -> None:
    known.integer("heartbeat-interval", 100, "Milliseconds between a leader's heartbeats.")
    known.integer("election-timeout", 1000, "Milliseconds without a leader before an election.")
    known.integer("snapshot-count", 10_000, "Applied entries between two compactions of the log.")
    for prefix in ("", "experimental-"):
        known.integer(
            f"{prefix}snapshot-catchup-entries", 5_000, "Entries kept behind a compaction of the log."
        )
    known.integer("quota-backend-bytes", 0, "Size of the database that raises NOSPACE (0: 2 GiB).")
    known.string(
        "auto-compaction-mode", "periodic", "What retention means.", choices=["periodic", "revision"]
    )
    known.string("auto-compaction-retention", "0", "How much history to keep: hours, duration or revisions.")
    known.integer("max-request-bytes", 1_572_864, "Largest request accepted.")
    known.integer("max-txn-ops", 128, "Most operations in a transaction.")
    known.integer("max-concurrent-streams", 10_000, "Most calls open at a time on one client's connection.")
    known.duration("grpc-keepalive-min-time", "5s", "Least time between a client's pings.")
    known.duration("grpc-keepalive-interval", "2h", "Silence of a client before it is asked if it lives.")
    known.duration("grpc-keepalive-timeout", "20s", "Time it has to answer.")
    known.boolean("pre-vote", True, "Ask before an election whether it can be won.")
    for prefix in ("", "experimental-"):
        known.boolean(f"{prefix}initial-corrupt-check", False, "Compare data with the others before serving.")
        known.duration(f"{prefix}corrupt-check-time", "0s", "Time between comparisons of data (0: none).")
    known.duration(
        "experimental-watch-progress-notify-interval", "10m", "Time between progress notifications."
    )
    known.duration("watch-progress-notify-interval", "10m", "Time between progress notifications.")
    known.string(
        "log-level", "info", "debug, info, warn or error.", choices=["debug", "info", "warn", "error"]
    )
    known.string("logger", "zap", "Accepted for the sake of unit files; lines are the same.", choices=["zap"])


def _initial_cluster(given: flags.Values) -> dict[str, list[str]]:
    """`a=http://1,b=http://2,a=http://3`; by default this member alone."""
    if not given.initial_cluster:
        return {given.name: list(given.initial_advertise_peer_urls)}
    members: dict[str, list[str]] = {}
    for part in given.initial_cluster.split(","):
        name, equals, url = part.strip().partition("=")
        if not equals or not name or not url:
            raise ConfigurationError(f"--initial-cluster: {part!r} is not name=URL")
        members.setdefault(name, []).append(url)
    return members


def _check(given: flags.Values, cluster: Mapping[str, Sequence[str]]) -> None:
    """Refuse what cannot work, by the flag's name. Raises ConfigurationError."""
    if given.name not in cluster:
        raise ConfigurationError(
            f"couldn't find local name {given.name!r} in the initial cluster configuration"
        )
    if sorted(cluster[given.name]) != sorted(given.initial_advertise_peer_urls):
        raise ConfigurationError(
            f"--initial-cluster has {given.name}={','.join(cluster[given.name])} but missing from "
            f"--initial-advertise-peer-urls={','.join(given.initial_advertise_peer_urls)}"
        )
    if given.election_timeout < 5 * given.heartbeat_interval:
        raise ConfigurationError(
            f"--election-timeout[{given.election_timeout}ms] should be at least as 5 times as "
            f"--heartbeat-interval[{given.heartbeat_interval}ms]"
        )
    for flag in ("max_concurrent_streams", "grpc_keepalive_interval", "grpc_keepalive_timeout"):
        if getattr(given, flag) <= 0:
            raise ConfigurationError(f"--{flag.replace('_', '-')} must be more than 0")
    for flag in ("listen_client_urls", "listen_peer_urls", "advertise_client_urls", "listen_metrics_urls"):
        for url in getattr(given, flag):
            if urlsplit(url).scheme not in ("http", "https") or urlsplit(url).port is None:
                raise ConfigurationError(f"--{flag.replace('_', '-')}: {url!r} is not http(s)://host:port")


def _client_tls(given: flags.Values) -> ServerTLS | None:
    if not given.cert_file and not given.key_file:
        if any(url.startswith("https:") for url in given.listen_client_urls):
            raise ConfigurationError("--listen-client-urls: https needs --cert-file and --key-file")
        return None
    if not given.cert_file or not given.key_file:
        raise ConfigurationError("--cert-file and --key-file must be given together")
    if given.client_cert_auth and not given.trusted_ca_file:
        raise ConfigurationError("--client-cert-auth needs --trusted-ca-file")
    return ServerTLS(
        cert=Path(given.cert_file),
        key=Path(given.key_file),
        ca=Path(given.trusted_ca_file) if given.trusted_ca_file else None,
        require_client=given.client_cert_auth,
    )


def _peer_tls(given: flags.Values) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    cert, key, ca = given.peer_cert_file, given.peer_key_file, given.peer_trusted_ca_file
    if not cert:
        return None, None
    if given.peer_client_cert_auth and not ca:
        raise ConfigurationError("--peer-client-cert-auth needs --peer-trusted-ca-file")
    server = tlsutil.server_context(cert, key, ca or None, given.peer_client_cert_auth)
    return server, tlsutil.client_context(ca or None, cert, key)


def _either(given: flags.Values, name: str) -> Any:
    """A flag of etcd 3.6, or what it was called before."""
    chosen = name if given.changed(name) else f"experimental-{name}"
    return getattr(given, chosen.replace("-", "_"))


def _consensus_config(
    given: flags.Values, cluster: Mapping[str, Sequence[str]], data_dir: Path
) -> ConsensusConfig:
    peer_server_tls, peer_client_tls = _peer_tls(given)
    return ConsensusConfig(
        name=given.name,
        data_dir=data_dir,
        initial_cluster=cluster,
        initial_cluster_token=given.initial_cluster_token,
        initial_cluster_state=given.initial_cluster_state,
        force_new_cluster=given.force_new_cluster,
        listen_peer_urls=given.listen_peer_urls,
        advertise_client_urls=given.advertise_client_urls,
        peer_server_tls=peer_server_tls,
        peer_client_tls=peer_client_tls,
        heartbeat_interval=given.heartbeat_interval / 1000,
        election_timeout=given.election_timeout / 1000,
        snapshot_count=given.snapshot_count,
        catch_up_entries=_either(given, "snapshot-catchup-entries"),
        max_request_bytes=given.max_request_bytes,
        pre_vote=given.pre_vote,
    )


def _settings(given: flags.Values) -> Settings:
    return Settings(
        max_request_bytes=given.max_request_bytes,
        max_txn_ops=given.max_txn_ops,
        request_timeout=5.0 + 2 * given.election_timeout / 1000,
        election_timeout=given.election_timeout / 1000,
        progress_notify_interval=_either(given, "watch-progress-notify-interval"),
        quota_backend_bytes=given.quota_backend_bytes or _QUOTA_BYTES,
        strict_reconfig_check=given.strict_reconfig_check,
        max_learners=given.max_learners,
        cluster_token=given.initial_cluster_token,
        corrupt_check_time=_either(given, "corrupt-check-time"),
        initial_corrupt_check=_either(given, "initial-corrupt-check"),
    )


def build(given: flags.Values) -> EtcdServer:
    """The member that the flags describe. Raises ConfigurationError, DatabaseDamaged, OSError."""
    cluster = _initial_cluster(given)
    _check(given, cluster)
    data_dir = Path(given.data_dir or f"{given.name}.etcd")
    config = _consensus_config(given, cluster, data_dir)
    tls = _client_tls(given)
    if tls is not None:
        tls.context()  # a file that cannot be read is better known now than after the election
    listen = Listen(
        client_urls=given.listen_client_urls,
        metrics_urls=given.listen_metrics_urls,
        tls=tls,
        metrics_tls=_metrics_tls(tls, given.listen_metrics_urls),
        max_streams=given.max_concurrent_streams,
        keepalive=Keepalive(
            interval=given.grpc_keepalive_interval,
            timeout=given.grpc_keepalive_timeout,
            min_time=given.grpc_keepalive_min_time,
        ),
    )
    compaction = autocompact.parse(given.auto_compaction_mode, given.auto_compaction_retention)
    return EtcdServer(
        data_dir, _settings(given), listen, lambda machine: Consensus(config, machine), compaction=compaction
    )


def _metrics_tls(tls: ServerTLS | None, urls: Sequence[str]) -> ssl.SSLContext | None:
    if not any(url.startswith("https:") for url in urls):
        return None
    if tls is None:
        raise ConfigurationError("--listen-metrics-urls: https needs --cert-file and --key-file")
    return tlsutil.server_context(tls.cert, tls.key, tls.ca, tls.require_client)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


def main(argv: Sequence[str]) -> int:
    """Run one member until SIGTERM; the exit status."""
    given = _declare().parse(argv, os.environ)
    log.setup("etcdlite", verbosity=4 if given.log_level == "debug" else 0)
    faulthandler.enable()  # a page of the mapped database that cannot be read kills: say where

    refused = False

    async def serve() -> None:
        nonlocal refused
        try:
            server = build(given)
        except (ConfigurationError, DatabaseDamaged, OSError, ValueError) as error:
            print(f"etcdlite: {error}", file=sys.stderr)
            refused = True
            return
        try:
            await server.run()
        except ExceptionGroup as failures:
            refusals, others = failures.split((ConfigurationError, WalCorrupt, DatabaseDamaged))
            if refusals is None or others is not None:
                raise
            for reason in _leaves(refusals):
                print(f"etcdlite: {reason}", file=sys.stderr)
            refused = True

    status = tasks.run(serve)
    return 1 if refused else status
