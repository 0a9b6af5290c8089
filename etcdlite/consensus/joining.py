"""Who am I? What a member finds out before it takes part: from its log, from its flags, or from its peers.

log there         the log says. With "new", the flags must belong to the same cluster.
"new", no log     a founder: both ids follow from the flags. Peers that know this member as one that has run
                  already mean that its data is lost, and with it its vote: it must not start again.
"existing"        the peers are asked; the member finds itself among theirs by its peer URLs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from componentbase.backoff import Backoff
from etcdlite.consensus import transport, wire
from etcdlite.consensus.config import ConsensusConfig
from etcdlite.consensus.engine import Engine
from etcdlite.consensus.errors import BadChange, ConfigurationError
from etcdlite.consensus.membership import Member, Membership, cluster_id, member_id
from etcdlite.consensus.transport import Identity
from etcdlite.pb import raft_pb2 as pb
from etcdlite.raft.types import NodeId, Role
from etcdlite.wal.codec import Metadata

JOIN_SECONDS = 15.0  # how long a member that joins looks for one that answers
LOOK_SECONDS = 1.0  # how long a founder looks for a cluster that exists already
READY_PERCENT = 90  # of the leader's log, for a learner to be promoted (etcd's readyPercent)
NOT_READY = "can only promote a learner member which is in sync with leader"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """A member's place: its ids, and the members it was told of (empty if the log knows better)."""

    identity: Identity
    told: Membership = field(default_factory=lambda: Membership({}))


def founders(config: ConsensusConfig) -> Place:
    """The place that the flags describe."""
    urls = config.initial_cluster.get(config.name)
    if not urls:
        raise ConfigurationError(
            f"couldn't find local name {config.name!r} in the initial cluster configuration"
        )
    token = config.initial_cluster_token
    identity = Identity(cluster_id(config.initial_cluster, token), member_id(urls, token))
    return Place(identity, Membership.initial(config.initial_cluster, token))


async def find(config: ConsensusConfig, owner: Metadata | None) -> Place:
    """This member's place; `owner` is what the log says. Raises ConfigurationError."""
    if config.initial_cluster_state not in ("new", "existing"):
        raise ConfigurationError(f"unknown --initial-cluster-state {config.initial_cluster_state!r}")
    if owner is not None:
        return Place(Identity(owner.cluster_id, NodeId(owner.member_id)))
    if config.force_new_cluster:
        raise ConfigurationError("--force-new-cluster needs the data directory of a member")
    if config.initial_cluster_state == "existing":
        return _among(await told(config, JOIN_SECONDS), config)
    place = founders(config)
    await _refuse_lost_data(config, place.identity)
    return place


async def told(config: ConsensusConfig, seconds: float) -> Place:
    """What the peers say, whoever answers first; without a member id. Raises ConfigurationError."""
    urls = [u for name, each in config.initial_cluster.items() if name != config.name for u in each]
    if not urls:
        raise ConfigurationError("--initial-cluster names no member that could be asked about the cluster")
    backoff, reasons = Backoff(0.1, 1.0), dict[str, str]()
    try:
        async with asyncio.timeout(seconds):
            while True:
                for url in urls:
                    try:
                        answer = await transport.ask(url, pb.Hello(ask_members=True), config.peer_client_tls)
                    except OSError as reason:  # includes TimeoutError and ssl.SSLError
                        reasons[url] = str(reason) or type(reason).__name__
                        continue
                    membership = wire.from_membership(answer.membership)
                    if membership.members:
                        return Place(Identity(answer.cluster_id, NodeId(0)), membership)
                    reasons[url] = "it knows no members yet"
                await asyncio.sleep(backoff.next())
    except TimeoutError:
        said = "; ".join(f"{url}: {reason}" for url, reason in reasons.items()) or "no answer"
        raise ConfigurationError(f"cannot fetch cluster info from peer urls: {said}") from None


