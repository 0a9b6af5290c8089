"""The gRPC front: which method of which service is answered by what, errors to codes, and TLS.

Answers arrive here encoded already, so the wire gets bytes. A method of the API that nothing answers is
refused by name.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError

from componentbase import tlsutil
from componentbase.grpcwire.server import Caller, Conversation, Method, Server, Streaming, Unary
from componentbase.grpcwire.status import Code, RpcError
from etcdlite.mvcc.errors import StoreError
from etcdlite.pb import health_pb2, rpc_pb2, v3election_pb2, v3lock_pb2
from etcdlite.server import errors
from etcdlite.server.authn import Auth
from etcdlite.server.cluster import Cluster, Maintenance
from etcdlite.server.context import Credentials, Member, credentials
from etcdlite.server.coordination import Election, Lock
from etcdlite.server.kv import KV, Lease
from etcdlite.server.watching import WatchService

UnaryMethod = Callable[[Any], Awaitable[bytes]]

_OVERHEAD_BYTES: Final = 512 * 1024  # etcd's grpcOverheadBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTLS:
    """PEM files of the client port. `require_client` refuses clients without a certificate of `ca`."""

    cert: Path
    key: Path = field(repr=False)
    ca: Path | None = None
    require_client: bool = False

    def context(self) -> ssl.SSLContext:
        """Read the files. Raises OSError."""
        ca = self.ca if self.require_client else None
        return tlsutil.server_context(self.cert, self.key, ca, self.require_client)


_MODULES: Final = {"etcdserverpb": rpc_pb2, "v3electionpb": v3election_pb2, "v3lockpb": v3lock_pb2}


def _message(descriptor: Any) -> Any:
    return getattr(_MODULES[descriptor.file.package], descriptor.name)


class _Gate:
    """What every call passes: it is told who asks, and a learner turns away what it cannot answer."""

    def __init__(self, member: Member, *, trust_certificates: bool) -> None:
        self._member, self._trust_certificates = member, trust_certificates

    def enter(self, method: str, request: Any, call: Caller) -> None:
        """Raises NotSupportedForLearner."""
        if self._member.machine.auth.enabled:
            credentials.set(self._credentials(call))
        if self._member.is_learner and not _learners_too(method, request):
            raise errors.NotSupportedForLearner

    def _credentials(self, call: Caller) -> Credentials:
        metadata = dict(call.metadata)
        token = metadata.get("token") or metadata.get("authorization") or ""
        name = call.common_name if self._trust_certificates and not token else ""
        return Credentials(str(token), name)


def _learners_too(method: str, request: Any) -> bool:
    """A learner may be behind: it tells its status, and what it has to who wants no more than that."""
    if method == "KV/Range":
        return bool(request.serializable)
    return method in ("Maintenance/Status", "Maintenance/Snapshot")


def _refusal(error: StoreError) -> RpcError:
    return RpcError(errors.WIRE[type(error)], error.text)


def _decode(request_type: Any, message: bytes) -> Any:
    try:
        return request_type.FromString(message)
    except DecodeError as error:
        raise RpcError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from None


def _unary(gate: _Gate, name: str, method: UnaryMethod, request_type: Any) -> Unary:
    async def handle(message: bytes, call: Caller) -> bytes:
        request = _decode(request_type, message)
        try:
            gate.enter(name, request, call)
            return await method(request)
        except StoreError as error:
            raise _refusal(error) from None

    return Unary(handle)


def _server_stream(
    gate: _Gate, name: str, method: Callable[[Any], AsyncIterator[bytes]], request_type: Any
) -> Streaming:
    async def handle(call: Conversation) -> None:
        request = _decode(request_type, await call.read() or b"")
        try:
            gate.enter(name, request, call)
            async with aclosing(method(request)) as responses:  # type: ignore[type-var]
                async for response in responses:
                    await call.write(response)
        except StoreError as error:
            raise _refusal(error) from None

    return Streaming(handle)


def _streams(
    gate: _Gate, name: str, method: Callable[[AsyncIterator[Any]], AsyncIterator[bytes]], request_type: Any
) -> Streaming:
    async def requests(call: Conversation) -> AsyncIterator[Any]:
        while (message := await call.read()) is not None:
            yield _decode(request_type, message)

    async def handle(call: Conversation) -> None:
        try:
            gate.enter(name, None, call)
            async with aclosing(method(requests(call))) as responses:  # type: ignore[type-var]
                async for response in responses:
                    await call.write(response)
        except StoreError as error:
            raise _refusal(error) from None

    return Streaming(handle)


def _watch(gate: _Gate, service: WatchService) -> Streaming:
    async def handle(call: Conversation) -> None:
        try:
            gate.enter("Watch/Watch", None, call)
            await service.watch(call, require_leader=("hasleader", "true") in call.metadata)
        except StoreError as error:
            raise _refusal(error) from None

    return Streaming(handle)


def _refused(name: str) -> UnaryMethod:
    async def refuse(_request: Any) -> bytes:
        raise errors.NotSupported(name)

    return refuse


def _unary_methods(member: Member) -> Mapping[str, UnaryMethod]:
    """What answers which method of one request and one answer, by `Service/Method`."""
    kv, lease, cluster = KV(member), Lease(member), Cluster(member)
    maintenance, auth = Maintenance(member), Auth(member)
    election, lock = Election(member), Lock(member)
    return {
        "KV/Range": kv.range,
        "KV/Put": kv.put,
        "KV/DeleteRange": kv.delete_range,
        "KV/Txn": kv.txn,
        "KV/Compact": kv.compact,
        "Lease/LeaseGrant": lease.grant,
        "Lease/LeaseRevoke": lease.revoke,
        "Lease/LeaseTimeToLive": lease.time_to_live,
        "Lease/LeaseLeases": lease.leases,
        "Cluster/MemberList": cluster.member_list,
        "Cluster/MemberAdd": cluster.add,
        "Cluster/MemberRemove": cluster.remove,
        "Cluster/MemberUpdate": cluster.update,
        "Cluster/MemberPromote": cluster.promote,
        "Maintenance/Alarm": maintenance.alarm,
        "Maintenance/Status": maintenance.status,
        "Maintenance/Defragment": maintenance.defragment,
        "Maintenance/Hash": maintenance.hash,
        "Maintenance/HashKV": maintenance.hash_kv,
        "Maintenance/MoveLeader": maintenance.move_leader,
        "Election/Campaign": election.campaign,
        "Election/Proclaim": election.proclaim,
        "Election/Leader": election.leader,
        "Election/Resign": election.resign,
        "Lock/Lock": lock.lock,
        "Lock/Unlock": lock.unlock,
        **_auth_methods(auth),
    }


def _auth_methods(auth: Auth) -> Mapping[str, UnaryMethod]:
    return {
        "Auth/AuthEnable": auth.enable,
        "Auth/AuthDisable": auth.disable,
        "Auth/AuthStatus": auth.status,
        "Auth/Authenticate": auth.authenticate,
        "Auth/UserAdd": auth.user_add,
        "Auth/UserGet": auth.user_get,
        "Auth/UserList": auth.user_list,
        "Auth/UserDelete": auth.user_delete,
        "Auth/UserChangePassword": auth.user_change_password,
        "Auth/UserGrantRole": auth.user_grant_role,
        "Auth/UserRevokeRole": auth.user_revoke_role,
        "Auth/RoleAdd": auth.role_add,
        "Auth/RoleGet": auth.role_get,
        "Auth/RoleList": auth.role_list,
        "Auth/RoleDelete": auth.role_delete,
        "Auth/RoleGrantPermission": auth.role_grant_permission,
        "Auth/RoleRevokePermission": auth.role_revoke_permission,
    }


def methods(member: Member, watch: WatchService, tls: ServerTLS | None) -> dict[str, Method]:
    """What answers each method, by its path. What of the API nothing answers is refused by name."""
    gate = _Gate(member, trust_certificates=tls is not None and tls.require_client)
    unary = _unary_methods(member)
    found: dict[str, Method] = {}
    for module in _MODULES.values():
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                name = f"{service.name}/{method.name}"
                answer = unary.get(name) or _refused(name)
                path = f"/{service.full_name}/{method.name}"
                found[path] = _unary(gate, name, answer, _message(method.input_type))
    return found | {
        "/etcdserverpb.Watch/Watch": _watch(gate, watch),
        "/etcdserverpb.Lease/LeaseKeepAlive": _streams(
            gate, "Lease/LeaseKeepAlive", Lease(member).keep_alive, rpc_pb2.LeaseKeepAliveRequest
        ),
        "/etcdserverpb.Maintenance/Snapshot": _server_stream(
            gate, "Maintenance/Snapshot", Maintenance(member).snapshot, rpc_pb2.SnapshotRequest
        ),
        "/v3electionpb.Election/Observe": _server_stream(
            gate, "Election/Observe", Election(member).observe, v3election_pb2.LeaderRequest
        ),
        "/grpc.health.v1.Health/Check": _health(member),
    }


def _health(member: Member) -> Unary:
    states = health_pb2.HealthCheckResponse.ServingStatus

    async def check(message: bytes, _call: Caller) -> bytes:
        request = _decode(health_pb2.HealthCheckRequest, message)
        if request.service not in ("", "etcdserverpb.Health"):
            raise RpcError(Code.NOT_FOUND, "unknown service")
        serving = member.requests.consensus.status().leader_id != 0
        status = states.SERVING if serving else states.NOT_SERVING
        return health_pb2.HealthCheckResponse(status=status).SerializeToString()

    return Unary(check)


def max_message(member: Member) -> int:
    """Bytes of the largest message that a client may send."""
    return member.settings.max_request_bytes + _OVERHEAD_BYTES


async def listen(server: Server, urls: Sequence[str], tls: ServerTLS | None) -> None:
    """Serve at the client URLs. Raises OSError when an address cannot be had, ValueError when a URL asks for
    TLS and there are no files for it.
    """
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"--listen-client-urls: scheme of {url!r} is not supported")
        if parts.scheme == "https" and tls is None:
            raise ValueError(f"--listen-client-urls: {url!r} needs --cert-file and --key-file")
        context = tls.context() if parts.scheme == "https" and tls is not None else None
        try:
            await server.listen(parts.hostname or "", parts.port or 2379, context)
        except OSError as error:
            raise OSError(f"cannot listen on {url}: {error}") from error
