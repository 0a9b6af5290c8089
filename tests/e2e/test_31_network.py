"""How packets reach pods: Services of every kind, names, policies; from pods, from hosts of the lab and
through the router (manifests/network.yaml).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import Lab, Object, eventually

NAMESPACE = "e2e-network"
MANIFEST = Path(__file__).parent / "manifests" / "network.yaml"
BOTH = {"web-0", "web-1"}
DENY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {friend: "yes"}}}]
      ports: [{port: 8080}]
"""


class Net:
    """The namespace, asked from inside and outside."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def kubectl(self, *arguments: str, stdin: str | None = None, code: int | None = 0) -> str:
        return self.lab.kubectl("-n", NAMESPACE, *arguments, stdin=stdin, code=code)

    def service(self, name: str) -> Object:
        found: Object = json.loads(self.kubectl("get", "service", name, "-o", "json"))
        return found

    def address(self, name: str) -> str:
        """The balancer's address, once there is one."""
        held: list[str] = []

        def given() -> bool:
            ingress = (self.service(name)["status"].get("loadBalancer") or {}).get("ingress") or []
            held[:] = [each["ip"] for each in ingress]
            return bool(held)

        eventually(f"address of {name}", given, 90)
        return held[0]

    def inside(self, service: str) -> str:
        """The cluster IP of a Service."""
        return str(self.service(service)["spec"]["clusterIP"])

    def in_pod(self, pod: str, command: str) -> str:
        return self.kubectl("exec", pod, "--", "sh", "-c", command).strip()

    def from_pod(self, address: str, times: int = 1, pod: str = "client") -> list[str]:
        """What a pod gets at port 80, one answer a line; "" for none. By nc: a static busybox's wget cannot
        resolve even an address."""
        ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} 80 2>/dev/null | tail -n 1"
        return self.in_pod(pod, f"for i in $(seq {times}); do echo $({ask}); done").splitlines() or [""]

    def from_host(self, url: str, times: int = 1, host: str = "balancer") -> list[str]:
        """What a host of the lab that is no node gets."""
        ask = f"for i in $(seq {times}); do curl -s -m 3 {url} || echo; done"
        return self.lab.on_host(host, "sh", "-c", ask).splitlines() or [""]


@pytest.fixture(scope="module")
def net(lab: Lab) -> Iterator[Net]:
    lab.kubectl("create", "namespace", NAMESPACE)
    made = Net(lab)
    eventually("account", lambda: "default" in made.kubectl("get", "serviceaccounts", "-o", "name"))
    made.kubectl("apply", "-f", str(MANIFEST))
    made.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
    eventually("both endpoints", lambda: set(made.from_pod(made.inside("web"), 8)) == BOTH, 90)
    yield made
    lab.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")


def test_a_balancer_is_reached_through_the_router_and_from_nodes(net: Net) -> None:
    address = net.address("wide")
    assert address.startswith("10.240.1.")
    eventually("announced", lambda: set(net.from_host(f"http://{address}", 12)) == BOTH, 90)
    assert set(net.from_pod(address, 8)) <= BOTH
    assert net.from_host(f"http://{address}", host="worker-2")[0] in BOTH
    assert net.from_host(f"http://{address}:81") == [""], "only what it listens on is let through"


def test_local_traffic_keeps_the_clients_address_and_avoids_empty_nodes(net: Net) -> None:
    spec = net.service("local")["spec"]
    assert "nodePort" not in spec["ports"][0] and spec["healthCheckNodePort"]
    address = net.address("local")
    eventually("announced", lambda: set(net.from_host(f"http://{address}", 12)) == BOTH, 90)
    check = f"http://10.240.0.{{}}:{spec['healthCheckNodePort']}"
    assert '"localEndpoints":1' in net.from_host(check.format(20))[0]
    assert '"localEndpoints":0' in net.from_host(check.format(22))[0]
    net.kubectl("delete", "pod", "web-0", "--now")
    eventually("one left", lambda: set(net.from_host(f"http://{address}", 8)) == {"web-1"}, 90)
    net.kubectl("apply", "-f", str(MANIFEST))
    eventually("two again", lambda: set(net.from_host(f"http://{address}", 12)) == BOTH, 120)


def test_source_ranges_and_classes(net: Net) -> None:
    address = net.address("guarded")
    eventually("inside", lambda: net.from_host(f"http://{address}", host="controller-0")[0] in BOTH, 90)
    assert net.from_host(f"http://{address}") == [""], "the balancer host is outside of the range"
    foreign = net.service("foreign")
    assert not (foreign["status"].get("loadBalancer") or {}).get("ingress")
    assert "finalizers" not in foreign["metadata"]


def test_an_address_is_given_back(net: Net) -> None:
    address = net.address("guarded")
    net.kubectl("delete", "service", "guarded", "--timeout=60s")
    # The finalizer held the Service until the router had let go of the address.
    eventually("withdrawn", lambda: net.from_host(f"http://{address}", host="controller-0") == [""])


def test_node_ports_and_external_addresses(net: Net) -> None:
    for node in ("10.240.0.20", "10.240.0.22"):
        assert set(net.from_host(f"http://{node}:30180", 8)) == BOTH
    assert set(net.from_pod("192.0.2.80", 8)) == BOTH


def test_affinity_locality_and_hairpin(net: Net) -> None:
    assert len(set(net.from_pod(net.inside("sticky"), 8))) == 1
    assert net.from_pod(net.inside("near")) == [""], "no endpoint on the client's node"
    assert net.from_pod(net.inside("near"), pod="web-1") == ["web-1"]
    assert set(net.from_pod(net.inside("web"), 12, pod="web-0")) == BOTH, (
        "a pod reaches itself through its Service"
    )


def test_names(net: Net) -> None:
    suffix = f"{NAMESPACE}.svc.cluster.local"
    cluster_ip = net.service("web")["spec"]["clusterIP"]
    listed = net.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.podIP}").split()

    def asked(name: str, kind: str = "a") -> str:
        return net.in_pod("client", f"nslookup -type={kind} {name} 10.32.0.10 || true")

    assert cluster_ip in asked(f"web.{suffix}")
    assert all(ip in asked(f"bare.{suffix}") for ip in listed)
    assert sum(ip in asked(f"web-0.bare.{suffix}") for ip in listed) == 1
    assert f"web-0.bare.{suffix}" in asked(f"_http._tcp.bare.{suffix}", "srv")
    backwards = ".".join(reversed(cluster_ip.split("."))) + ".in-addr.arpa"
    assert f"web.{suffix}" in asked(backwards, "ptr")
    assert f"web.{suffix}" in asked(f"elsewhere.{suffix}", "cname")
    assert "NXDOMAIN" in asked(f"nobody.{suffix}")


def test_a_policy_lets_in_whom_it_names(net: Net) -> None:
    net.kubectl("apply", "-f", "-", stdin=DENY)
    eventually("closed", lambda: net.from_pod(net.inside("web")) == [""], 90)
    net.kubectl("label", "pod", "client", "friend=yes")
    eventually("open for friends", lambda: net.from_pod(net.inside("web"))[0] in BOTH, 90)
    net.kubectl("delete", "networkpolicy", "web")
    net.kubectl("label", "pod", "client", "friend-")
    eventually("open", lambda: net.from_pod(net.inside("web"))[0] in BOTH, 90)


def test_the_trace_names_every_hop(net: Net) -> None:
    text = net.lab.hardway("trace", f"pod/{NAMESPACE}/client", f"svc/{NAMESPACE}/web")
    assert "worker-2" in text and ("web-0" in text or "web-1" in text), text
