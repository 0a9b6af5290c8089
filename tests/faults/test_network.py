"""Packets between two namespaces, with and without a fault; afterwards nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from deploy.faults import network
from deploy.faults.fault import Fault, FaultError
from tests.faults.conftest import Host, sleeper

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

Hosts = tuple[Host, Host]


def reaches(source: Host, target: Host, port: int) -> bool:
    """Does a TCP connection come to an answer (be it a refusal)?"""
    script = (
        "import socket, sys\ns = socket.socket(); s.settimeout(0.4)\n"
        f"try: s.connect(('{target.address}', {port}))\n"
        "except ConnectionRefusedError: pass\nexcept OSError: sys.exit(1)"
    )
    return source.run(sys.executable, "-c", script).returncode == 0


def leftovers(host: Host) -> str:
    return host.run("nft", "list", "ruleset").stdout


def test_a_partition_cuts_both_ways_and_leaves_nothing(hosts: Hosts) -> None:
    a, b = hosts
    assert reaches(a, b, 9)
    fault = network.partitioned(a.network, peers=[b.address])
    with fault:
        assert not reaches(a, b, 9)
        assert not reaches(b, a, 9)
    assert reaches(a, b, 9)
    assert leftovers(a) == ""
    fault.undo()


def test_peers_and_ports_select(hosts: Hosts) -> None:
    a, b = hosts
    with network.partitioned(a.network, peers=["10.9.0.77"]):
        assert reaches(a, b, 9)
    with network.partitioned(a.network, peers=[b.address], ports=[2380]):
        assert not reaches(a, b, 2380)
        assert not reaches(b, a, 2380)
        assert reaches(a, b, 2379)


@pytest.mark.parametrize("direction", ["in", "out"])
def test_one_way(hosts: Hosts, direction: network.Direction) -> None:
    a, b = hosts
    listener = [sys.executable, "-u", "-c", LISTENER]
    b_hears = subprocess.Popen(
        ["nsenter", f"--net={b.network}", "--", *listener], stdout=subprocess.PIPE, text=True
    )
    try:
        assert b_hears.stdout is not None
        assert b_hears.stdout.readline() == "listening\n"
        with network.partitioned(a.network, peers=[b.address], direction=direction):
            send = f"import socket; socket.socket(2, 2).sendto(b'x', ('{b.address}', 7))"
            a.run(sys.executable, "-c", send)
            assert b_hears.stdout.readline() == ("nothing\n" if direction == "out" else "heard\n")
    finally:
        b_hears.kill()
        b_hears.communicate()


LISTENER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 7)); s.settimeout(2)
print("listening")
try: s.recv(10); print("heard")
except TimeoutError: print("nothing")
"""


DATAGRAMS = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
lost = 0
for _ in range(400):
    try: s.sendto(b"x", ("{target}", 7))
    except PermissionError: lost += 1  # dropped on its own host: the sender is told
    except ConnectionRefusedError: pass
print(lost)
"""


def test_loopback_is_never_cut(hosts: Hosts) -> None:
    a, _ = hosts
    with network.partitioned(a.network):
        assert reaches(a, Host(a.pid, "127.0.0.1"), 9)


def test_loss(hosts: Hosts) -> None:
    a, b = hosts
    with network.lossy(a.network, 50, peers=[b.address], direction="out"):
        lost = int(a.run(sys.executable, "-c", DATAGRAMS.format(target=b.address)).stdout)
    assert 100 < lost < 300


def test_a_throttled_host_sends_slowly(hosts: Hosts) -> None:
    a, _ = hosts
    with network.throttled(a.network, 800):
        assert "rate 800Kbit" in a.run("tc", "qdisc", "show", "dev", "eth0").stdout
    assert "tbf" not in a.run("tc", "qdisc", "show", "dev", "eth0").stdout


def test_a_namespace_that_is_gone_needs_no_undoing() -> None:
    gone = sleeper()
    fault = network.partitioned(f"/proc/{gone.pid}/ns/net")
    fault.apply()
    gone.kill()
    gone.wait()
    fault.undo()
    assert not fault.applied


def test_the_machines_own_network_is_never_touched() -> None:
    with pytest.raises(FaultError, match="the machine's own"):
        network.partitioned("/proc/self/ns/net").apply()


def test_what_cannot_be_applied_says_so(hosts: Hosts) -> None:
    a, _ = hosts
    with (
        pytest.raises(FaultError, match="no-such-device"),
        network.throttled(a.network, 100, device="no-such-device"),
    ):
        pass


def test_half_applied_is_undone() -> None:
    done: list[str] = []

    def fail() -> None:
        done.append("half")
        raise OSError("no")

    fault = Fault("bad", fail, lambda: done.append("undone"))
    with pytest.raises(OSError, match="no"):
        fault.apply()
    assert done == ["half", "undone"]
    assert not fault.applied
