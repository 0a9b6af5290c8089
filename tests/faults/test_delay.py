"""Latency between two namespaces, with and without the fault; and the messages that it rests on."""

from __future__ import annotations

import os
import struct
import sys

import pytest

from deploy.faults import delay
from deploy.faults.delay import delayed
from deploy.faults.fault import FaultError
from tests.faults.conftest import Host

NEEDS_ROOT = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
Hosts = tuple[Host, Host]

# The fastest of a few round trips, in milliseconds: a busy machine only ever makes one slower.
ROUND_TRIP = """
import socket, sys, time
best = 9e9
for _ in range(3):
    with socket.socket() as s:
        s.settimeout(20)
        began = time.monotonic()
        try: s.connect((sys.argv[1], 9))
        except ConnectionRefusedError: pass
        best = min(best, time.monotonic() - began)
print(best * 1000)
"""


def round_trip(source: Host, target: Host) -> float:
    done = source.run(sys.executable, "-c", ROUND_TRIP, target.address)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


class TestOnACable:
    pytestmark = NEEDS_ROOT

    def test_each_way_takes_longer_and_nothing_is_left(self, hosts: Hosts) -> None:
        a, b = hosts
        before = a.run("iptables", "-t", "mangle", "-S").stdout
        fault = delayed(a.network, 400, name=f"test-{a.pid}")
        with fault:
            assert round_trip(a, b) >= 800
            assert round_trip(b, a) >= 800
        assert round_trip(a, b) < 800
        assert a.run("iptables", "-t", "mangle", "-S").stdout == before
        fault.undo()

    def test_another_process_can_undo_it(self, hosts: Hosts) -> None:
        a, b = hosts
        delayed(a.network, 400, name=f"test-{a.pid}").apply()
        same = delayed(a.network, 400, name=f"test-{a.pid}")
        same.adopt()
        same.undo()
        assert round_trip(a, b) < 800

    def test_one_queue_a_namespace(self, hosts: Hosts) -> None:
        a, _ = hosts
        with delayed(a.network, 1, name=f"test-{a.pid}"), pytest.raises(FaultError, match="delay"):
            delayed(a.network, 1, name=f"other-{a.pid}").apply()


def test_a_message_is_read_back() -> None:
    header = struct.pack(">IHB", 77, 0x0800, 1)
    data = delay.message(delay.PACKET, 0, (delay.PACKET_HDR, header)) * 2
    found = [delay.packet_number(body) for kind, body in delay.messages(data) if kind == delay.PACKET]
    assert found == [77, 77]


@pytest.mark.parametrize("cut", range(0, 28, 3))
def test_half_a_message_is_no_packet(cut: int) -> None:
    whole = delay.message(delay.PACKET, 0, (9, b"1234"), (delay.PACKET_HDR, bytes(8)))
    for _, body in delay.messages(whole[:cut]):
        assert delay.packet_number(body) is None
