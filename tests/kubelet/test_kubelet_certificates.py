"""TLS bootstrap: a certificate is asked for, waited for, stored and renewed; nothing is asked twice."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from componentbase.clock import RealClock
from componentbase.http.server import serve
from kubeclient.rest import RestClient
from kubeclient.transport import Target
from kubelet.certificates import (
    CertificateRefused,
    CertificateStore,
    decision,
    kubeconfig_for,
    obtain,
    renew,
    rotation_moment,
    serving,
    signing_request,
)
from pki.kubeconfig import load
from tests.kubelet.api import MemoryApi

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
CA = ec.generate_private_key(ec.SECP256R1())


def signed(pem: bytes, begin: datetime = BEGIN, days: int = 3650) -> bytes:
    request = x509.load_pem_x509_csr(pem)
    made = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
        .sign(CA, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def requested(key: ec.EllipticCurvePrivateKey) -> bytes:
    return base64.b64decode(signing_request(key, "worker-0")["spec"]["request"])


def test_the_request_is_a_nodes_and_its_name_the_keys() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.load_pem_x509_csr(requested(key)).subject
    assert subject.rfc4514_string() == "CN=system:node:worker-0,O=system:nodes"
    names = {signing_request(key, "worker-0")["metadata"]["name"] for _ in range(2)}
    other = signing_request(ec.generate_private_key(ec.SECP256R1()), "worker-0")
    assert len(names) == 1
    assert other["metadata"]["name"] not in names


@pytest.mark.parametrize(("share", "day"), [(0.0, 70), (0.5, 80), (1.0, 90)])
def test_renewal_is_spread_over_the_end_of_a_life(share: float, day: int) -> None:
    certificate = x509.load_pem_x509_certificate(
        signed(requested(ec.generate_private_key(ec.SECP256R1())), days=100)
    )
    assert rotation_moment(certificate, share) == pytest.approx((BEGIN + timedelta(days=day)).timestamp())


def test_decisions() -> None:
    assert decision({}) is None
    assert decision({"status": {"certificate": base64.b64encode(b"x").decode()}}) == b"x"
    with pytest.raises(CertificateRefused, match="denied: not you"):
        decision({"status": {"conditions": [{"type": "Denied", "message": "not you"}]}})


def test_the_store_changes_in_one_step_and_tells_validity(tmp_path: Path) -> None:
    store = CertificateStore(tmp_path / "pki")
    key = store.pending_key()
    assert store.pending_key().private_numbers() == key.private_numbers()
    now = BEGIN.timestamp()
    store.store(signed(requested(key), days=1), key, now)
    assert store.current.is_symlink()
    assert store.current.stat().st_mode & 0o777 == 0o600
    assert store.certificate(now) is not None
    assert store.certificate(now + 2 * 86_400) is None
    assert store.pending_key().private_numbers() != key.private_numbers()
    with pytest.raises(ValueError, match="another key"):
        store.store(signed(requested(key)), ec.generate_private_key(ec.SECP256R1()), now)


def test_the_kubeconfig_refers_to_the_current_certificate(tmp_path: Path) -> None:
    store = CertificateStore(tmp_path)
    key = store.pending_key()
    store.store(signed(requested(key)), key, BEGIN.timestamp())
    bootstrap = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "lab", "user": "token"}}],
        "clusters": [{"name": "lab", "cluster": {"server": "https://127.0.0.1:6443"}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(kubeconfig_for(bootstrap, store.current)))
    loaded = load(tmp_path / "config")
    assert loaded.server == "https://127.0.0.1:6443"
    assert loaded.cert_pem == store.current.read_bytes()


def against(scenario: Callable[[MemoryApi, RestClient], Awaitable[None]]) -> None:
    async def play() -> None:
        api = MemoryApi()
        listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            server = group.create_task(
                serve(api, port=0, on_listening=listening.set_result, shutdown_grace=0.1)
            )
            async with RestClient(Target(f"http://127.0.0.1:{await listening}")) as client:
                await scenario(api, client)
            server.cancel()

    asyncio.run(play())


async def sign_all(api: MemoryApi, begin: datetime, days: int = 1) -> None:
    for path, held in list(api.objects.items()):
        if path.startswith(REQUESTS) and not held.get("status"):
            chain = signed(base64.b64decode(held["spec"]["request"]), begin, days)
            await api.write(path, {**held, "status": {"certificate": base64.b64encode(chain).decode()}})


def test_a_killed_kubelet_asks_for_the_same_and_renews_in_time(tmp_path: Path) -> None:
    async def scenario(api: MemoryApi, client: RestClient) -> None:
        store, clock = CertificateStore(tmp_path / "pki"), RealClock()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(obtain(client, store, "worker-0", clock))
            await api.until(lambda: any(path.startswith(REQUESTS) for path in api.objects))
            first.cancel()
        # 95 % of its life have passed when it is issued: it is to be renewed at once.
        await sign_all(api, datetime.now(UTC) - timedelta(hours=22, minutes=48))
        await obtain(client, CertificateStore(tmp_path / "pki"), "worker-0", clock)
        assert len([path for path in api.objects if path.startswith(REQUESTS)]) == 1
        before = store.certificate(clock.now())
        assert before is not None
        async with asyncio.TaskGroup() as group:
            group.create_task(renew(client, store, "worker-0", clock, lambda: 0.5))
            await api.until(lambda: len([path for path in api.objects if path.startswith(REQUESTS)]) == 2)
            await sign_all(api, datetime.now(UTC) - timedelta(minutes=1))
        after = store.certificate(clock.now())
        assert after is not None
        assert after.serial_number != before.serial_number

    against(scenario)


def test_a_denied_request_is_not_asked_again_with_the_same_key(tmp_path: Path) -> None:
    async def scenario(api: MemoryApi, client: RestClient) -> None:
        store = CertificateStore(tmp_path)
        name = signing_request(store.pending_key(), "worker-0")["metadata"]["name"]
        denied = {"conditions": [{"type": "Denied", "message": "not you"}]}
        await api.write(f"{REQUESTS}/{name}", {"metadata": {"name": name}, "status": denied})
        with pytest.raises(CertificateRefused, match="not you"):
            await obtain(client, store, "worker-0", RealClock())
        assert signing_request(store.pending_key(), "worker-0")["metadata"]["name"] != name

    against(scenario)


def test_a_serving_certificate_names_the_node_and_lives_in_files_of_its_own(tmp_path: Path) -> None:
    purpose = serving("worker-0", ("10.240.0.20",))
    store = CertificateStore(tmp_path, purpose)
    key = store.pending_key()
    made = signing_request(key, "worker-0", purpose)
    assert made["spec"]["signerName"] == "kubernetes.io/kubelet-serving"
    assert made["spec"]["usages"] == ["digital signature", "server auth"]
    assert made["metadata"]["name"].startswith("csr-")
    request = x509.load_pem_x509_csr(base64.b64decode(made["spec"]["request"]))
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["worker-0"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.240.0.20"]
    assert CertificateStore(tmp_path).pending_key().private_numbers() != key.private_numbers()
    store.store(signed(base64.b64decode(made["spec"]["request"])), key, BEGIN.timestamp())
    assert store.current.name == "kubelet-server-current.pem"
    assert CertificateStore(tmp_path).certificate(BEGIN.timestamp()) is None
