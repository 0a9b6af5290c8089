"""The lab cloud in a network namespace of its own, and its configuration file."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from controllers.cloud import CloudError, Route
from controllers.route.lab import LabCloud, load_cloud

can_enter = os.geteuid() == 0 and shutil.which("ip") is not None


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"ctl-test-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        inside = ["ip", "-n", name]
        subprocess.run([*inside, "link", "add", "r0", "type", "bridge"], check=True)
        subprocess.run([*inside, "addr", "add", "10.240.0.1/24", "dev", "r0"], check=True)
        subprocess.run([*inside, "link", "set", "r0", "up"], check=True)
        yield f"/run/netns/{name}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.root
@pytest.mark.skipif(not can_enter, reason="needs root and iproute2")
def test_routes_are_made_replaced_listed_and_removed(netns: str) -> None:
    async def scenario() -> None:
        cloud = LabCloud(netns)
        first, moved = Route("10.200.0.0/24", "10.240.0.20"), Route("10.200.0.0/24", "10.240.0.21")
        await cloud.create_route(first)
        await cloud.create_route(first)
        assert await cloud.list_routes() == [first]
        await cloud.create_route(moved)
        assert await cloud.list_routes() == [moved]
        await cloud.delete_route(moved)
        await cloud.delete_route(moved)
        assert await cloud.list_routes() == []
        with pytest.raises(CloudError, match=r"ip route replace 10\.200\.0\.0/24 via 192\.0\.2\.1"):
            await cloud.create_route(Route("10.200.0.0/24", "192.0.2.1"))

    asyncio.run(scenario())


def test_a_namespace_that_is_not_there_is_named() -> None:
    with pytest.raises(CloudError, match="no-such-namespace"):
        asyncio.run(LabCloud("/run/netns/no-such-namespace").list_routes())


@pytest.mark.parametrize(
    ("provider", "text", "complaint"),
    [
        ("aws", "", "unknown cloud provider"),
        ("lab", "router: {}", "router.netns is required"),
        ("lab", "router: {netns: /x, mtu: 9}", "router.mtu"),
        ("lab", "rooter: {netns: /x}", "rooter"),
    ],
)
def test_bad_cloud_configuration_is_refused(provider: str, text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "cloud.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        load_cloud(provider, str(file))
    assert load_cloud("", "") is None
