"""Real packets through real rules: a node, two pods and an outside client, each a network namespace of its
own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kubeproxy import compiler, iptables, iptables_compiler, nftables
from kubeproxy.compiler import Settings
from kubeproxy.model import ServicePort, service_ports
from kubeproxy.rules import RuleSet
from tests.kubeproxy.objects import endpoint, service, slice_of
from tests.netns import namespace

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft (package nftables)"),
]

NODE_IP, CLIENT_IP, POD_ONE, POD_TWO = "10.240.0.20", "10.240.0.99", "10.200.0.5", "10.200.0.6"
SERVICE_IP = "10.32.0.10"
SETTINGS = Settings(cluster_cidrs=("10.200.0.0/16",))

# Answers every TCP connection and UDP packet with the address of the asker.
SERVER = """
import socket, sys, threading
name = sys.argv[1]
tcp = socket.create_server(("0.0.0.0", 8080))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("0.0.0.0", 8080))
def datagrams():
    while True:
        _, peer = udp.recvfrom(100)
        udp.sendto(f"{name} {peer[0]}".encode(), peer)
threading.Thread(target=datagrams, daemon=True).start()
print("ready", flush=True)
while True:
    peer, address = tcp.accept()
    with peer: peer.sendall(f"{name} {address[0]}".encode())
"""
ASK = """
import json, socket, sys
host, port, kind, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
answers = []
for _ in range(count):
    try:
        if kind == "tcp":
            with socket.create_connection((host, port), 2) as s: answers.append(s.recv(100).decode())
        else:
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
            s.connect((host, port)); s.send(b"?"); answers.append(s.recv(100).decode()); s.close()
    except OSError as error:
        answers.append(type(error).__name__)
print(json.dumps(answers))
"""

ECHO = """
import socket
server = socket.create_server(("0.0.0.0", 9000))
print("ready", flush=True)
peer, _ = server.accept()
while data := peer.recv(100): peer.sendall(data)
"""
TALK = """
import socket, sys
s = socket.create_connection(("10.32.0.10", 80), 2)
for _ in range(20):
    print("said", flush=True); sys.stdin.readline(); s.sendall(b"x"); assert s.recv(1) == b"x"
