"""How packets reach pods, the details (manifests/details-network.yaml): two protocols on a port, hints, pods
on their way out, a proxy that restarts, policies of addresses, ports of the node, what else DNS says.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import Lab, Object, eventually
from tests.e2e.manifests import manifest
from tests.e2e.space import Space, space

NODE, ZONE = "worker-2", "topology.kubernetes.io/zone"
MANIFEST = Path(__file__).parent / "manifests" / "details-network.yaml"
IMAGE = "jsonpath={.spec.template.spec.containers[0].image}"
LARGE = 60
CLUSTER_DNS = "10.32.0.10"
ECHO = """
import socketserver, threading
class Stream(socketserver.BaseRequestHandler):
    def handle(self):
        while said := self.request.recv(99):
            self.request.sendall(b'stream ' + said)
class Datagram(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(b'datagram ' + self.request[0], self.client_address)
class Streams(socketserver.ThreadingTCPServer):
    daemon_threads = True
threading.Thread(target=Streams(('', 7000), Stream).serve_forever).start()
socketserver.UDPServer(('', 7000), Datagram).serve_forever()
"""
SPEAK = """
import socket, sys
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    with socket.socket(socket.AF_INET, kind) as speaking:
        speaking.settimeout(20)
        speaking.connect((sys.argv[1], 7000))
        speaking.send(b'hello')
        print(speaking.recv(99).decode())
"""
GET = """
import sys, urllib.request
for _ in range(int(sys.argv[2])):
    try:
        print(urllib.request.urlopen('http://' + sys.argv[1], timeout=4).read().decode().strip())
    except OSError:
        print('-')
"""
# Connections that begin one after the other until it is told to stop, and one that is open all the while.
HAMMER = """
import select, socket, sys, urllib.request
held = socket.create_connection((sys.argv[2], 7000), 20)
print('begun', flush=True)
failures = tries = 0
while not select.select([sys.stdin], [], [], 0.02)[0]:
    tries += 1
    try:
        urllib.request.urlopen('http://' + sys.argv[1], timeout=10).read()
    except OSError:
        failures += 1
held.sendall(b'still')
print(failures, tries > 20, held.recv(99).decode())
"""
# RFC 1035: rcode, truncated, answers, authorities.
ASK = """
import socket, struct, sys
name, kind, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]
parts = b''.join(bytes([len(each)]) + each.encode() for each in name.split('.'))
sent = struct.pack('!6H', 7, 0x100, 1, 0, 0, 0) + parts + bytes(1) + struct.pack('!2H', kind, 1)
with socket.socket(socket.AF_INET, socket.SOCK_STREAM if way == 'tcp' else socket.SOCK_DGRAM) as asking:
    asking.settimeout(20)
    asking.connect((sys.argv[4], 53))
    if way == 'tcp':
        asking.sendall(struct.pack('!H', len(sent)) + sent)
        stream = asking.makefile('rb')
        answer = stream.read(struct.unpack('!H', stream.read(2))[0])
    else:
        asking.send(sent)
        answer = asking.recv(65535)
