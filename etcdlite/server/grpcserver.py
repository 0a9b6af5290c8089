"""The gRPC front: which method of which service is answered by what, errors to codes, and TLS.

Answers arrive here encoded already, so gRPC gets bytes. A method of the API that nothing answers is refused
by name.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
import grpc.aio

from etcdlite.mvcc.errors import StoreError
from etcdlite.pb import health_pb2, rpc_pb2, v3election_pb2, v3lock_pb2
from etcdlite.server import errors
from etcdlite.server.authn import Auth
from etcdlite.server.cluster import Cluster, Maintenance
from etcdlite.server.context import Credentials, Member, credentials
from etcdlite.server.coordination import Election, Lock
from etcdlite.server.kv import KV, Lease
from etcdlite.server.watching import WatchService

log = logging.getLogger(__name__)

Unary = Callable[[Any], Awaitable[bytes]]

_OVERHEAD_BYTES: Final = 512 * 1024  # etcd's grpcOverheadBytes
_STATUS: Final = grpc.StatusCode


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTLS:
    """PEM files of the client port. `require_client` refuses clients without a certificate of `ca`."""

    cert: Path
    key: Path = field(repr=False)
    ca: Path | None = None
    require_client: bool = False

    def credentials(self) -> grpc.ServerCredentials:
        """Read the files. Raises OSError."""
        return grpc.ssl_server_credentials(
            [(self.key.read_bytes(), self.cert.read_bytes())],
            root_certificates=self.ca.read_bytes() if self.ca else None,
            require_client_auth=self.require_client,
        )


_MODULES: Final = {"etcdserverpb": rpc_pb2, "v3electionpb": v3election_pb2, "v3lockpb": v3lock_pb2}


def _message(descriptor: Any) -> Any:
    return getattr(_MODULES[descriptor.file.package], descriptor.name)


class _Gate:
    """What every call passes: it is told who asks, and a learner turns away what it cannot answer."""

    def __init__(self, member: Member, *, trust_certificates: bool) -> None:
        self._member, self._trust_certificates = member, trust_certificates

    def enter(self, method: str, request: Any, context: Any) -> None:
        """Raises NotSupportedForLearner."""
        if self._member.machine.auth.enabled:
            credentials.set(self._credentials(context))
        if self._member.is_learner and not _learners_too(method, request):
            raise errors.NotSupportedForLearner

    def _credentials(self, context: Any) -> Credentials:
        metadata = dict(context.invocation_metadata() or ())
        token = metadata.get("token") or metadata.get("authorization") or ""
        names = context.auth_context().get("x509_common_name", ()) if self._trust_certificates else ()
        return Credentials(str(token), names[0].decode() if names and not token else "")


def _learners_too(method: str, request: Any) -> bool:
    """A learner may be behind: it tells its status, and what it has to who wants no more than that."""
    if method == "KV/Range":
        return bool(request.serializable)
    return method in ("Maintenance/Status", "Maintenance/Snapshot")


def _unary(gate: _Gate, name: str, method: Unary, request_type: Any) -> Any:
    async def handle(request: Any, context: Any) -> bytes:
        try:
            gate.enter(name, request, context)
            return await method(request)
        except StoreError as error:
            await context.abort(errors.WIRE[type(error)], error.text)
            raise  # abort has raised already; this tells the type checker so

    return grpc.unary_unary_rpc_method_handler(handle, request_deserializer=request_type.FromString)


def _server_stream(
    gate: _Gate, name: str, method: Callable[[Any], AsyncIterator[bytes]], request_type: Any
) -> Any:
    async def handle(request: Any, context: Any) -> AsyncIterator[bytes]:
        try:
            gate.enter(name, request, context)
            async for response in method(request):
                yield response
        except StoreError as error:
            await context.abort(errors.WIRE[type(error)], error.text)

    return grpc.unary_stream_rpc_method_handler(handle, request_deserializer=request_type.FromString)


def _streams(
    gate: _Gate, name: str, method: Callable[[AsyncIterator[Any]], AsyncIterator[bytes]], request_type: Any
) -> Any:
    async def handle(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        try:
            gate.enter(name, None, context)
            async for response in method(requests):
                yield response
        except StoreError as error:
            await context.abort(errors.WIRE[type(error)], error.text)

    return grpc.stream_stream_rpc_method_handler(handle, request_deserializer=request_type.FromString)


def _watch(gate: _Gate, service: WatchService) -> Any:
    async def handle(_requests: Any, context: Any) -> None:
        wanted = ("hasleader", "true") in [(key, value) for key, value in context.invocation_metadata() or ()]
        try:
            gate.enter("Watch/Watch", None, context)
            await service.watch(context, require_leader=wanted)
        except StoreError as error:
            await context.abort(errors.WIRE[type(error)], error.text)

    deserializer = rpc_pb2.WatchRequest.FromString
    return grpc.stream_stream_rpc_method_handler(handle, request_deserializer=deserializer)


def _refused(name: str) -> Unary:
    async def refuse(_request: Any) -> bytes:
        raise errors.NotSupported(name)

    return refuse


def _unary_methods(member: Member) -> Mapping[str, Unary]:
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


def _auth_methods(auth: Auth) -> Mapping[str, Unary]:
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


def _answered(member: Member, watch: WatchService, gate: _Gate) -> Mapping[str, dict[str, Any]]:
    """Handlers by full service name and method. What of the API nothing answers is refused by name."""
    unary = _unary_methods(member)
    handlers: dict[str, dict[str, Any]] = {}
    for module in _MODULES.values():
        for service in module.DESCRIPTOR.services_by_name.values():
            methods = handlers[service.full_name] = {}
            for method in service.methods:
                name = f"{service.name}/{method.name}"
                answer = unary.get(name) or _refused(name)
                methods[method.name] = _unary(gate, name, answer, _message(method.input_type))
    api = "etcdserverpb."
    handlers[f"{api}Watch"]["Watch"] = _watch(gate, watch)
    handlers[f"{api}Lease"]["LeaseKeepAlive"] = _streams(
        gate, "Lease/LeaseKeepAlive", Lease(member).keep_alive, rpc_pb2.LeaseKeepAliveRequest
    )
    handlers[f"{api}Maintenance"]["Snapshot"] = _server_stream(
        gate, "Maintenance/Snapshot", Maintenance(member).snapshot, rpc_pb2.SnapshotRequest
    )
    handlers["v3electionpb.Election"]["Observe"] = _server_stream(
        gate, "Election/Observe", Election(member).observe, v3election_pb2.LeaderRequest
    )
    return handlers


def _health(member: Member) -> Any:
    async def check(request: Any, context: Any) -> Any:
        if request.service not in ("", "etcdserverpb.Health"):
            await context.abort(_STATUS.NOT_FOUND, "unknown service")
        serving = member.requests.consensus.status().leader_id != 0
        states = health_pb2.HealthCheckResponse.ServingStatus
        return health_pb2.HealthCheckResponse(status=states.SERVING if serving else states.NOT_SERVING)

    handler = grpc.unary_unary_rpc_method_handler(
        check,
        request_deserializer=health_pb2.HealthCheckRequest.FromString,
        response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler})


def build_server(
    member: Member, watch: WatchService, listen_urls: Sequence[str], tls: ServerTLS | None
) -> grpc.aio.Server:
    """A server bound to the client URLs, not started. Raises OSError when an address cannot be had,
    ValueError when a URL asks for TLS and there are no files for it.
    """
    limit = member.settings.max_request_bytes + _OVERHEAD_BYTES
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.max_concurrent_streams", 1_000_000),
        )
    )
    gate = _Gate(member, trust_certificates=tls is not None and tls.require_client)
    services = [
        grpc.method_handlers_generic_handler(service, handlers)
        for service, handlers in _answered(member, watch, gate).items()
    ]
    server.add_generic_rpc_handlers((*services, _health(member)))
    for url in listen_urls:
        _bind(server, url, tls)
    return server


def _bind(server: grpc.aio.Server, url: str, tls: ServerTLS | None) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"--listen-client-urls: scheme of {url!r} is not supported")
    if parts.scheme == "https" and tls is None:
        raise ValueError(f"--listen-client-urls: {url!r} needs --cert-file and --key-file")
    try:
        if parts.scheme == "https" and tls is not None:
            server.add_secure_port(parts.netloc, tls.credentials())
        else:
            server.add_insecure_port(parts.netloc)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {url}: {error}") from error
