"""A client certificate that has ended: asked for anew where there is a way to, taken up when it is replaced
where there is none.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from componentbase.clock import RealClock
from componentbase.http.server import serve
from kubelet.certificates import CertificateStore, signing_request, write_kubeconfig
from kubelet.credentials import Credentials, end_of, first_of
from pki.kubeconfig import load
from tests.kubeclient.loops import eventually
from tests.kubelet.api import MemoryApi
from tests.kubelet.test_kubelet_certificates import REQUESTS, sign_all, signed

NODE = "worker-0"


def pair(begin: datetime, days: int = 1) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    made = signed(base64.b64decode(signing_request(key, NODE)["spec"]["request"]), begin, days)
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return made, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def kubeconfig(path: Path, server: str, held: tuple[bytes, bytes] | None = None) -> Path:
    user: dict[str, Any] = {"token": "abcdef.0123456789abcdef"}
    if held is not None:
        names = ("client-certificate-data", "client-key-data")
        user = {name: base64.b64encode(content).decode() for name, content in zip(names, held, strict=True)}
    document = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path.write_text(yaml.safe_dump(document))
    return path


def days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


class Wall(RealClock):
    """A clock that can be set, and whose sleepers wait no time at all."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead

    async def sleep(self, seconds: float) -> None:
        await super().sleep(0.01)


def test_when_a_kubeconfig_ends(tmp_path: Path) -> None:
    path, begin = tmp_path / "kubeconfig", days_ago(10).replace(microsecond=0)
    assert end_of(path) is None
    assert end_of(kubeconfig(path, "https://127.0.0.1:6443")) == float("inf")
    kubeconfig(path, "https://127.0.0.1:6443", pair(begin, 3))
    assert end_of(path) == (begin + timedelta(days=3)).timestamp()


async def bootstrapped(api: MemoryApi, tmp_path: Path, clock: Wall, port: int) -> Credentials:
    """Credentials that were asked for, given for a day and are in use."""
    server = f"http://127.0.0.1:{port}"
    bootstrap = kubeconfig(tmp_path / "bootstrap", server)
    store = CertificateStore(tmp_path / "pki")
    made = Credentials(tmp_path / "kubeconfig", str(bootstrap), store, rotate=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(made.had(NODE, clock))
        await asked(api, 1)
        await sign_all(api, days_ago(0.01))
    return made


async def asked(api: MemoryApi, times: int) -> None:
    await api.until(lambda: sum(path.startswith(REQUESTS) for path in api.objects) >= times)


def test_an_expired_certificate_is_asked_for_anew_with_the_bootstrap_credential(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A renewal cannot be had with what has expired: the kubelet has to begin anew."""

    async def play() -> None:
        api, clock = MemoryApi(), Wall()
        listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            server = group.create_task(
                serve(api, port=0, on_listening=listening.set_result, shutdown_grace=0.1)
            )
            held = await bootstrapped(api, tmp_path, clock, await listening)
            first = load(held.kubeconfig)
            clock.ahead = 2 * 86_400.0
            await held.spent(NODE, clock)
            again = group.create_task(held.had(NODE, clock))
            await asked(api, 2)
            await sign_all(api, days_ago(-1.9))
            await again
            end = end_of(held.kubeconfig)
            assert end is not None and clock.now() < end
            assert load(held.kubeconfig) != first
            server.cancel()

    with caplog.at_level(logging.ERROR):
        asyncio.run(play())
    assert "has expired" in caplog.text


def test_a_kubeconfig_that_still_counts_is_not_bootstrapped_over(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", pair(days_ago(0.5)))
    before = path.read_bytes()
    credentials = Credentials(path, str(tmp_path / "absent"), CertificateStore(tmp_path / "pki"))
    asyncio.run(credentials.had(NODE, RealClock()))
    assert path.read_bytes() == before


def test_a_ready_made_kubeconfig_is_taken_up_when_it_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", pair(days_ago(3)))
    credentials = Credentials(path, "", CertificateStore(tmp_path / "pki"))

    async def play() -> None:
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            waiting = group.create_task(credentials.spent(NODE, Wall()))
            await eventually(lambda: "has expired" in caplog.text)
            assert not waiting.done()
            kubeconfig(path, "https://127.0.0.1:1", pair(days_ago(0.5)))
            await waiting

    with caplog.at_level(logging.ERROR):
        asyncio.run(play())
    assert "replace the kubeconfig" in caplog.text


def test_the_renewed_certificate_is_noticed_in_its_file(tmp_path: Path) -> None:
    store = CertificateStore(tmp_path / "pki")
    bootstrap = kubeconfig(tmp_path / "bootstrap", "https://127.0.0.1:1")
    for days in (0.6, 0.3):
        key = store.pending_key()
        request = base64.b64decode(signing_request(key, NODE)["spec"]["request"])
        store.store(signed(request, days_ago(days)), key, days_ago(days).timestamp())
        write_kubeconfig(bootstrap, tmp_path / "kubeconfig", store)
        end = end_of(tmp_path / "kubeconfig")
        held = x509.load_pem_x509_certificate(store.current.read_bytes())
        assert end == held.not_valid_after_utc.timestamp()


def test_the_first_ends_the_others() -> None:
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("long")

    asyncio.run(asyncio.wait_for(first_of(long(), asyncio.sleep(0)), 5))
    assert ended == ["long"]