_, flags, _, answers, authorities, _ = struct.unpack('!6H', answer[:12])
print(flags & 15, flags >> 9 & 1, answers, authorities)
"""


class Net(Space):
    """The namespace, asked by its client."""

    def python(self, code: str, *arguments: str) -> list[str]:
        return self.kubectl("exec", "client", "--", "python3", "-c", code, *arguments).splitlines()

    def get_from(self, target: str, times: int = 1) -> list[str]:
        return self.python(GET, target, str(times))

    def address(self, pod: str) -> str:
        return str(self.get("pod", pod)["status"]["podIP"])

    def cluster_ip(self, service: str) -> str:
        return str(self.get("service", service)["spec"]["clusterIP"])

    def asked(self, name: str, kind: int, way: str = "udp", server: str = CLUSTER_DNS) -> tuple[int, ...]:
        """Code, truncation, number of answers and of authorities."""
        return tuple(int(each) for each in self.python(ASK, name, str(kind), way, server)[0].split())


def endpoint_slice(service: str, addresses: list[Object]) -> str:
    labels = {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "e2e"}
    parts: dict[str, Any] = {"metadata": {"labels": labels}, "addressType": "IPv4", "endpoints": addresses}
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    return manifest("discovery.k8s.io/v1", "EndpointSlice", f"{service}-e2e", ports=ports, **parts)


@pytest.fixture(scope="module")
def net(lab: Lab) -> Iterator[Net]:
    with space(lab, "e2e-net") as made:
        found = Net(lab, made.name)
        python = lab.kubectl("-n", "kube-system", "get", "deployment", "clusterdns", "-o", IMAGE).strip()
        text = MANIFEST.read_text().replace("PYTHON", python).replace("ECHO", json.dumps(ECHO))
        found.apply(text)
        many = [{"addresses": [f"192.0.2.{number}"]} for number in range(1, LARGE + 1)]
        found.apply(endpoint_slice("large", many))
        found.wait("condition=Ready", "pod", "--all")
        eventually("served", lambda: set(found.get_from(found.cluster_ip("web"), 8)) == {"web-0", "web-1"})
        yield found
        found.kubectl("delete", "pod", "--all", "--now")


def test_two_protocols_share_a_port(net: Net) -> None:
    assert net.python(SPEAK, net.cluster_ip("both")) == ["stream hello", "datagram hello"]


def test_hints_keep_connections_in_their_zone(net: Net) -> None:
    net.lab.kubectl("label", "node", NODE, f"{ZONE}=west")
    try:
        hints = {"web-0": "west", "web-1": "east"}
        ends: list[Object] = [
            {"addresses": [net.address(pod)], "hints": {"forZones": [{"name": zone}]}}
            for pod, zone in hints.items()
        ]
        net.apply(endpoint_slice("hinted", ends))
        address = net.cluster_ip("hinted")
        eventually("only of the zone", lambda: set(net.get_from(address, 12)) == {"web-0"}, 60)
    finally:
        net.lab.kubectl("label", "node", NODE, f"{ZONE}-")
    eventually("of both", lambda: set(net.get_from(address, 12)) == {"web-0", "web-1"}, 60)


def test_a_pod_on_its_way_out_serves_as_long_as_there_is_no_other(net: Net) -> None:
    net.kubectl("delete", "pod", "goer", "--wait=false")

    def leaving() -> bool:
        [found] = net.items("endpointslices", "-l", "kubernetes.io/service-name=goer")
        said = found["endpoints"][0]["conditions"]
        return (said["ready"], said["serving"], said["terminating"]) == (False, True, True)

    eventually("it leaves", leaving, 60)
    assert set(net.get_from(net.cluster_ip("goer"), 4)) == {"goer"}
    net.kubectl("delete", "pod", "goer", "--now", "--timeout=60s")
    eventually("nobody is left", lambda: net.get_from(net.cluster_ip("goer")) == ["-"], 60)


def test_a_port_of_the_node_leads_to_the_pod(net: Net) -> None:
    ask = ["curl", "-s", "-m", "10", "http://10.240.0.20:31998/"]
    eventually("answered", lambda: net.lab.on_host("balancer", *ask, code=None).strip() == "web-0", 60)


def test_a_proxy_restarts_without_a_gap_and_leaves_what_is_not_its_own(net: Net) -> None:
    lab = net.lab
    lab.on_host(NODE, "nft", "add", "table", "ip", "mine")
    argv = ["kubectl", "--kubeconfig", str(lab.kubeconfig), "-n", net.name, "exec", "-i", "client", "--"]
    argv += ["python3", "-c", HAMMER, net.cluster_ip("web"), net.cluster_ip("both")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hammer:
        assert hammer.stdout is not None and hammer.stdin is not None
        assert hammer.stdout.readline() == "begun\n"
        lab.hardway("kill", NODE, "kubeproxy")
        ready = ["curl", "-sf", "-m", "5", "http://127.0.0.1:10249/readyz"]
        eventually("it is back", lambda: lab.on_host(NODE, *ready, code=None).startswith("ok"), 90)
        hammer.stdin.write("stop\n")
        hammer.stdin.flush()
        assert hammer.stdout.readline() == "0 True stream still\n"
    assert "table ip mine" in lab.on_host(NODE, "nft", "list", "tables")
    lab.on_host(NODE, "nft", "delete", "table", "ip", "mine")


def test_policies_of_addresses_and_of_what_goes_out(net: Net) -> None:
    webs = {name: f"{net.address(name)}:8080" for name in ("web-0", "web-1")}
    except_one = {"cidr": "10.200.0.0/16", "except": [f"{net.address('web-1')}/32"]}
    rules = [{"to": [{"ipBlock": except_one}], "ports": [{"port": 8080}]}]
    chosen = {"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"], "egress": rules}
    kind = ("networking.k8s.io/v1", "NetworkPolicy")
    net.apply(manifest(*kind, "out", spec=chosen))
    eventually("one is out of reach", lambda: net.get_from(webs["web-1"]) == ["-"], 60)
    assert net.get_from(webs["web-0"]) == ["web-0"]
    assert net.get_from(net.cluster_ip("hinted"), 1) in (["web-0"], ["-"]), "judged after translation"
    net.kubectl("delete", "networkpolicy", "out")
    rules = [{"from": [{"ipBlock": {"cidr": "10.240.0.30/32"}}]}]
    chosen = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"], "ingress": rules}
    net.apply(manifest(*kind, "in", spec=chosen))
    eventually("closed to pods", lambda: net.get_from(webs["web-0"]) == ["-"], 60)
    ask = ["curl", "-s", "-m", "10", f"http://{webs['web-0']}/"]
    assert net.lab.on_host("balancer", *ask).strip() == "web-0"
    everybody = {"podSelector": {}, "policyTypes": ["Ingress"]}
    net.apply(manifest(*kind, "in", spec=everybody))
    eventually("closed to all", lambda: net.lab.on_host("balancer", *ask, code=None).strip() != "web-0", 60)
    named = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": net.name}}}
    net.apply(manifest(*kind, "in", spec={**everybody, "ingress": [{"from": [named]}]}))
    eventually("open to the namespace", lambda: net.get_from(webs["web-0"]) == ["web-0"], 60)
    net.kubectl("delete", "networkpolicy", "in")


def test_what_dns_says_besides_names(net: Net) -> None:
    a, aaaa, suffix = 1, 28, f"{net.name}.svc.cluster.local"
    assert net.asked(f"web.{suffix}", a) == (0, 0, 1, 0)
    assert net.asked(f"web.{suffix}", aaaa) == (0, 0, 0, 1), "no data, and for how long: the zone's SOA"
    assert net.asked(f"nobody.{suffix}", a) == (3, 0, 0, 1)
    dashed = net.address("web-0").replace(".", "-")
    assert net.asked(f"{dashed}.{net.name}.pod.cluster.local", a) == (0, 0, 1, 0)
    _, truncated, *_ = net.asked(f"large.{suffix}", a)
    assert truncated, "more than a datagram holds"
    assert net.asked(f"large.{suffix}", a, "tcp") == (0, 0, LARGE, 0)
    assert net.get_from("web")[0] in ("web-0", "web-1"), "by the search domains"
    service = "/api/v1/namespaces/kube-system/services/kube-dns:metrics/proxy/metrics"
    assert "dns_requests_total" in net.lab.kubectl("get", "--raw", service)


@pytest.fixture
def beside(net: Net) -> Iterator[str]:
    """The address of a second server of names, for another domain, that forwards to the cluster's."""
    system = ("-n", "kube-system")
    deployment = net.lab.get("deployment", "clusterdns", *system)
    spec: Object = deployment["spec"]["template"]["spec"]
    kept = [each for each in spec["containers"][0]["args"] if not each.startswith("--domain")]
    spec["containers"][0]["args"] = [*kept, "--domain=elsewhere.test", f"--forward={CLUSTER_DNS}"]
    pod = manifest("v1", "Pod", "beside", metadata={"namespace": "kube-system"}, spec=spec)
    net.lab.kubectl("apply", "-f", "-", stdin=pod)
    net.lab.kubectl("wait", *system, "--for=condition=Ready", "pod/beside", "--timeout=90s")
    yield str(net.lab.get("pod", "beside", *system)["status"]["podIP"])
    net.lab.kubectl("delete", "pod", "beside", *system, "--now")


def test_what_a_dns_server_does_not_know_it_asks_another(net: Net, beside: str) -> None:
    known = f"web.{net.name}.svc.cluster.local"
    for way in ("udp", "tcp"):
        assert net.asked(known, 1, way, beside)[:3] == (0, 0, 1), way
    assert net.asked("absent.svc.elsewhere.test", 1, "udp", beside) == (3, 0, 0, 1), "its own domain"
    assert net.asked("absent.svc.cluster.local", 1, "udp", beside) == (3, 0, 0, 1), "as it was told"
