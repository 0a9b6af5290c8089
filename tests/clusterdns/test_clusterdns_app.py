"""The daemon as a whole: from objects behind an API to answers over UDP, and its pages."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from dnslib import RCODE, DNSRecord

from clusterdns import app
from tests.kubeclient.fakeapi import running
from tests.kubeclient.loops import on_loop
from tests.ports import free_port

SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


def kubeconfig(folder: Path, server: str) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "current-context": "c",
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return path


async def ask(port: int, name: str, kind: str = "A") -> DNSRecord:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        await loop.sock_sendall(sock, bytes(DNSRecord.question(name, kind).pack()))
        async with asyncio.timeout(5):
            return DNSRecord.parse(await loop.sock_recv(sock, 65535))


async def until(port: int, name: str, expected: list[str], kind: str = "A") -> None:
    said: list[str] = []
    for _ in range(500):
        try:
            said = [str(rr.rdata) for rr in (await ask(port, name, kind)).rr]
        except ConnectionRefusedError:
            said = ["nobody listens"]
        if said == expected:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{name}: {said}, not {expected}")


def service(name: str, ip: str) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"clusterIP": ip, "ports": ports}}


def test_answers_follow_the_cluster(tmp_path: Path) -> None:
    async def test() -> None:
        async with running() as (api, _):
            api.put("/api/v1/namespaces", {"metadata": {"name": "default"}})
            api.put(SERVICES, service("web", "10.32.0.20"))
            dns, health, ready, metrics = (free_port() for _ in range(4))
            values = app.declare_flags().parse(
                [
                    f"--kubeconfig={kubeconfig(tmp_path, f'http://127.0.0.1:{api.port}')}",
                    f"--listen=127.0.0.1:{dns}",
                    f"--health-listen=127.0.0.1:{health}",
                    f"--ready-listen=127.0.0.1:{ready}",
                    f"--metrics-listen=127.0.0.1:{metrics}",
                    f"--resolv-conf={tmp_path / 'none'}",
                    "--domain=lab.test",
                    "--lameduck=300ms",
                ]
            )
            async with asyncio.TaskGroup() as group:
                daemon = group.create_task(app.run(values))
                await until(dns, "web.default.svc.lab.test", ["10.32.0.20"])
                api.put(SERVICES, service("web", "10.32.0.21"))
                await until(dns, "web.default.svc.lab.test", ["10.32.0.21"])
                await until(dns, "21.0.32.10.in-addr.arpa", ["web.default.svc.lab.test."], "PTR")
                api.put(SERVICES, service("db", "None"))
                labels = {"kubernetes.io/service-name": "db"}
                endpoints = [{"addresses": ["10.200.0.7"], "hostname": "db-0", "conditions": {"ready": True}}]
                api.put(SLICES, {"metadata": {"name": "db-1", "namespace": "default", "labels": labels},
                                 "ports": [], "endpoints": endpoints})  # fmt: skip
                await until(dns, "db-0.db.default.svc.lab.test", ["10.200.0.7"])
                api.remove(f"{SERVICES}/web")
                await until(dns, "web.default.svc.lab.test", [])
                assert RCODE[(await ask(dns, "web.default.svc.lab.test")).header.rcode] == "NXDOMAIN"
                async with httpx.AsyncClient() as pages:
                    assert (await pages.get(f"http://127.0.0.1:{health}/health")).text == "OK"
                    assert (await pages.get(f"http://127.0.0.1:{ready}/ready")).status_code == 200
                    page = (await pages.get(f"http://127.0.0.1:{metrics}/metrics")).text
                    assert 'rcode="NXDOMAIN",server="dns://:53",view="",zone="lab.test."' in page
                daemon.cancel()
                async with httpx.AsyncClient() as pages:
                    # It says that it is leaving, and goes on answering those who have not heard.
                    assert (await pages.get(f"http://127.0.0.1:{ready}/ready")).status_code == 503
                    assert (await ask(dns, "db-0.db.default.svc.lab.test")).rr
                with contextlib.suppress(asyncio.CancelledError):
                    await daemon
                with pytest.raises(ConnectionRefusedError):
                    await ask(dns, "db-0.db.default.svc.lab.test")

    on_loop(test)


def test_an_unusable_kubeconfig_ends_the_daemon(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert app.main([f"--kubeconfig={tmp_path / 'missing'}"]) == 1
    assert "missing" in capfd.readouterr().err