def _among(place: Place, config: ConsensusConfig) -> Place:
    wanted = sorted(config.initial_cluster[config.name])
    members = place.told.members.values()
    own = next((member for member in members if sorted(member.peer_urls) == wanted), None)
    if own is None:
        known = ", ".join(f"{member.name or member.id}={','.join(member.peer_urls)}" for member in members)
        raise ConfigurationError(
            f"no member with the peer URLs {','.join(wanted)} in the cluster ({known}): add it first"
            " (etcdctl member add)"
        )
    _refuse_bootstrapped(own)
    return Place(Identity(place.identity.cluster_id, NodeId(own.id)), place.told)


async def _refuse_lost_data(config: ConsensusConfig, identity: Identity) -> None:
    if len(config.initial_cluster) == 1:
        return
    try:
        found = await told(config, LOOK_SECONDS)
    except ConfigurationError as reason:
        log.debug("no cluster yet: %s", reason)
        return
    own = found.told.members.get(identity.member_id)
    if own is not None:
        _refuse_bootstrapped(own)


def _refuse_bootstrapped(own: Member) -> None:
    if own.client_urls:
        raise ConfigurationError(
            f"member {own.id:x} has already been bootstrapped, and its data is not here; a member that has"
            " lost its data must be removed from the cluster and added anew"
        )


def check_log(config: ConsensusConfig, engine: Engine, identity: Identity) -> None:
    """Refuse a log of another member or cluster than the flags of a new cluster describe.

    After membership changes the flags may be older or newer than the log; then a member of the log that was
    founded under the same token must vouch for the cluster, and name or peer URL for the member. Raises
    ConfigurationError.
    """
    given = founders(config)
    if config.initial_cluster_state != "new" or given.identity == identity:
        return
    members = engine.foreseen.members
    own = members.get(identity.member_id)
    mine = own is not None and (
        own.name == config.name or bool(set(own.peer_urls) & set(config.initial_cluster[config.name]))
    )
    token = config.initial_cluster_token
    if not mine or not any(member_id(member.peer_urls, token) == member.id for member in members.values()):
        raise ConfigurationError(
            f"the data directory belongs to member {identity.member_id:x} of cluster {identity.cluster_id:x},"
            f" not to member {given.identity.member_id:x} of cluster {given.identity.cluster_id:x}"
        )


def answer(question: pb.Hello, engine: Engine | None, identity: Identity) -> pb.Welcome:
    """What this member answers to a peer's question."""
    if engine is None:
        return pb.Welcome(refused="the member is not running yet")
    if question.ask_members:
        membership = engine.membership if engine.membership.members else engine.foreseen
        return pb.Welcome(
            cluster_id=identity.cluster_id,
            membership=pb.Membership.FromString(wire.encode_membership(membership)),
        )
    if engine.node.raft.role is not Role.LEADER:
        return pb.Welcome(refused="not the leader")
    return pb.Welcome(refused="" if is_ready(engine, question.ask_ready) else NOT_READY)


def is_ready(engine: Engine, learner: int) -> bool:
    """Whether a learner's log, as this leader knows it, has come near enough to become a voter's."""
    progress = engine.node.raft.progress
    own, theirs = progress.get(engine.config.raft.id), progress.get(NodeId(learner))
    return own is not None and theirs is not None and theirs.match * 100 > own.match * READY_PERCENT


async def check_ready(engine: Engine, learner: int, config: ConsensusConfig) -> None:
    """Ask the leader, who may be this member, about a learner. Raises BadChange when it is not ready."""
    raft = engine.node.raft
    if raft.role is Role.LEADER:
        if not is_ready(engine, learner):
            raise BadChange(NOT_READY)
        return
    leader = engine.membership.members.get(raft.leader)
    urls: Sequence[str] = leader.peer_urls if leader is not None else ()
    for url in urls:
        try:
            await transport.ask(url, pb.Hello(ask_ready=learner), config.peer_client_tls)
        except ConnectionRefusedError as reason:
            if str(reason) == NOT_READY:
                raise BadChange(NOT_READY) from None
        except OSError:
            continue
        else:
            return
    raise BadChange(NOT_READY)  # nobody could vouch for it
