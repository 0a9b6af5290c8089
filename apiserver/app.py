"""The apiserver from top to bottom: flags, the store, the cache, who may what, the registry, the chain, the
listener.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from apimachinery import errors
from apimachinery.scheme import Scheme
from apiserver import options
from apiserver.admission import plugins
from apiserver.aggregation.controller import Aggregator
from apiserver.aggregation.remote import ProxyIdentity
from apiserver.auth import tokens
from apiserver.auth.authenticate import Authenticates, Authenticator, FrontProxy
from apiserver.auth.authorize import AlwaysAllow, AlwaysDeny, Authorizer, Union
from apiserver.auth.legacytokens import LastUses, LegacyTokens
from apiserver.auth.node import NodeAuthorizer
from apiserver.auth.rbac import RBAC
from apiserver.bootstrap.hooks import Bootstrap
from apiserver.extensions.controller import CustomResources
from apiserver.flowcontrol.controller import FlowConfiguration
from apiserver.kinds import SCHEME
from apiserver.registry.addresses import ready_ranges
from apiserver.registry.allocation import ServiceAllocator
from apiserver.registry.reading import relative_key
from apiserver.registry.registry import Registry, Settings
from apiserver.registry.subresources import Subresources
from apiserver.rest import discovery, kubelet, reviews, shell
from apiserver.rest.audit import AuditLog
from apiserver.rest.chain import Chain
from apiserver.rest.componentstatus import BESIDE, ComponentStatuses, Unhealthy, over_https
from apiserver.rest.flow import FlowControl
from apiserver.rest.openapi import OpenApi
from apiserver.rest.proxy import BackendProxy
from apiserver.rest.resources import Asked, Resources
from apiserver.rest.tokenrequest import TokenRequests
from apiserver.rest.verbs import Verbs
from apiserver.rest.watch import Watches
from apiserver.storage import transform
from apiserver.storage.cacher import Cacher
from apiserver.storage.compactor import compact_forever
from apiserver.storage.etcd import EtcdStore
from apiserver.storage.interface import PREFIX, StorageError, Store
from componentbase import log, tasks, tlsutil
from componentbase.health import Health
from componentbase.http.server import serve
from etcdlite.client import EtcdClient

logger = logging.getLogger("apiserver.app")

SHUTDOWN_GRACE = 10.0
LEAVE_SECONDS = 2.0


class Server:
    """One apiserver over any store; what tests put together too."""

    def __init__(self, values: Any, store: Store, authenticator: Authenticates | None = None) -> None:
        self.values = values
        self.store = store
        self.scheme = Scheme(SCHEME)  # its own: custom resources come and go
        self.cacher = Cacher(store, self.scheme)
        self.watches = Watches()
        self.rbac = RBAC(self.cacher, self.scheme)
        self.authorizer = Union([self._authorizer(mode) for mode in values.authorization_mode])
        self.settings = Settings(event_ttl=int(values.event_ttl))
        self.registry = Registry(
            store,
            self.cacher,
            allocators={
                "services": ServiceAllocator(
                    store,
                    values.service_cluster_ip_range,
                    values.service_node_port_range,
                    lambda default: ready_ranges(self.cacher, self.scheme, default),
                )
            },
            settings=self.settings,
        )
        self.registry.admission = plugins.build(
            values.enable_admission_plugins, values.disable_admission_plugins, self._admission_context()
        )
        self.verifier = self._verifier()
        self.bootstrap = Bootstrap(self.registry, self.scheme, store, values)
        self.health = self._health()
        self.app = self._app(authenticator or self._authenticator())

    def _admission_context(self) -> plugins.Context:
        return plugins.Context(
            self.cacher, self.registry, self.scheme, self.authorizer, self.rbac, self.values.allow_privileged
        )

    def _authorizer(self, mode: str) -> Authorizer:
        if mode == "RBAC":
            return self.rbac
        if mode == "Node":
            return NodeAuthorizer(self.cacher, self.scheme, self.rbac)
        return AlwaysAllow() if mode == "AlwaysAllow" else AlwaysDeny()

    def _verifier(self) -> tokens.Verifier | None:
        values = self.values
        files = values.service_account_key_file or [
            name for name in [values.service_account_signing_key_file] if name
        ]
        if not files or not values.service_account_issuer:
            return None
        self.token_keys = [key for name in files for key in tokens.load_public_keys(name)]
        audiences = values.api_audiences or values.service_account_issuer
        secrets = self.scheme.resource("", "v1", "secrets")
        assert secrets is not None
        self.last_uses = LastUses(self.registry, secrets)
        legacy = LegacyTokens(self.token_keys, self._find, self.last_uses.note)
        return tokens.Verifier(
            values.service_account_issuer, self.token_keys, audiences, self._find_uid, legacy=legacy.user
        )

    def _find(self, resource: str, namespace: str, name: str) -> dict[str, Any] | None:
        kind = self.scheme.resource("", "v1", resource)
        entry = self.cacher.of(kind).get(relative_key(kind, namespace, name)) if kind else None
        return entry.decoded() if entry else None

    def _find_uid(self, resource: str, namespace: str, name: str) -> str:
        found = self._find(resource, namespace, name)
        return str(found["metadata"]["uid"]) if found else ""

    def _authenticator(self) -> Authenticator:
        values, proxy = self.values, None
        if values.requestheader_client_ca_file:
            proxy = FrontProxy(
                Path(values.requestheader_client_ca_file).read_bytes(),
                values.requestheader_allowed_names,
                [name.lower() for name in values.requestheader_username_headers],
                [name.lower() for name in values.requestheader_group_headers],
                [name.lower() for name in values.requestheader_extra_headers_prefix],
            )
        authority = Path(values.client_ca_file).read_bytes() if values.client_ca_file else None
        check = self.verifier.user if self.verifier else None
        return Authenticator(authority, proxy, check, values.anonymous_auth)

    def _components(self) -> ComponentStatuses:
        async def store() -> str:
            try:
                await self.store.current_revision()
            except StorageError as error:
                raise Unhealthy(str(error)) from error
            return "ok"

        beside = {name: over_https(port) for name, port in BESIDE.items()}
        return ComponentStatuses({**beside, "etcd-0": store})

    def _health(self) -> Health:
        health = Health()

        async def store_answers() -> None:
            await self.store.current_revision()

        def cache_listed() -> None:
            if not self.cacher.ready.is_set():
                raise RuntimeError("the first list of the store is not complete")

        def not_stopping() -> None:
            if self.watches.stopping:
                raise RuntimeError("shutting down")

        health.add("etcd", store_answers, live=False)
        health.add("informer-sync", cache_listed, live=False)
        for name in self.bootstrap.names:
            health.add(f"poststarthook/{name}", self.bootstrap.check(name), live=False)
        health.add("shutdown", not_stopping, live=False)
        return health

    def _app(self, authenticator: Authenticates) -> Chain:
        values, verbs = self.values, Verbs(self.registry, self.watches)
        asked = reviews.Reviews(self.authorizer, self.rbac, self.verifier)
        parts = Subresources(self.registry, verbs, self.scheme)
        virtual: dict[tuple[str, str, str], Asked] = {
            key: {"create": ask} for key, ask in asked.table().items()
        }
        virtual[("", "v1", "bindings")] = {"create": parts.bind_named}
        virtual[("", "v1", "componentstatuses")] = self._components().table()
        table = {**parts.table(), **self._node_proxy().table()}
        table.update(BackendProxy(self.registry, self.scheme).table())
        table[("", "serviceaccounts", "token")] = {"create": self._token_requests(verbs)}
        found = discovery.Discovery(
            self.scheme,
            reviews.EXTRAS,
            f"{values.advertise_address or values.bind_address}:{values.secure_port}",
        )
        openapi = OpenApi(self.scheme, found.group_versions, reviews.EXTRAS)
        identity = ProxyIdentity(values.proxy_client_cert_file, values.proxy_client_key_file)
        self.aggregator = Aggregator(self.registry, self.scheme, found.group_versions(), identity)
        found.elsewhere = openapi.elsewhere = self.aggregator
        self.aggregator.changed = openapi.forget_elsewhere
        self.custom_resources = CustomResources(self.registry, self.scheme, openapi)
        self.flow = FlowControl(values.max_requests_inflight, values.max_mutating_requests_inflight)
        self.flow_configuration = FlowConfiguration(self.registry, self.scheme, self.flow)
        inner = shell.build(self.health, found, openapi, self._key_documents if self.verifier else None)
        return Chain(
            inner,
            Resources(self.scheme, verbs, table, virtual, self.custom_resources.settle),
            authenticator=authenticator,
            authorizer=self.authorizer,
            flow=self.flow,
            audit=AuditLog(values.audit_log_path) if values.audit_log_path else None,
            impersonate=reviews.Impersonation(self.authorizer),
            elsewhere=self.aggregator.remote_of,
        )

    def _token_requests(self, verbs: Verbs) -> TokenRequests:
        values, issuer = self.values, None
        if values.service_account_signing_key_file:
            key = tokens.load_private_key(values.service_account_signing_key_file)
            issuer = tokens.Issuer(values.service_account_issuer[0], key, self.settings.now)
        audiences = values.api_audiences or values.service_account_issuer
        return TokenRequests(
            self.registry,
            verbs,
            self.scheme,
            issuer,
            audiences,
            int(values.service_account_max_token_expiration),
        )

    def _node_proxy(self) -> kubelet.NodeProxy:
        values, context = self.values, None
        if values.kubelet_client_certificate:
            context = tlsutil.client_context(
                values.kubelet_certificate_authority or None,
                values.kubelet_client_certificate,
                values.kubelet_client_key,
                insecure=not values.kubelet_certificate_authority,
            )
        return kubelet.NodeProxy(self.registry, self.scheme, context, values.kubelet_preferred_address_types)

    def _key_documents(self) -> tuple[Any, Any]:
        issuer = self.values.service_account_issuer[0]
        keys = tokens.key_set(self.token_keys)
        return {
            "issuer": issuer,
            "jwks_uri": f"{issuer}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key["alg"] for key in keys["keys"]}),
        }, keys

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The tasks behind the API: the cache, the post-start hooks, compaction."""
        async with asyncio.TaskGroup() as group:
            jobs = [
                group.create_task(self.cacher.run(), name="cacher"),
                group.create_task(self.bootstrap.run(), name="bootstrap"),
                group.create_task(self.custom_resources.run(), name="custom-resources"),
                group.create_task(self.aggregator.run(), name="aggregator"),
                group.create_task(self.flow_configuration.run(), name="flow-configuration"),
            ]
            if self.verifier is not None:
                jobs.append(group.create_task(self.last_uses.run(), name="token-last-uses"))
            if isinstance(self.store, EtcdStore) and self.values.etcd_compaction_interval:
                compaction = compact_forever(self.store, self.values.etcd_compaction_interval)
                jobs.append(group.create_task(compaction, name="compactor"))
            try:
                yield
            finally:
                for job in jobs:
                    job.cancel()