"""


def run(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout


class Lab:
    """Network namespaces that are gone when the test is."""

    def __init__(self, stack: contextlib.ExitStack, mode: str) -> None:
        self.mode = mode
        self._holders: dict[str, int] = {}
        self._stack = stack

    def add(self, name: str) -> None:
        self._holders[name] = self._stack.enter_context(namespace())
        self.inside(name, "ip", "link", "set", "lo", "up")

    def _enter(self, name: str) -> tuple[str, ...]:
        return ("nsenter", f"--net=/proc/{self._holders[name]}/ns/net")

    def inside(self, name: str, *argv: str, stdin: str | None = None) -> str:
        return run(*self._enter(name), *argv, stdin=stdin)

    def wire(self, name: str, address: str, gateway: str, bridge: str) -> None:
        """Join a namespace to a bridge of the node."""
        port = f"to-{name}"
        peer = str(self._holders[name])
        self.inside("node", "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", peer)
        self.inside("node", "ip", "link", "set", port, "master", bridge, "up")
        self.inside("node", "bridge", "link", "set", "dev", port, "hairpin", "on")
        self.inside(name, "ip", "address", "add", address, "dev", "eth0")
        self.inside(name, "ip", "link", "set", "eth0", "up")
        self.inside(name, "ip", "route", "add", "default", "via", gateway)

    def serve(self, name: str) -> None:
        server = subprocess.Popen(
            [*self._enter(name), sys.executable, "-c", SERVER, name], stdout=subprocess.PIPE, text=True
        )
        self._stack.callback(_end, server)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

    def ask(self, name: str, host: str, port: int, kind: str = "tcp", count: int = 1) -> list[str]:
        text = self.inside(name, sys.executable, "-c", ASK, host, str(port), kind, str(count))
        answers: list[str] = json.loads(text)
        return answers

    def rules(self, ports: list[ServicePort]) -> RuleSet:
        chosen = compiler if self.mode == "nftables" else iptables_compiler
        rules: RuleSet = chosen.assemble([chosen.compile_port(port, SETTINGS) for port in ports], SETTINGS)
        return rules

    def program(self, ports: list[ServicePort]) -> None:
        """As a proxy that has just started would."""
        rules = self.rules(ports)
        if self.mode == "nftables":
            enter = (*self._enter("node"), "nft", "--json", "--terse", "list", "table", "ip", "kube-proxy")
            listing = subprocess.run(enter, capture_output=True, timeout=30, check=False)
            present = None if listing.returncode else nftables.inventory(listing.stdout)
            self.apply(nftables.full(rules, present))
            return
        self.apply(iptables.restore(iptables.ours(self.inside("node", "iptables-save")), rules.chains))
        for table, chain, rule in iptables.jumps():
            check = (*self._enter("node"), "iptables", "-t", table, "-C", chain, *rule)
            if subprocess.run(check, capture_output=True, timeout=30, check=False).returncode:
                self.inside("node", "iptables", "-t", table, "-I", chain, *rule)

    def change(self, old: list[ServicePort], new: list[ServicePort]) -> None:
        before, after = self.rules(old), self.rules(new)
        if self.mode == "nftables":
            self.apply(nftables.update(before, after))
        else:
            self.apply(iptables.restore(before.chains, after.chains))

    def apply(self, text: str) -> None:
        program = ("nft", "-f", "-") if self.mode == "nftables" else ("iptables-restore", "--noflush")
        if text:
            self.inside("node", *program, stdin=text)

    def listing(self) -> str:
        if self.mode == "nftables":
            return self.inside("node", "nft", "-n", "list", "table", "ip", "kube-proxy")
        saved = self.inside("node", "iptables-save").splitlines()
        return "\n".join(sorted(line for line in saved if "KUBE-" in line))


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def raise_lab(lab: Lab) -> None:
    """The node, its pods `one` and `two`, which serve, and `client` outside."""
    for name in ("node", "one", "two", "client"):
        lab.add(name)
    bridges = (("pods", "10.200.0.1/24"), ("lan", f"{NODE_IP}/24"), ("wan", "198.51.100.1/24"))
    for bridge, address in bridges:
        lab.inside("node", "ip", "link", "add", bridge, "type", "bridge")
        lab.inside("node", "ip", "address", "add", address, "dev", bridge)
        lab.inside("node", "ip", "link", "set", bridge, "up")
    lab.wire("one", f"{POD_ONE}/24", "10.200.0.1", "pods")
    lab.wire("two", f"{POD_TWO}/24", "10.200.0.1", "pods")
    lab.wire("client", f"{CLIENT_IP}/24", NODE_IP, "lan")
    lab.inside("node", "sysctl", "-qw", "net.ipv4.ip_forward=1")
    # Service addresses need a route of their own: one back to the asker would make the kernel send
    # redirects, which share their rate limit with the refusals tested here.
    lab.inside("node", "ip", "route", "add", "default", "dev", "wan")
    for pod in ("one", "two"):
        lab.serve(pod)


@pytest.fixture(scope="module", params=["nftables", "iptables"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        lab = Lab(stack, request.param)
        raise_lab(lab)
        yield lab


ONE, TWO = endpoint(POD_ONE, "node"), endpoint(POD_TWO, "node")


def compiled(*endpoints: Any, **spec: Any) -> list[ServicePort]:
    ports = [
        {"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"},
        {"name": "udp", "port": 53, "nodePort": 30053, "protocol": "UDP"},
    ]
    svc = service(ip=SERVICE_IP, type="NodePort", ports=ports, **spec)
    tcp = slice_of("web", *endpoints)
    udp = slice_of("web", *endpoints, port_name="udp", protocol="UDP")
    udp["metadata"]["name"] = "web-udp"
    return service_ports(svc, [tcp, udp], "node")


def test_cluster_ip_from_a_pod_keeps_the_source(lab: Lab) -> None:
    lab.program(compiled(TWO))
    assert lab.ask("one", SERVICE_IP, 80) == [f"two {POD_ONE}"]
    assert lab.ask("one", SERVICE_IP, 53, "udp") == [f"two {POD_ONE}"]


def test_cluster_ip_from_the_host_and_from_outside(lab: Lab) -> None:
    lab.program(compiled(ONE))
    assert lab.ask("node", SERVICE_IP, 80) == ["one 10.200.0.1"]
    assert lab.ask("client", SERVICE_IP, 80) == ["one 10.200.0.1"]


def test_hairpin_a_pod_reaches_itself_through_its_service(lab: Lab) -> None:
    lab.program(compiled(ONE))
    assert lab.ask("one", SERVICE_IP, 80) == ["one 10.200.0.1"]
    assert lab.ask("one", SERVICE_IP, 53, "udp") == ["one 10.200.0.1"]


def test_node_port_on_every_host_address(lab: Lab) -> None:
    lab.program(compiled(TWO))
    for asker, address in (
        ("client", NODE_IP),
        ("client", "10.200.0.1"),
        ("one", NODE_IP),
        ("node", NODE_IP),
    ):
        assert lab.ask(asker, address, 30080)[0].startswith("two "), (asker, address)
    assert lab.ask("client", NODE_IP, 30053, "udp") == ["two 10.200.0.1"]


def test_local_policy_keeps_the_clients_address(lab: Lab) -> None:
    lab.program(compiled(TWO, externalTrafficPolicy="Local"))
    assert lab.ask("client", NODE_IP, 30080) == [f"two {CLIENT_IP}"]


def test_connections_are_spread_and_affinity_holds_them(lab: Lab) -> None:
    lab.program(compiled(ONE, TWO))
    assert {each.split()[0] for each in lab.ask("client", SERVICE_IP, 80, count=40)} == {"one", "two"}
    lab.program(compiled(ONE, TWO, sessionAffinity="ClientIP"))
    assert len({each.split()[0] for each in lab.ask("client", SERVICE_IP, 80, count=20)}) == 1


def test_a_service_without_endpoints_refuses_at_once(lab: Lab) -> None:
    lab.program(compiled())
    started = time.monotonic()
    for asker in ("one", "node", "client"):
        assert lab.ask(asker, SERVICE_IP, 80) == ["ConnectionRefusedError"], asker
    if lab.mode == "nftables":
        # kube-proxy's iptables mode does not know which ports an address has not.
        assert lab.ask("client", SERVICE_IP, 81) == ["ConnectionRefusedError"]
    assert lab.ask("one", SERVICE_IP, 53, "udp") == ["ConnectionRefusedError"]
    assert time.monotonic() - started < 5


def test_the_kernel_accepts_every_incremental_change(lab: Lab) -> None:
    states: list[list[ServicePort]] = [
        [],
        compiled(ONE),
        compiled(ONE, TWO),
        compiled(TWO, sessionAffinity="ClientIP"),
        compiled(ONE, TWO, externalTrafficPolicy="Local", externalIPs=["203.0.113.4"]),
        compiled(),
        compiled(TWO, internalTrafficPolicy="Local"),
        [],
    ]
    lab.program(states[0])
    for old, new in itertools.pairwise(states):
        lab.change(old, new)
    after = lab.listing()
    lab.program(states[-1])
    assert after == lab.listing()


def test_programming_again_does_not_break_an_open_connection(lab: Lab) -> None:
    lab.program(compiled(TWO))
    ports = [{"name": "http", "port": 80}]
    svc = service(ip=SERVICE_IP, ports=ports)
    served = service_ports(svc, [slice_of("web", TWO, port=9000)], "node")
    lab.program(served)
    enter = lab._enter("two")
    server = subprocess.Popen([*enter, sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        client = subprocess.Popen(
            [*lab._enter("one"), sys.executable, "-c", TALK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with client:
            assert client.stdin is not None
            assert client.stdout is not None
            for _ in range(20):
                assert client.stdout.readline() == "said\n"
                lab.program(served)
                client.stdin.write("\n")
                client.stdin.flush()
            assert client.wait(5) == 0
    finally:
        _end(server)


def test_clients_are_remembered_over_a_restart_of_the_proxy(lab: Lab) -> None:
    sticky = compiled(ONE, TWO, sessionAffinity="ClientIP")
    lab.program(compiled(ONE, TWO))
    seen: set[str] = set()
    for _ in range(6):
        lab.program(sticky)
        seen |= {each.split()[0] for each in lab.ask("client", SERVICE_IP, 80, count=4)}
    assert len(seen) == 1
    lab.program(compiled(TWO))
    assert not {"affinity", "--rcheck"} & set(lab.listing().split())


def balanced(**spec: Any) -> list[ServicePort]:
    svc = service(ip=SERVICE_IP, type="LoadBalancer", ports=[{"name": "http", "port": 80}], **spec)
    svc["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.50"}]}}
    return service_ports(svc, [slice_of("web", TWO)], "node")


def test_a_load_balancer_lets_its_source_ranges_in(lab: Lab) -> None:
    lab.program(balanced(loadBalancerSourceRanges=["10.240.0.0/24"]))
    assert lab.ask("client", "198.51.100.50", 80) == ["two 10.200.0.1"]
    lab.program(balanced(loadBalancerSourceRanges=["10.241.0.0/24"]))
    assert lab.ask("client", "198.51.100.50", 80) == ["TimeoutError"]
