"""The lab cloud in a network namespace of its own, and its configuration file."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from cloudcontroller.cloud import Balancer, CloudError, Listener, Route
from cloudcontroller.lab.cloud import LabCloud, load_cloud
from cloudcontroller.lab.health import Check, Health
from cloudcontroller.lab.router import Router, listener_rules, route_words
from componentbase.clock import FakeClock
from tests.netns import namespace

can_enter = os.geteuid() == 0 and shutil.which("ip") is not None
needs_root = pytest.mark.skipif(not can_enter, reason="needs root and iproute2")
FILE = """
cluster: t
router: {{netns: {netns}}}
balancers: {{pool: 10.240.1.0/29}}
instances:
  - {{name: w0, address: 10.240.0.20, type: lab.host}}
"""


@pytest.fixture
def netns() -> Iterator[str]:
    """A namespace without a name: it lives as long as the process that made it."""
    with namespace() as holder:
        path = f"/proc/{holder}/ns/net"
        for line in ("link add r0 type bridge", "addr add 10.240.0.1/24 dev r0", "link set r0 up"):
            inside(path, f"ip {line}")
        yield path


@pytest.mark.root
@needs_root
def test_routes_are_made_replaced_listed_and_removed(netns: str) -> None:
    async def scenario() -> None:
        router = Router(netns)
        first, moved = Route("10.200.0.0/24", "10.240.0.20"), Route("10.200.0.0/24", "10.240.0.21")
        await router.create_route(first)
        await router.create_route(first)
        assert await router.list_routes() == [first]
        await router.create_route(moved)
        assert await router.list_routes() == [moved]
        await router.delete_route(moved)
        await router.delete_route(moved)
        assert await router.list_routes() == []
        with pytest.raises(CloudError, match=r"ip route replace 10\.200\.0\.0/24 via 192\.0\.2\.1"):
            await router.create_route(Route("10.200.0.0/24", "192.0.2.1"))

    asyncio.run(scenario())


def balancer(*targets: str, address: str = "10.240.1.1", port: int = 80) -> Balancer:
    return Balancer(address, (Listener("TCP", port),), targets, 10256, "/healthz")


def inside(netns: str, command: str) -> str:
    """What a command prints in the namespace."""
    argv = ["nsenter", f"--net={netns}", *command.split()]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def routed(netns: str) -> str:
    return inside(netns, "ip route show proto 202")


@pytest.mark.root
@needs_root
def test_a_balancer_is_announced_for_the_nodes_that_answer(netns: str, tmp_path: Path) -> None:
    """Two nodes, then one, then none, then withdrawn; pod routes are never touched by it."""
    file = tmp_path / "cloud.yaml"
    file.write_text(FILE.format(netns=netns))
    well = {"10.240.0.20", "10.240.0.21"}

    async def ask(check: Check) -> bool:
        return check.node in well

    async def scenario() -> None:
        clock = FakeClock()
        cloud = LabCloud(str(file), ask=ask, clock=clock)

        async def until(*words: str) -> None:
            async with asyncio.timeout(30):
                while not all(word in routed(netns) for word in words):
                    clock.advance(2)
                    await asyncio.sleep(0.02)

        await cloud.create_route(Route("10.200.0.0/24", "10.240.0.20"))
        async with asyncio.TaskGroup() as group:
            work = group.create_task(cloud.run())
            await cloud.ensure_balancer(balancer("10.240.0.20", "10.240.0.21"))
            await until("10.240.1.1", "nexthop via 10.240.0.20", "nexthop via 10.240.0.21")
            well.discard("10.240.0.21")
            await until("10.240.1.1 via 10.240.0.20")
            well.clear()
            await until("unreachable 10.240.1.1")
            assert await cloud.list_balancers() == ["10.240.1.1"]
            assert "10.240.1.1 . tcp . 80" in inside(netns, "nft list ruleset")
            await cloud.delete_balancer("10.240.1.1")
            await cloud.delete_balancer("10.240.1.1")
            assert await cloud.list_balancers() == [] and len(await cloud.list_routes()) == 1
            work.cancel()

    asyncio.run(scenario())


@pytest.mark.root
@needs_root
def test_an_instance_is_off_when_its_cable_is_out_and_gone_when_the_file_says_so(
    netns: str, tmp_path: Path
) -> None:
    file = tmp_path / "cloud.yaml"
    file.write_text(FILE.format(netns=netns))

    async def scenario() -> None:
        cloud = LabCloud(str(file))
        found = await cloud.instance("w0", "")
        assert found is not None and found.provider_id == "lab://t/w0"
        assert found.addresses == (("InternalIP", "10.240.0.20"), ("Hostname", "w0"))
        assert await cloud.instance("w0", "lab://other/w0") is None
        assert await cloud.is_shut_down(found)
        inside(netns, "ip link add w0 type bridge")
        assert not await cloud.is_shut_down(found)
        file.write_text("router: {}")
        os.utime(file, ns=(1, 1))
        with pytest.raises(CloudError, match=r"router\.netns"):
            await cloud.instance("w0", "")
        file.write_text(FILE.format(netns=netns).replace("w0", "w9"))
        os.utime(file, ns=(2, 2))
        assert await cloud.instance("w0", "") is None

    asyncio.run(scenario())


def test_a_namespace_that_is_not_there_is_named() -> None:
    with pytest.raises(CloudError, match="no-such-namespace"):
        asyncio.run(Router("/run/netns/no-such-namespace").list_routes())


def test_announcements_as_arguments_and_rules() -> None:
    assert " ".join(route_words("a", [])) == "unreachable a/32 proto 202"
    assert " ".join(route_words("a", ["x"])) == "a/32 proto 202 via x"
    assert " ".join(route_words("a", ["x", "y"])) == "a/32 proto 202 nexthop via x nexthop via y"
    rules = listener_rules(
        IPv4Network("10.240.1.0/29"), [balancer(), balancer(address="10.240.1.2", port=53)]
    )
    assert "elements = { 10.240.1.1 . tcp . 80, 10.240.1.2 . tcp . 53 };" in rules
    assert "ip daddr 10.240.1.0/29 reject" in rules
    assert "elements" not in listener_rules(IPv4Network("10.240.1.0/29"), [])


def test_a_node_is_well_from_its_first_answer_until_two_are_missing() -> None:
    health, one = Health(), balancer("n")
    check = Check("n", 10256, "/healthz")
    assert health.well(one) == []
    health.note(check, True)
    health.note(check, False)
    assert health.well(one) == ["n"]
    health.note(check, False)
    assert health.well(one) == []
    health.note(check, True)
    assert health.well(one) == ["n"]
    health.keep(set())
    assert health.well(one) == []


@pytest.mark.parametrize(
    ("provider", "text", "complaint"),
    [
        ("aws", "", "unknown cloud provider"),
        ("lab", "router: {}", "router.netns is required"),
        ("lab", "router: {netns: /x, mtu: 9}", "router.mtu"),
        ("lab", "rooter: {netns: /x}", "rooter"),
        ("lab", "{router: {netns: /x}, balancers: {pool: 10.0.0.1/8}}", "balancers.pool"),
        ("lab", "{router: {netns: /x}, instances: [{name: w0}]}", r"instances\[0\]: name and address"),
        ("lab", "[", "not YAML"),
    ],
)
def test_bad_cloud_configuration_is_refused(provider: str, text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "cloud.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        load_cloud(provider, str(file))
