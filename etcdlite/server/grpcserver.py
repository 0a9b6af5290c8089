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
from etcdlite.pb import health_pb2, rpc_pb2
from etcdlite.server import errors
from etcdlite.server.cluster import Auth, Cluster, Maintenance
from etcdlite.server.context import Member
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


def _message(descriptor: Any) -> Any:
    return getattr(rpc_pb2, descriptor.name)


def _unary(method: Unary, request_type: Any) -> Any:
    async def handle(request: Any, context: Any) -> bytes:
        try:
            return await method(request)
        except StoreError as error:
            await context.abort(errors.WIRE[type(error)], error.text)
            raise  # abort has raised already; this tells the type checker so

    return grpc.unary_unary_rpc_method_handler(handle, request_deserializer=request_type.FromString)


def _server_stream(method: Callable[[Any], AsyncIterator[bytes]], request_type: Any) -> Any:
    async def handle(request: Any, context: Any) -> AsyncIterator[bytes]:
        try:
            async for response in method(request):
                yield response
        except StoreError as error:
            await context.abort(errors.WIRE[type(error)], error.text)

    return grpc.unary_stream_rpc_method_handler(handle, request_deserializer=request_type.FromString)


def _streams(method: Callable[[AsyncIterator[Any]], AsyncIterator[bytes]], request_type: Any) -> Any:
    async def handle(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        try:
            async for response in method(requests):
                yield response
        except StoreError as error:
            await context.abort(errors.WIRE[type(error)], error.text)

    return grpc.stream_stream_rpc_method_handler(handle, request_deserializer=request_type.FromString)


def _watch(service: WatchService) -> Any:
    async def handle(_requests: Any, context: Any) -> None:
        wanted = ("hasleader", "true") in [(key, value) for key, value in context.invocation_metadata() or ()]
        try:
            await service.watch(context, require_leader=wanted)
        except StoreError as error:
            await context.abort(errors.WIRE[type(error)], error.text)

    deserializer = rpc_pb2.WatchRequest.FromString
    return grpc.stream_stream_rpc_method_handler(handle, request_deserializer=deserializer)


def _refused(name: str) -> Unary:
    async def refuse(_request: Any) -> bytes:
        raise errors.NotSupported(name)

    return refuse


def _answered(member: Member, watch: WatchService) -> Mapping[str, Any]:
    """Everything the API's methods do here, by `Service/Method`."""
    kv, lease, cluster = KV(member), Lease(member), Cluster(member)
    maintenance, auth = Maintenance(member), Auth(member)
    unary: dict[str, Unary] = {
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
        "Auth/AuthStatus": auth.status,
        "Auth/AuthDisable": auth.disable,
        "Auth/Authenticate": auth.authenticate,
    }
    handlers: dict[str, Any] = {}
    for name, service in rpc_pb2.DESCRIPTOR.services_by_name.items():
        for method in service.methods:
            full = f"{name}/{method.name}"
            handlers[full] = _unary(unary.get(full) or _refused(full), _message(method.input_type))
    handlers["Watch/Watch"] = _watch(watch)
    handlers["Lease/LeaseKeepAlive"] = _streams(lease.keep_alive, rpc_pb2.LeaseKeepAliveRequest)
    handlers["Maintenance/Snapshot"] = _server_stream(maintenance.snapshot, rpc_pb2.SnapshotRequest)
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
    by_service: dict[str, dict[str, Any]] = {}
    for full, handler in _answered(member, watch).items():
        service, _, method = full.partition("/")
        by_service.setdefault(service, {})[method] = handler
    services = [
        grpc.method_handlers_generic_handler(f"etcdserverpb.{service}", handlers)
        for service, handlers in by_service.items()
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