def key_transformer(transformers: transform.Transformers) -> Any:
    """The encryption of a storage key, found by the kind that lives there."""
    by_prefix = {kind.storage_prefix: transformers.of(kind.group_resource) for kind in reversed(list(SCHEME))}
    custom: dict[str, transform.Transformer] = {}

    def of(key: str) -> transform.Transformer:
        parts = key[len(PREFIX) :].split("/", 2)
        found = by_prefix.get("/".join(parts[:2])) or by_prefix.get(parts[0])
        if found is None and "." in parts[0] and len(parts) > 1:
            # A custom resource lives below <group>/<plural>.
            group_resource = f"{parts[1]}.{parts[0]}"
            found = custom.setdefault(group_resource, transformers.of(group_resource))
        return found or transform.PLAIN

    return of


def _tls(values: Any) -> ssl.SSLContext:
    """The listener's context; a client may show a certificate of any authority that says something here."""
    files = (values.client_ca_file, values.requestheader_client_ca_file)
    authorities = b"".join(Path(name).read_bytes() for name in files if name)
    return tlsutil.server_context(
        values.tls_cert_file,
        values.tls_private_key_file,
        authorities or None,
        report_unverified=bool(authorities),  # answered with a 401 Status instead of a broken handshake
    )


async def run(values: Any) -> None:
    """Serve until cancelled; then fail readyz, end the watches, finish what is in flight."""
    transformers = (
        transform.load(values.encryption_provider_config)
        if values.encryption_provider_config
        else transform.Transformers({})
    )
    credentials = [name or None for name in (values.etcd_cafile, values.etcd_certfile, values.etcd_keyfile)]
    context = _tls(values)
    async with EtcdClient(
        values.etcd_servers, ca=credentials[0], cert=credentials[1], key=credentials[2]
    ) as client:
        server = Server(values, EtcdStore(client, key_transformer(transformers)))
        async with server.running():
            await _serve(server, values, context)


