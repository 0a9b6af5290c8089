"""Mode userspace for real: the back end in the node's network namespace, asked by pods, the host and a client
outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kubeproxy.objects import endpoint, service, slice_of
from tests.kubeproxy.test_kubeproxy_kernel import (
    CLIENT_IP,
    NODE_IP,
    POD_ONE,
    POD_TWO,
    SERVICE_IP,
    Lab,
    raise_lab,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

# Reads what is to be served line by line: a Service and its EndpointSlices.
DRIVER = """
import asyncio, json, sys
from kubeproxy.compiler import Settings
from kubeproxy.model import service_ports
from kubeproxy.userspace import addresses, compiler
from kubeproxy.userspace.backend import Userspace

async def main():
    settings = Settings(cluster_cidrs=("10.200.0.0/16",))
    async with Userspace(settings) as backend:
        while line := await asyncio.to_thread(sys.stdin.readline):
            said = json.loads(line)
            ports = service_ports(said["service"], said["slices"], "node") if said["service"] else []
            fragments = [compiler.compile_port(port, settings) for port in ports]
            await backend.program(None, compiler.assemble(fragments, settings))
            print("programmed", flush=True)
    await addresses.remove(addresses.Loopback())

asyncio.run(main())
"""
ONE, TWO = endpoint(POD_ONE, "node"), endpoint(POD_TWO, "node")
OUTSIDE_IP = "203.0.113.4"


class Relayed(Lab):
    """A lab whose node runs the back end."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        super().__init__(stack, "userspace")
        self._driver: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = (*self._enter("node"), sys.executable, "-c", DRIVER)
        self._driver = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def stop(self) -> None:
        """As at its end with --cleanup."""
        if self._driver is not None:
            self._driver.communicate(timeout=60)
            assert self._driver.returncode == 0

    def lead(self, *endpoints: Any, **spec: Any) -> None:
        ports = [
            {"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"},
            {"name": "udp", "port": 53, "nodePort": 30053, "protocol": "UDP"},
        ]
        udp = slice_of("web", *endpoints, port_name="udp", protocol="UDP")
        self._say(
            service=service(ip=SERVICE_IP, type="NodePort", ports=ports, **spec),
            slices=[slice_of("web", *endpoints), udp],
        )

    def lead_nowhere(self) -> None:
        self._say(service=None, slices=[])

    def _say(self, **said: Any) -> None:
        assert self._driver is not None
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.write(json.dumps(said) + "\n")
        assert self._driver.stdout.readline() == "programmed\n"

    def labelled(self) -> set[str]:
        listing = self.inside("node", "ip", "-json", "-4", "address", "show", "dev", "lo")
        (lo,) = json.loads(listing)
        return {each["local"] for each in lo["addr_info"] if each["label"] == "lo:kubeproxy"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Relayed]:
    with contextlib.ExitStack() as stack:
        lab = Relayed(stack)
        raise_lab(lab)
        # What an earlier life left behind.
        lab.inside("node", "ip", "address", "add", "10.32.0.99/32", "dev", "lo", "label", "lo:kubeproxy")
        lab.start()
        yield lab
        lab.stop()
        assert lab.labelled() == set()


def test_everybody_reaches_the_service_and_backends_see_the_node(lab: Relayed) -> None:
    lab.lead(TWO, externalIPs=[OUTSIDE_IP])
    assert lab.labelled() == {SERVICE_IP, OUTSIDE_IP}
    for asker in ("one", "two", "node", "client"):
        for address in (SERVICE_IP, OUTSIDE_IP):
            assert lab.ask(asker, address, 80) == ["two 10.200.0.1"], (asker, address)
            assert lab.ask(asker, address, 53, "udp") == ["two 10.200.0.1"], (asker, address)


def test_node_ports_on_the_nodes_addresses_alone(lab: Relayed) -> None:
    lab.lead(ONE)
    for asker, address in (("client", NODE_IP), ("two", "10.200.0.1"), ("node", "198.51.100.1")):
        assert lab.ask(asker, address, 30080) == ["one 10.200.0.1"], (asker, address)
        assert lab.ask(asker, address, 30053, "udp") == ["one 10.200.0.1"], (asker, address)
    assert lab.ask("node", "127.0.0.1", 30080) == ["ConnectionRefusedError"]
    assert lab.ask("one", SERVICE_IP, 30080) == ["ConnectionRefusedError"]


def test_without_endpoints_and_on_other_ports_it_refuses(lab: Relayed) -> None:
    lab.lead()
    for asker in ("one", "node", "client"):
        assert lab.ask(asker, SERVICE_IP, 80) == ["ConnectionRefusedError"], asker
        assert lab.ask(asker, SERVICE_IP, 53, "udp") == ["ConnectionRefusedError"], asker
    lab.lead(ONE)
    assert lab.ask("one", SERVICE_IP, 81) == ["ConnectionRefusedError"]


def test_local_policy_turns_away_those_outside_only(lab: Relayed) -> None:
    lab.lead(endpoint(POD_TWO, "elsewhere"), externalTrafficPolicy="Local")
    assert lab.ask("client", NODE_IP, 30080) == ["ConnectionResetError"], CLIENT_IP
    assert lab.ask("one", NODE_IP, 30080) == ["two 10.200.0.1"]
    assert lab.ask("node", NODE_IP, 30080) == ["two 10.200.0.1"]
    lab.lead(TWO, externalTrafficPolicy="Local")
    assert lab.ask("client", NODE_IP, 30080) == ["two 10.200.0.1"]


def test_a_service_that_goes_takes_its_address_along(lab: Relayed) -> None:
    lab.lead(ONE)
    assert lab.labelled() == {SERVICE_IP}
    lab.lead_nowhere()
    assert lab.labelled() == set()
