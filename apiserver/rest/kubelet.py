"""Requests that a node's kubelet answers: pods/log, exec, attach, portforward, nodes/proxy.

Upgrades are tunnelled, everything else is relayed as a stream (rest/relay.py). The kubelet's certificate is
always verified against its CA.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from apimachinery import errors
from apimachinery.scheme import Kind, Scheme
from apiserver.registry.registry import Registry
from apiserver.rest.message import Answer, Request, Stream
from apiserver.rest.relay import HOP_HEADERS, chunks, tunnel
from apiserver.rest.resources import Endpoint

Object = dict[str, Any]

DEFAULT_PORT = 10250
CONNECT_SECONDS = 10.0
UPGRADES = {"exec": "exec", "attach": "attach", "portforward": "portForward"}
LOG_PARAMETERS = frozenset(
    {
        "follow",
        "previous",
        "sinceSeconds",
        "sinceTime",
        "timestamps",
        "tailLines",
        "limitBytes",
        "insecureSkipTLSVerifyBackend",
        "stream",
    }
)


class NodeProxy:
    """`context` None: no kubelet client certificate is configured, so these subresources answer 501."""

    def __init__(
        self, registry: Registry, scheme: Scheme, context: ssl.SSLContext | None, address_types: Sequence[str]
    ) -> None:
        self._registry = registry
        self._scheme = scheme
        self._context = context
        self._address_types = list(address_types)

    def table(self) -> dict[tuple[str, str, str], Mapping[str, Endpoint]]:
        streams: Mapping[str, Endpoint] = {"get": self.stream, "create": self.stream}
        out: dict[tuple[str, str, str], Mapping[str, Endpoint]] = {
            ("", "pods", name): streams for name in UPGRADES
        }
        out[("", "pods", "log")] = {"get": self.log}
        out[("", "nodes", "proxy")] = {"*": self.proxy}
        return out

    async def log(self, request: Request, kind: Kind) -> Answer:
        pod = await self._pod(request, kind)
        container = _container(pod, request.info.first("container"))
        query = [  # what is no log option (kubectl's timeout, say) is the apiserver's own or nobody's
            (key, value)
            for key, values in request.info.query.items()
            for value in values
            if key in LOG_PARAMETERS
        ]
        fields = pod["metadata"]
        path = f"/containerLogs/{quote(fields['namespace'])}/{quote(fields['name'])}/{quote(container)}"
        return await self._relay(request, await self._base(pod), path, query, text=True)

    async def stream(self, request: Request, kind: Kind) -> Answer:
        """exec, attach, portforward: needs an upgrade."""
        pod = await self._pod(request, kind)
        info, fields = request.info, pod["metadata"]
        path = f"/{UPGRADES[info.subresource]}/{quote(fields['namespace'])}/{quote(fields['name'])}"
        query = [(key, value) for key, values in info.query.items() for value in values if key != "container"]
        if info.subresource != "portforward":
            path += f"/{quote(_container(pod, info.first('container')))}"
            # The kubelet's own names for the streams (remotecommand.go).
            rename = {"stdin": "input", "stdout": "output", "stderr": "error"}
            query = [
                (rename.get(key, key), _switch(value) if key in (*rename, "tty") else value)
                for key, value in query
            ]
        return await self._tunnel(request, await self._base(pod), path, query)

    async def proxy(self, request: Request, kind: Kind) -> Answer:
        info = request.info
        node = (await self._registry.reader.get(kind, "", info.name, "0")).decoded()
        query = [(key, value) for key, values in info.query.items() for value in values]
        path = "/" + quote(info.tail)
        if "hardway.upgrade" in request.extensions:
            return await self._tunnel(request, self._node_base(node), path, query)
        return await self._relay(request, self._node_base(node), path, query, text=False)

    async def _pod(self, request: Request, kind: Kind) -> Object:
        info = request.info
        pod = (await self._registry.reader.get(kind, info.namespace, info.name)).decoded()
        if not (pod.get("spec") or {}).get("nodeName"):
            raise errors.bad_request(f"pod {info.name} does not have a host assigned")
        return pod

    async def _base(self, pod: Object) -> str:
        nodes = self._scheme.resource("", "v1", "nodes")
        assert nodes is not None
        node = (await self._registry.reader.get(nodes, "", pod["spec"]["nodeName"], "0")).decoded()
        return self._node_base(node)

    def _node_base(self, node: Object) -> str:
        if self._context is None:
            raise errors.status(
                501, "NotImplemented", "no --kubelet-client-certificate is configured", details={}
            )
        status = node.get("status") or {}
        port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get(
            "Port"
        ) or DEFAULT_PORT
        addresses = {item.get("type"): item.get("address") for item in status.get("addresses") or []}
        # A simulated host has no name service; its InternalIP is asked for before its names.
        for wanted in ("InternalIP", *self._address_types):
            if addresses.get(wanted):
                host = addresses[wanted]
                return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        raise errors.internal_error(f"no preferred addresses found; known addresses: {sorted(addresses)}")

    async def _tunnel(self, request: Request, base: str, path: str, query: list[tuple[str, str]]) -> Answer:
        headers = {name: value for name, value in request.headers.items() if name not in HOP_HEADERS}
        headers["connection"] = "Upgrade"
        url = f"{base}{path}?{urlencode(query)}" if query else base + path
        try:
            return await tunnel(request, url, self._context, headers)
        except (OSError, ValueError) as error:
            raise _unreachable(base, error) from error

    async def _relay(
        self, request: Request, base: str, path: str, query: list[tuple[str, str]], *, text: bool
    ) -> Answer:
        assert self._context is not None
        client = httpx.AsyncClient(
            verify=self._context, timeout=httpx.Timeout(CONNECT_SECONDS, read=None), trust_env=False
        )
        headers = {name: value for name, value in request.headers.items() if name not in HOP_HEADERS}
        headers["accept-encoding"] = "identity"  # the body goes on as it comes, without the answer's headers
        body = await request.body() if request.method not in ("GET", "HEAD") else None
        built = client.build_request(
            request.method, base + path, params=httpx.QueryParams(tuple(query)), headers=headers, content=body
        )
        try:
            answer = await client.send(built, stream=True)
        except (httpx.HTTPError, OSError) as error:
            await client.aclose()
            raise _unreachable(base, error) from error
        media = answer.headers.get("content-type", "text/plain")
        if answer.status_code >= 400 and text:
            detail = (await answer.aread())[:4096].decode(errors="replace").strip()
            await client.aclose()
            raise _from_kubelet(answer.status_code, detail)
        return Stream(_closing(client, answer), media, answer.status_code)


async def _closing(client: httpx.AsyncClient, answer: httpx.Response) -> AsyncIterator[bytes]:
    """The body, and the end of the client that was made for it."""
    try:
        async for chunk in chunks(answer):
            yield chunk
    finally:
        await client.aclose()


def _container(pod: Object, wanted: str) -> str:
    """The container meant, which may be left out when only one is neither for initialization nor ephemeral.
    Raises 400 in Kubernetes' words.
    """
    spec = pod.get("spec") or {}
    regular, initial, ephemeral = (
        [str(item["name"]) for item in spec.get(key) or []]
        for key in ("containers", "initContainers", "ephemeralContainers")
    )
    known = regular + initial + ephemeral
    name = pod["metadata"]["name"]
    if not wanted:
        if len(regular) == 1:
            return regular[0]
        annotated = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
        if annotated in known:
            return str(annotated)
        choice = f"[{' '.join(regular)}]"
        if initial:
            choice += f" or one of the init containers: [{' '.join(initial)}]"
        raise errors.bad_request(
            f"a container name must be specified for pod {name}, choose one of: {choice}"
        )
    if wanted not in known:
        raise errors.bad_request(f"container {wanted} is not valid for pod {name}")
    return wanted


def _switch(value: str) -> str:
    return "1" if value in ("true", "1", "") else "0"


def _unreachable(base: str, error: Exception) -> errors.StatusError:
    return errors.status(
        500, "InternalError", f"Internal error occurred: error dialing backend: {base}: {error}", details={}
    )


def _from_kubelet(code: int, detail: str) -> errors.StatusError:
    reason = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound"}.get(
        code, "InternalError"
    )
    return errors.status(code, reason, detail or "the kubelet refused the request", details={})