async def _serve(server: Server, values: Any, context: ssl.SSLContext) -> None:
    def listening(port: int) -> None:
        logger.info("serving securely on %s:%s", values.bind_address, port)

    async with asyncio.TaskGroup() as group:
        listener = group.create_task(
            serve(
                server.app,
                host=values.bind_address,
                port=values.secure_port,
                ssl_context=context,
                shutdown_grace=SHUTDOWN_GRACE,
                on_listening=listening,
            ),
            name="listener",
        )
        try:
            await asyncio.shield(listener)
        except asyncio.CancelledError:
            server.watches.stopping = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await server.bootstrap.leave()
            await asyncio.sleep(values.shutdown_delay_duration)
            server.watches.stop()
            listener.cancel()
            raise


def main(argv: Sequence[str]) -> int:
    values = options.parse(argv)
    wrong = options.check(values)
    wrong += plugins.unknown(values.enable_admission_plugins, values.disable_admission_plugins)
    if wrong:
        for text in wrong:
            print(f"kube-apiserver: {text}", file=sys.stderr)
        return 2
    log.setup("apiserver", values.v)
    started = time.monotonic()
    code = tasks.run(lambda: run(values))
    logger.info("stopped after %.0f s", time.monotonic() - started)
    return code


__all__ = ["Server", "errors", "main", "run"]
