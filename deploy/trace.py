"""`hardway trace`: one connection followed from a pod to a service, a pod or a host, hop by hop.

What each hop does is not asked of the kernel but interpreted: the rules are compiled from the API's objects
by the compiler that the proxy of the node uses, for the node the packet is on, and a tracer walks them. So a
trace shows what ought to happen; where the cluster does something else, the hop to look at is known.
`follow` is pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from clusterdns.records import Records, Status
from deploy.api import Api, APIError
from deploy.state import State
from deploy.topology import Topology
from kubeproxy import iptables_compiler, policy
from kubeproxy.compiler import Settings, compile_rules
from kubeproxy.model import Place, ServicePort, service_ports
from kubeproxy.rules import RuleSet
from kubeproxy.trace import Outcome, Packet, Tracer
from kubeproxy.userspace import compiler as relays

Object = dict[str, Any]
MAX_HOPS = 8
"""Nodes a packet may pass before it is called a loop."""
PROXY_CONFIG = "etc/kubernetes/kube-proxy-config.yaml"
ZONE_LABEL = "topology.kubernetes.io/zone"
SERVICE_LABEL = "kubernetes.io/service-name"
PATHS = {
    "nodes": "/api/v1/nodes",
    "pods": "/api/v1/pods",
    "namespaces": "/api/v1/namespaces",
    "services": "/api/v1/services",
    "slices": "/apis/discovery.k8s.io/v1/endpointslices",
    "policies": "/apis/networking.k8s.io/v1/networkpolicies",
}


class TraceError(Exception):
    """There is nothing to follow: an end does not exist, or cannot be told, or a node has no rules."""


@dataclass(frozen=True)
class Snapshot:
    """The objects that decide where packets go, and what DNS answers are read from (a `records.View`)."""

    nodes: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    namespaces: list[Object] = field(default_factory=list)
    services: list[Object] = field(default_factory=list)
    endpoint_slices: list[Object] = field(default_factory=list)
    policies: list[Object] = field(default_factory=list)

    def service(self, namespace: str, name: str) -> Object | None:
        return _named(self.services, namespace, name)

    def pod(self, namespace: str, name: str) -> Object | None:
        return _named(self.pods, namespace, name)

    def node(self, name: str) -> Object | None:
        return next((each for each in self.nodes if each["metadata"]["name"] == name), None)

    def slices(self, namespace: str, name: str) -> list[Object]:
        return [
            each
            for each in self.endpoint_slices
            if each["metadata"]["namespace"] == namespace
            and (each["metadata"].get("labels") or {}).get(SERVICE_LABEL) == name
        ]

    def has_namespace(self, namespace: str) -> bool:
        return any(each["metadata"]["name"] == namespace for each in self.namespaces)

    def services_at(self, ip: str) -> list[Object]:
        return [each for each in self.services if each["spec"].get("clusterIP") == ip]

    def slices_at(self, ip: str) -> list[Object]:
        return [
            each
            for each in self.endpoint_slices
            if any(ip in (end.get("addresses") or ()) for end in each.get("endpoints") or ())
        ]

    def pod_at(self, ip: str) -> Object | None:
        found = (each for each in self.pods if (each.get("status") or {}).get("podIP") == ip)
        alive = [each for each in found if each["status"].get("phase") not in ("Succeeded", "Failed")]
        return alive[0] if alive else None


class Hop(NamedTuple):
    """One thing that happens to the packet: where, what kind of step, and what it comes to."""

    where: str
    step: str
    detail: str


@dataclass
class Trace:
    """The hops in order. `arrived` says whether the packet reached its end."""

    hops: list[Hop] = field(default_factory=list)
    arrived: bool = False

    def add(self, where: str, step: str, detail: str) -> None:
        self.hops.append(Hop(where, step, detail))

    def __str__(self) -> str:
        lines = [
            f"{number:>2}  {hop.where:<24} {hop.step:<8} {hop.detail}"
            for number, hop in enumerate(self.hops, 1)
        ]
        return "\n".join([*lines, "arrives" if self.arrived else "does not arrive"])


class _End(NamedTuple):
    """An end of the trace as it was written: kind is pod, service, host, or "" where it was not said."""

    kind: str
    namespace: str
    name: str
    port: str


_KINDS = {"pod": "pod", "pods": "pod", "svc": "service", "service": "service", "host": "host", "node": "host"}


def parse_end(text: str) -> _End:
    """`[pod/|svc/|host/][namespace/]name[:port]`. Raises TraceError."""
    name, _, port = text.partition(":")
    parts = name.split("/")
    kind = _KINDS.get(parts[0], "") if len(parts) > 1 else ""
    rest = parts[1:] if kind else parts
    if not 1 <= len(rest) <= 2 or not all(rest):
        raise TraceError(f"{text!r} is not [pod/|svc/|host/][namespace/]name[:port]")
    return _End(kind, rest[0] if len(rest) == 2 else "default", rest[-1], port)


@dataclass
class _Follower:
    objects: Snapshot
    topology: Topology
    modes: Mapping[str, str]
    trace: Trace = field(default_factory=Trace)

    # -- ends

    def source(self, end: _End) -> Object:
        """The pod that sends; of a service, its first endpoint's."""
        if end.kind != "service" and (pod := self.objects.pod(end.namespace, end.name)):
            return self._placed(pod)
        for each in self.objects.slices(end.namespace, end.name):
            for endpoint in each.get("endpoints") or []:
                if pod := self.objects.pod_at(endpoint["addresses"][0]):
                    return self._placed(pod)
        raise TraceError(f"no pod {end.namespace}/{end.name}, and no service with a pod behind it")

    def _placed(self, pod: Object) -> Object:
        if not (pod.get("status") or {}).get("podIP") or not pod["spec"].get("nodeName"):
            raise TraceError(f"pod {_title(pod)} has no address yet: nothing can be sent from it or to it")
        return pod

    def target(self, end: _End) -> tuple[str, int, str]:
        """Address, port and protocol of the target, by way of DNS where there is a name."""
        service = self.objects.service(end.namespace, end.name) if end.kind in ("", "service") else None
        if service is not None:
            return self._service(service, end)
        if end.kind != "host" and (pod := self.objects.pod(end.namespace, end.name)):
            return self._placed(pod)["status"]["podIP"], _number(end.port, _first_port(pod)), "tcp"
        if end.kind in ("pod", "service"):
            raise TraceError(f"no {end.kind} {end.namespace}/{end.name}")
        for host in self.topology.hosts:
            if end.name in (host.name, host.address):
                self.trace.add("source pod", "name", f"{host.name} is {host.address}")
                return host.address, _number(end.port, 80), "tcp"
        try:
            return str(ipaddress.IPv4Address(end.name)), _number(end.port, 80), "tcp"
        except ValueError:
            raise TraceError(f"{end.name!r} is no service, pod, host or IPv4 address") from None

    def _service(self, service: Object, end: _End) -> tuple[str, int, str]:
        ports = service["spec"].get("ports") or []
        chosen = next(
            (each for each in ports if end.port in ("", str(each["port"]), each.get("name") or "")), None
        )
        zone = self.topology.network.cluster_domain
        name = f"{end.name}.{end.namespace}.svc.{zone}"
        records = Records(self.objects, zone)
        answer, elsewhere = records.follow(records.resolve(name, "A"), "A")
        found = [str(each.data) for each in answer.answers if each.type == "A"]
        said = ", ".join(found) or ("no such name" if answer.status is Status.NO_SUCH_NAME else "no address")
        if elsewhere:
            said = f"another name, {elsewhere}, for the upstream servers to answer"
        self.trace.add("source pod", "DNS", f"{name} at {self.topology.network.cluster_dns}: {said}")
        if not found:
            raise TraceError(f"{name}: {said}")
        protocol = str((chosen or {}).get("protocol", "TCP")).lower()
        if service["spec"].get("clusterIP") == "None":
            pod = self.objects.pod_at(found[0])
            return found[0], _number(end.port, _first_port(pod) if pod else 80), protocol
        return found[0], int(chosen["port"]) if chosen else _number(end.port, 80), protocol

    # -- nodes

    def mode(self, node: str) -> str:
        return self.modes.get(node, self.topology.network.proxy_mode)

    def relays(self, node: str) -> bool:
        """Whether the proxy of this node relays connections itself: then it has no rules."""
        return self.mode(node) == "userspace"

    def rules(self, node: str) -> RuleSet:
        """What the proxy of this node programs."""
        if self.relays(node):
            return RuleSet()
        settings, ports = Settings(cluster_cidrs=(str(self.topology.network.pods),)), self.ports(node)
        if self.mode(node) == "iptables":
            pieces = [iptables_compiler.compile_port(each, settings) for each in ports]
            return iptables_compiler.assemble(pieces, settings)
        return compile_rules(ports, settings)

    def ports(self, node: str) -> list[ServicePort]:
        """The ports of all services as this node sees them."""
        labels = (self.objects.node(node) or {"metadata": {}})["metadata"].get("labels") or {}
        place = Place(node, labels.get(ZONE_LABEL, ""))
        return [
            port
            for service in self.objects.services
            for port in service_ports(
                service,
                self.objects.slices(service["metadata"]["namespace"], service["metadata"]["name"]),
                place,
            )
        ]

    def policies(self, node: str) -> RuleSet:
        pods = [pod for each in self.objects.pods if (pod := policy.pod_of(each)) is not None]
        labels = {
            each["metadata"]["name"]: each["metadata"].get("labels") or {} for each in self.objects.namespaces
        }
        return policy.compile_policies(self.objects.policies, pods, labels, node)

    def addresses(self, node: str) -> frozenset[str]:
        """The node's own: its address, and the gateway of its pods."""
        cidr = ((self.objects.node(node) or {}).get("spec") or {}).get("podCIDR")
        gateway = {str(ipaddress.IPv4Network(cidr)[1])} if cidr else set()
        return frozenset({self.address(node), *gateway})

    def address(self, node: str) -> str:
        return next((host.address for host in self.topology.hosts if host.name == node), "")

    def run(self, source: Object, target: tuple[str, int, str]) -> Trace:
        node, ip = source["spec"]["nodeName"], source["status"]["podIP"]
        in_host = bool(source["spec"].get("hostNetwork"))
        packet = Packet(ip, target[0], target[1], target[2], from_host=in_host)
        way = "is in the network of its node" if in_host else f"default route to {node}"
        self.trace.add(f"pod {_title(source)}", "send", f"{ip} -> {_destination(packet)}; {way}")
        for _ in range(MAX_HOPS):
            going = self.pass_node(node, packet)
            if going is None:
                return self.trace
            node, packet = going
        self.trace.add(node, "loop", f"still not there after {MAX_HOPS} nodes")
        return self.trace

    def pass_node(self, node: str, packet: Packet) -> tuple[str, Packet] | None:
        """What this node does with the packet; the next node and what arrives there, None at the end."""
        if self.relays(node):
            self._refuse_relay(node, packet)
        outcome = Tracer(self.rules(node), self.addresses(node)).send(packet)
        walked = " > ".join(each for each in outcome.path if each not in _DULL)
        if outcome.verdict != "accept":
            self.trace.add(node, "rules", f"{outcome.verdict}: {walked or 'no rule for this address'}")
            return None
        if outcome.destination != (packet.destination, packet.port):
            change = f"{_destination(packet)} becomes {_destination(outcome.packet)}"
            self.trace.add(node, "rules", f"{change} ({walked})")
        ip = outcome.packet.destination
        if ip in self.addresses(node):
            self.trace.add(node, "arrive", f"{ip} is the host's own: port {outcome.packet.port} of {node}")
            self.trace.arrived = True
            return None
        if not self._permitted(node, packet, outcome):
            return None
        return self._route(node, outcome)

    def _refuse_relay(self, node: str, packet: Packet) -> None:
        """Raises TraceError where the proxy itself would take the connection: which endpoint it relays to
        stands in no rule.
        """
        settings = Settings()
        plan = relays.assemble([relays.compile_port(each, settings) for each in self.ports(node)], settings)
        front = relays.Front(packet.destination, packet.protocol, packet.port)
        if packet.destination in plan.addresses or front in relays.listeners(
            plan, self.addresses(node), settings
        ):
            raise TraceError(
                f"{node} relays {_destination(packet)} in user space (its proxy's mode: userspace):"
                " there are no rules to follow; trace to a pod behind the service instead"
            )

    def _permitted(self, node: str, packet: Packet, outcome: Outcome) -> bool:
        """Whether the node's policies let it be forwarded. What the host itself sends is not forwarded."""
        if packet.from_host:
            return True
        sent = Packet(packet.source, *outcome.destination, packet.protocol)
        rules = self.policies(node)
        judged = Tracer(rules).send(sent)
        isolated = [each for each in judged.path if each != policy.FORWARD]
        if isolated and self.relays(node):
            self.trace.add(node, "policy", "not enforced: no packet filter (its proxy's mode: userspace)")
            return True
        if judged.verdict != "accept":
            self.trace.add(node, "policy", f"dropped by {isolated[-1]}: no NetworkPolicy allows it")
            return False
        if isolated:
            allowing = ", ".join(
                sorted({rule.comment for name in isolated for rule in rules.chains[name].rules} - {""})
            )
            self.trace.add(node, "policy", f"allowed ({', '.join(isolated)}: {allowing})")
        return True

    def _route(self, node: str, outcome: Outcome) -> tuple[str, Packet] | None:
        ip, port = outcome.destination
        source = outcome.packet.source
        pod = self.objects.pod_at(ip)
        if pod is not None and pod["spec"].get("nodeName") == node and not pod["spec"].get("hostNetwork"):
            gateway = "; the source becomes the bridge's address" if outcome.masqueraded else ""
            self.trace.add(node, "bridge", f"cni0 to pod {_title(pod)}{gateway}")
            self.trace.add(f"pod {_title(pod)}", "arrive", f"{ip}:{port} from {source}")
            self.trace.arrived = True
            return None
        if outcome.masqueraded:
            source = self.address(node)
            self.trace.add(node, "source", f"{outcome.packet.source} becomes {source} (masquerade)")
        onward = Packet(source, ip, port, outcome.packet.protocol)
        for each in self.objects.nodes:
            name, cidr = each["metadata"]["name"], (each.get("spec") or {}).get("podCIDR")
            if ip == self.address(name):
                self.trace.add(node, "route", f"{ip} is {name}, on the same wire")
                return name, onward
            if cidr and ipaddress.IPv4Address(ip) in ipaddress.IPv4Network(cidr):
                return self._to_pods(node, name, cidr, onward)
        self._outside(node, ip)
        return None

    def _to_pods(self, node: str, owner: str, cidr: str, packet: Packet) -> tuple[str, Packet] | None:
        if owner == node:
            self.trace.add(node, "bridge", f"{packet.destination} is in this node's range, but no pod has it")
            return None
        router = str(self.topology.network.router.ip)
        self.trace.add(node, "route", f"default via the router {router}")
        self.trace.add("router", "route", f"{cidr} via {self.address(owner)} ({owner})")
        return owner, packet

    def _outside(self, node: str, ip: str) -> None:
        router = str(self.topology.network.router.ip)
        network = self.topology.network
        if ipaddress.IPv4Address(ip) in network.pods:
            self.trace.add(node, "route", f"default via the router {router}")
            self.trace.add("router", "route", f"no node has a range with {ip}")
            return
        host = next((each for each in self.topology.hosts if each.address == ip), None)
        if host is not None:
            self.trace.add(node, "route", f"{ip} is {host.name}, on the same wire")
            self.trace.add(host.name, "arrive", ip)
            self.trace.arrived = True
            return
        self.trace.add(node, "route", f"default via the router {router}, out of the cluster")
        self.trace.add("router", "route", "the lab's network ends here")


