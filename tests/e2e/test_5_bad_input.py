"""What must be refused, from outside: the status code, the reason and the field that Kubernetes gives."""

from __future__ import annotations

import datetime
import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pki.ca import Authority, certificate_pem, key_pem, load_certificate, load_key, utc_now
from pki.certs import Profile
from pki.kubeconfig import load
from tests.e2e.lab import OUTSIDE, Lab

Object = dict[str, Any]
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
HOST, PORT = OUTSIDE.split(":")


def context(lab: Lab, folder: Path, pair: tuple[bytes, bytes] | None) -> ssl.SSLContext:
    ca = (lab.state / "pki" / "ca.pem").read_text()
    made = ssl.create_default_context(cadata=ca)
    if pair:
        file = folder / "pair.pem"
        file.touch(mode=0o600)
        file.write_bytes(pair[1] + pair[0])
        made.load_cert_chain(file)
    return made


def send(
    tls: ssl.SSLContext, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
) -> tuple[int, Object]:
    connection = http.client.HTTPSConnection(HOST, int(PORT), context=tls, timeout=30)
    try:
        connection.request(method, path, body=body, headers={"Content-Type": kind} if body else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def admin(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    config = load(lab.kubeconfig)
    assert config.cert_pem is not None
    assert config.key_pem is not None
    return context(lab, tmp_path_factory.mktemp("admin"), (config.cert_pem, config.key_pem))


@pytest.fixture(autouse=True)
def nothing_changes(admin: ssl.SSLContext, lab: Lab) -> Iterator[None]:
    """No refused request may leave an object behind."""
    before = {item["metadata"]["name"] for item in send(admin, "GET", CONFIGMAPS)[1]["items"]}
    yield
    after = {item["metadata"]["name"] for item in send(admin, "GET", CONFIGMAPS)[1]["items"]}
    assert after == before


def config_map(**change: Any) -> bytes:
    base = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad"}, "data": {"a": "b"}}
    return json.dumps(base | change).encode()


DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bad"}}
CASES: list[tuple[str, str, str, bytes, str, int, str, str]] = [
    ("not JSON", "POST", CONFIGMAPS, b"{nope", "application/json", 400, "BadRequest", ""),
    ("not YAML", "POST", CONFIGMAPS, b"a: [", "application/yaml", 400, "BadRequest", ""),
    ("another kind", "POST", CONFIGMAPS, config_map(kind="Secret"), "application/json",
     400, "BadRequest", ""),
    ("unknown resource", "POST", "/api/v1/namespaces/default/nopes", b"{}", "application/json",
     404, "NotFound", ""),
    ("wrong type", "POST", CONFIGMAPS, config_map(data=["x"]), "application/json", 400, "BadRequest", "data"),
    ("bad name", "POST", CONFIGMAPS, config_map(metadata={"name": "Not_Valid"}), "application/json",
     422, "Invalid", "metadata.name"),
    ("no name", "POST", CONFIGMAPS, config_map(metadata={}), "application/json",
     422, "Invalid", "metadata.name"),
    ("wrong media type", "POST", CONFIGMAPS, config_map(), "text/plain", 415, "UnsupportedMediaType", ""),
    ("required fields", "POST", DEPLOYMENTS, json.dumps({**DEPLOYMENT, "spec": {}}).encode(),
     "application/json", 422, "Invalid", "spec.selector"),
    ("number for text", "POST", DEPLOYMENTS, json.dumps({**DEPLOYMENT, "spec": {"replicas": "3"}}).encode(),
     "application/json", 400, "BadRequest", "spec.replicas"),
    ("too large", "POST", CONFIGMAPS, config_map(data={"a": "x" * (3 * 1024 * 1024 + 1)}), "application/json",
     413, "RequestEntityTooLarge", ""),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_refused_with_its_reason(
    admin: ssl.SSLContext, case: tuple[str, str, str, bytes, str, int, str, str]
) -> None:
    _, method, path, body, kind, code, reason, field = case
    status, answer = send(admin, method, path, body, kind)
    assert (status, answer.get("kind"), answer.get("reason")) == (code, "Status", reason), answer
    assert answer["code"] == code
    assert "Traceback" not in json.dumps(answer)
    if field:
        causes = (answer.get("details") or {}).get("causes") or []
        assert field in answer["message"] or any(cause.get("field") == field for cause in causes), answer
    if code == 422:
        assert any(cause.get("field") == field for cause in answer["details"]["causes"]), answer


def test_a_stale_version_is_a_conflict(admin: ssl.SSLContext) -> None:
    current = send(admin, "GET", f"{CONFIGMAPS}/kube-root-ca.crt")[1]
    current["metadata"]["resourceVersion"] = "1"
    status, answer = send(admin, "PUT", f"{CONFIGMAPS}/kube-root-ca.crt", json.dumps(current).encode())
    assert (status, answer["reason"]) == (409, "Conflict"), answer


def issue(lab: Lab, *, trusted: bool, expired: bool = False) -> tuple[bytes, bytes]:
    """A certificate of `system:masters`, which must not help when its signer or its dates are wrong."""
    if trusted:
        pki = lab.state / "pki"
        authority = Authority(load_certificate(pki / "ca.pem"), load_key(pki / "ca-key.pem"))
    else:
        authority = Authority.create("another-ca", ec.generate_private_key(ec.SECP256R1()))
    key = ec.generate_private_key(ec.SECP256R1())
    past = utc_now() - datetime.timedelta(days=10) if expired else utc_now()
    profile = Profile(
        common_name="intruder", organizations=("system:masters",), lifetime=datetime.timedelta(days=1)
    )
    return certificate_pem(authority.issue(profile, key, now=past)), key_pem(key)


@pytest.mark.parametrize(
    ("trusted", "expired"), [(False, False), (True, True)], ids=["another CA", "expired"]
)
def test_a_certificate_that_does_not_count(lab: Lab, tmp_path: Path, trusted: bool, expired: bool) -> None:
    tls = context(lab, tmp_path, issue(lab, trusted=trusted, expired=expired))
    status, answer = send(tls, "GET", CONFIGMAPS)
    assert (status, answer["reason"]) == (401, "Unauthorized"), answer


def test_no_certificate(lab: Lab, tmp_path: Path) -> None:
    status, answer = send(context(lab, tmp_path, None), "GET", CONFIGMAPS)
    assert (status, answer["reason"]) == (403, "Forbidden"), answer
    assert 'User "system:anonymous" cannot list resource "configmaps"' in answer["message"]
