"""The checklist itself: one function a line, in the order in which a person would go through it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.smoke import manifests
from deploy.smoke.clients import Client, Curl, Failed

Object = dict[str, Any]
READY_TIMEOUT = 60.0
PLAINTEXT = "a value nobody else may read"


@dataclass(slots=True)
class Context:
    """What every check has at hand. `on_host` runs a command on a simulated host and returns its output."""

    client: Client
    namespace: str
    controllers: Sequence[str]
    workers: Sequence[str]
    addresses: dict[str, str]
    on_host: Callable[[str, Sequence[str]], str]
    unbound_kubeconfig: Path
    kubelet_kubeconfig: Path  # of the first worker, dialling the outside address
    outside_server: str
    pods: list[Object] = field(default_factory=list)

    @property
    def base(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}"

    def until(self, what: str, probe: Callable[[], bool], timeout: float = READY_TIMEOUT) -> None:
        """Wait until the probe says so; raises Failed naming what did not come."""
        deadline = time.monotonic() + timeout
        last = ""
        while time.monotonic() < deadline:
            try:
                if probe():
                    return
            except Failed as error:
                last = f" ({error})"
            time.sleep(0.2)
        raise Failed(f"{what}: not within {timeout:g}s{last}")


def _ready(thing: Object) -> bool:
    conditions = thing.get("status", {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def members_healthy(context: Context) -> str:
    endpoints = ",".join(f"https://{context.addresses[name]}:2379" for name in context.controllers)
    tls = [
        "--cacert",
        "/etc/etcd/ca.pem",
        "--cert",
        "/etc/etcd/server.pem",
        "--key",
        "/etc/etcd/server-key.pem",
    ]
    argv = [
        "env",
        "ETCDCTL_API=3",
        "etcdctl",
        "--endpoints",
        endpoints,
        *tls,
        "endpoint",
        "health",
        "-w",
        "json",
    ]
    report = json.loads(context.on_host(context.controllers[0], argv))
    sick = [each["endpoint"] for each in report if not each["health"]]
    if sick or len(report) != len(context.controllers):
        raise Failed(f"unhealthy: {sick or report}")
    return f"{len(report)} members"


def nodes_ready(context: Context) -> str:
    nodes = context.client.get("/api/v1/nodes")["items"]
    late = sorted(set(context.workers) - {node["metadata"]["name"] for node in nodes if _ready(node)})
    if late:
        raise Failed(f"not Ready: {', '.join(late)}")
    return ", ".join(sorted(node["metadata"]["name"] for node in nodes))


def secret_sealed(context: Context) -> str:
    context.client.create("/api/v1/namespaces", manifests.namespace(context.namespace))
    context.client.create(f"{context.base}/secrets", manifests.secret(context.namespace, PLAINTEXT))
    stored = _from_store(context, f"/registry/secrets/{context.namespace}/hush")
    encoded = base64.b64encode(PLAINTEXT.encode())
    if not stored.startswith(b"k8s:enc:") or PLAINTEXT.encode() in stored or encoded in stored:
        raise Failed(f"the store holds {stored[:60]!r}")
    back = context.client.get(f"{context.base}/secrets/hush")["data"]["mykey"]
    if base64.b64decode(back).decode() != PLAINTEXT:
        raise Failed("the API gives back another value")
    return stored[:24].decode(errors="replace")


def _from_store(context: Context, key: str) -> bytes:
    tls = [
        "--cacert",
        "/etc/etcd/ca.pem",
        "--cert",
        "/etc/etcd/server.pem",
        "--key",
        "/etc/etcd/server-key.pem",
    ]
    endpoint = ["--endpoints", "https://127.0.0.1:2379"]
    argv = ["env", "ETCDCTL_API=3", "etcdctl", *endpoint, *tls, "get", key, "-w", "json"]
    found = json.loads(context.on_host(context.controllers[-1], argv)).get("kvs") or []
    if not found:
        raise Failed(f"{key} is not in the store")
    return base64.b64decode(found[0]["value"])


def deployment_runs(context: Context) -> str:
    client, space = context.client, context.namespace
    client.create(f"/apis/apps/v1/namespaces/{space}/deployments", manifests.deployment(space))
    client.create(f"{context.base}/services", manifests.service(space))
    path = f"/apis/apps/v1/namespaces/{space}/deployments/web"
    context.until(
        "deployment web available",
        lambda: client.get(path).get("status", {}).get("availableReplicas", 0) == 2,
    )
    context.pods = [
        pod for pod in client.get(f"{context.base}/pods?labelSelector=app%3Dweb")["items"] if _ready(pod)
    ]
    nodes = {pod["spec"]["nodeName"] for pod in context.pods}
    if len(nodes) != 2:
        raise Failed(f"two replicas should be on two nodes, they are on {sorted(nodes)}")
    return "2 replicas on " + ", ".join(sorted(nodes))


def logs(context: Context) -> str:
    text = context.client.logs(context.namespace, context.pods[0]["metadata"]["name"])
    if "serving" not in text:
        raise Failed(f"expected the line 'serving', got {text[:200]!r}")
    return repr(text.splitlines()[0])


def execute(context: Context) -> str:
    pod = context.pods[0]["metadata"]["name"]
    out = context.client.execute(context.namespace, pod, ["hostname"]).strip()
    if out != pod:
        raise Failed(f"hostname printed {out!r} in pod {pod}")
    return f"hostname -> {out}"


def cluster_ip(context: Context) -> str:
    """From a pod on a node that runs none of the replicas, so the packet must cross hosts."""
    away = sorted(set(context.workers) - {pod["spec"]["nodeName"] for pod in context.pods})
    node = away[0] if away else context.workers[0]
    context.client.create(f"{context.base}/pods", manifests.client_pod(context.namespace, node))
    context.until("pod client Ready", lambda: _ready(context.client.get(f"{context.base}/pods/client")))
    ip = context.client.get(f"{context.base}/services/web")["spec"]["clusterIP"]
    context.until(f"answer from {ip}", lambda: manifests.GREETING in _wget(context, f"http://{ip}/"), 20)
    return f"{node} -> {ip}"


def _wget(context: Context, url: str) -> str:
    return context.client.execute(context.namespace, "client", ["timeout", "5", "wget", "-q", "-O", "-", url])


def node_port(context: Context) -> str:
    port = context.client.get(f"{context.base}/services/web")["spec"]["ports"][0]["nodePort"]
    for host in context.workers:
        url = f"http://{context.addresses[host]}:{port}/"
        for asker in (context.controllers[0], host):
            argv = ["curl", "-sS", "--max-time", "5", url]
            context.until(
                f"{asker} reaches {url}",
                lambda asker=asker, argv=argv: manifests.GREETING in context.on_host(asker, argv),  # type: ignore[misc]
                20,
            )
    return f"port {port} on {', '.join(context.workers)}"


def dns(context: Context) -> str:
    name = f"web.{context.namespace}.svc.cluster.local"
    ip = context.client.get(f"{context.base}/services/web")["spec"]["clusterIP"]
    context.until(
        f"{name} resolves",
        lambda: ip in context.client.execute(context.namespace, "client", ["nslookup", name]),
        30,
    )
    context.until("the short name works", lambda: manifests.GREETING in _wget(context, "http://web/"), 20)
    return f"{name} -> {ip}"


def unbound_user(context: Context) -> str:
    with Curl(context.unbound_kubeconfig, server=context.outside_server) as stranger:
        code, text = stranger.request("GET", f"{context.base}/pods")
    if code != 403 or json.loads(text).get("reason") != "Forbidden":
        raise Failed(f"expected 403 Forbidden, got {code} {text[:200]}")
    return str(json.loads(text)["message"])


def kubelet_confined(context: Context) -> str:
    """The first worker's credentials against another worker's node and a secret it has no pod for."""
    other = context.workers[1]
    node = context.client.get(f"/api/v1/nodes/{other}")
    node["metadata"].setdefault("labels", {})["owned"] = "by-another"
    with Curl(context.kubelet_kubeconfig, server=context.outside_server) as kubelet:
        tried = {
            f"update node {other}": kubelet.request("PUT", f"/api/v1/nodes/{other}", node),
            f"delete node {other}": kubelet.request("DELETE", f"/api/v1/nodes/{other}"),
            "read a secret": kubelet.request("GET", f"{context.base}/secrets/hush"),
        }
    let_in = [what for what, (code, _) in tried.items() if code != 403]
    if let_in:
        raise Failed(f"not refused: {', '.join(f'{what} ({tried[what][0]})' for what in let_in)}")
    return f"{len(tried)} attempts refused"


CHECKS: tuple[tuple[str, Callable[[Context], str]], ...] = (
    ("members healthy", members_healthy),
    ("nodes Ready", nodes_ready),
    ("secret unreadable in the store", secret_sealed),
    ("deployment runs", deployment_runs),
    ("logs", logs),
    ("exec", execute),
    ("ClusterIP from a pod on another node", cluster_ip),
    ("NodePort from every host", node_port),
    ("DNS name resolves", dns),
    ("unbound user denied", unbound_user),
    ("kubelet confined to its node", kubelet_confined),
)