# Chains that every packet walks, which tell nothing about this one.
_DULL = frozenset(
    {
        "nat-prerouting",
        "nat-output",
        "nat-postrouting",
        "filter-prerouting",
        "filter-output-before",
        "filter-input",
        "filter-forward",
        "filter-output",
        "mark-for-masquerade",
        "endpoints-check",
        *iptables_compiler.HOOKED,
        iptables_compiler.SERVICES,
        iptables_compiler.POSTROUTING,
        iptables_compiler.FIREWALL,
        iptables_compiler.EXTERNAL,
        iptables_compiler.REFUSED,
        iptables_compiler.MARK,
    }
)


def follow(
    objects: Snapshot, topology: Topology, source: str, target: str, modes: Mapping[str, str] | None = None
) -> Trace:
    """The way of one connection; `modes` are those of the nodes' proxies where they are not the topology's.
    Raises TraceError when an end does not exist; a packet that is lost on its way is no error.
    """
    follower = _Follower(objects, topology, modes or {})
    sender = follower.source(parse_end(source))
    try:
        wanted = follower.target(parse_end(target))
    except TraceError as error:
        if not follower.trace.hops or follower.trace.hops[-1].step != "DNS":
            raise
        follower.trace.add("source pod", "stop", str(error))
        return follower.trace
    return follower.run(sender, wanted)


def snapshot(api: Api) -> Snapshot:
    """Raises Unreachable, APIError."""
    found: Mapping[str, list[Object]] = {name: _items(api, path) for name, path in PATHS.items()}
    return Snapshot(
        nodes=found["nodes"],
        pods=found["pods"],
        namespaces=found["namespaces"],
        services=found["services"],
        endpoint_slices=found["slices"],
        policies=found["policies"],
    )


def _items(api: Api, path: str) -> list[Object]:
    try:
        items: list[Object] = api.get(path).get("items") or []
    except APIError as error:
        # A server that does not serve a kind has no objects of it.
        if error.code != 404:
            raise
        return []
    return items


def proxy_modes(state: State, topology: Topology) -> dict[str, str]:
    """The mode that each worker's proxy is configured with now. A host that has no such file is left out."""
    found = {}
    for host in topology.by_role("worker"):
        try:
            text = (state.host(host.name) / PROXY_CONFIG).read_text()
            found[host.name] = str(yaml.safe_load(text)["mode"])
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            continue
    return found


def trace(state: State, topology: Topology, source: str, target: str) -> int:
    """Print the way from `source` to `target`; 0 if a packet arrives, 1 if not. Raises TraceError,
    Unreachable, APIError, OSError.
    """
    api = Api.from_kubeconfig(state.root / "pki" / "admin.kubeconfig")
    try:
        found = follow(snapshot(api), topology, source, target, proxy_modes(state, topology))
    finally:
        api.close()
    print(found)
    return 0 if found.arrived else 1


def _named(objects: Iterable[Object], namespace: str, name: str) -> Object | None:
    wanted = (namespace, name)
    return next((e for e in objects if (e["metadata"]["namespace"], e["metadata"]["name"]) == wanted), None)


def _title(obj: Object) -> str:
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"


def _destination(packet: Packet) -> str:
    return f"{packet.destination}:{packet.port}"


def _number(text: str, default: int) -> int:
    if text and not text.isdigit():
        raise TraceError(f"{text!r} is not the number or name of a port there")
    return int(text) if text else default


def _first_port(pod: Object) -> int:
    ports = (port for each in pod["spec"].get("containers") or [] for port in each.get("ports") or [])
    return int(next((port["containerPort"] for port in ports), 80))
