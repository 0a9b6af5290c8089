"""The PKI of a whole cluster: what each certificate says, that all chain, what a second run leaves alone."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pki import kubeconfig, status
from pki.ca import Authority, PKIError, load_certificate, load_key
from pki.certs import Profile
from pki.layout import AUTHORITIES, ClusterNames, Inventory, generate, leaves

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
NAMES = ClusterNames(
    name="lab",
    controllers={"controller-0": "10.240.0.10", "controller-1": "10.240.0.11"},
    workers={"worker-0": "10.240.0.20"},
    service_ip="10.32.0.1",
    server="https://10.240.0.30:6443",
    outside_server="https://127.0.0.1:6443",
    extra_names=("balancer",),
    extra_ips=("10.240.0.30", "127.0.0.1"),
)


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    return generate(tmp_path, NAMES, now=NOW)


def subject(certificate: x509.Certificate) -> tuple[str, list[str]]:
    name = certificate.subject
    return (
        str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value),
        [str(part.value) for part in name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)],
    )


def usages(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
KCM = "system:kube-controller-manager"


@pytest.mark.parametrize(
    ("stem", "user", "groups", "wanted"),
    [
        ("admin", "admin", ["system:masters"], {CLIENT}),
        ("worker-0/kubelet", "system:node:worker-0", ["system:nodes"], {SERVER, CLIENT}),
        ("controller-manager", KCM, [KCM], {CLIENT}),
        ("scheduler", "system:kube-scheduler", ["system:kube-scheduler"], {CLIENT}),
        ("kube-proxy", "system:kube-proxy", ["system:node-proxier"], {CLIENT}),
        ("apiserver", "kube-apiserver", [], {SERVER}),
        ("apiserver-kubelet-client", "kube-apiserver-kubelet-client", [], {CLIENT}),
        ("apiserver-etcd-client", "kube-apiserver-etcd-client", [], {CLIENT}),
        ("front-proxy-client", "front-proxy-client", [], {CLIENT}),
        ("controller-0/etcd-server", "controller-0", [], {SERVER, CLIENT}),
        ("controller-1/etcd-peer", "controller-1", [], {SERVER, CLIENT}),
    ],
)
def test_subject_and_usages(
    inventory: Inventory, stem: str, user: str, groups: list[str], wanted: set[x509.ObjectIdentifier]
) -> None:
    certificate = load_certificate(inventory.path(f"{stem}.pem"))
    assert subject(certificate) == (user, groups)
    assert usages(certificate) == wanted


def test_apiserver_covers_every_way_to_dial_it(inventory: Inventory) -> None:
    certificate = load_certificate(inventory.path("apiserver.pem"))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "controller-0",
        "controller-1",
        "balancer",
    }
    assert {str(ip) for ip in names.get_values_for_type(x509.IPAddress)} == {
        "10.32.0.1",
        "10.240.0.10",
        "10.240.0.11",
        "10.240.0.30",
        "127.0.0.1",
    }


def test_etcd_and_kubelet_cover_their_own_address_only(inventory: Inventory) -> None:
    for stem, address in (("controller-1/etcd-peer", "10.240.0.11"), ("worker-0/kubelet", "10.240.0.20")):
        names = load_certificate(inventory.path(f"{stem}.pem")).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        ips = set(names.value.get_values_for_type(x509.IPAddress)) - {ipaddress.ip_address("127.0.0.1")}
        assert ips == {ipaddress.ip_address(address)}


def test_openssl_verifies_every_certificate(inventory: Inventory) -> None:
    for leaf in leaves(NAMES):
        ca, path = inventory.path(f"{leaf.authority}.pem"), inventory.path(f"{leaf.stem}.pem")
        moment = str(int(NOW.timestamp()) + 60)
        command = ["openssl", "verify", "-attime", moment, "-x509_strict", "-CAfile", str(ca), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_an_authority_does_not_vouch_for_another(inventory: Inventory) -> None:
    path, ca = inventory.path("apiserver.pem"), inventory.path("etcd-ca.pem")
    command = ["openssl", "verify", "-attime", str(int(NOW.timestamp()) + 60), "-CAfile", str(ca), str(path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_every_private_file_is_private(inventory: Inventory) -> None:
    private = [
        path
        for path in inventory.directory.rglob("*")
        if path.name.endswith(("-key.pem", ".kubeconfig")) or path.name == "encryption-config.yaml"
    ]
    assert len(private) > 15
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(inventory.directory.stat().st_mode) == 0o700


def test_every_key_is_p256_and_in_one_certificate(inventory: Inventory) -> None:
    seen: set[bytes] = set()
    for path in inventory.directory.rglob("*-key.pem"):
        key = load_key(path)
        assert key.curve.name == "secp256r1"
        raw = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        assert raw not in seen
        seen.add(raw)


def contents(inventory: Inventory) -> dict[str, bytes]:
    paths = (path for path in inventory.directory.rglob("*") if path.is_file())
    return {str(path.relative_to(inventory.directory)): path.read_bytes() for path in paths}


def test_a_second_run_changes_nothing(tmp_path: Path, inventory: Inventory) -> None:
    before = contents(inventory)
    again = generate(tmp_path, NAMES, now=NOW + datetime.timedelta(days=300))
    assert again.changed == ()
    assert contents(inventory) == before


def test_what_expired_is_renewed_with_the_same_key(tmp_path: Path, inventory: Inventory) -> None:
    before = contents(inventory)
    again = generate(tmp_path, NAMES, now=NOW + datetime.timedelta(days=366))
    after = contents(inventory)
    assert any(line.startswith("apiserver.pem: expired on 2031-01-01") for line in again.changed)
    assert after["apiserver.pem"] != before["apiserver.pem"]
    assert {name: data for name, data in after.items() if name.endswith("-key.pem")} == {
        name: data for name, data in before.items() if name.endswith("-key.pem")
    }
    assert after["ca.pem"] == before["ca.pem"]
    config = kubeconfig.load(inventory.path("scheduler.kubeconfig"))
    assert config.cert_pem == after["scheduler.pem"]


def test_a_new_address_is_covered_and_nothing_else_changes(tmp_path: Path, inventory: Inventory) -> None:
    before = contents(inventory)
    wider = replace(NAMES, extra_ips=(*NAMES.extra_ips, "192.0.2.7"))
    again = generate(tmp_path, wider, now=NOW)
    assert again.changed == ("apiserver.pem: does not cover 192.0.2.7",)
    after = contents(inventory)
    assert [name for name in after if after[name] != before[name]] == ["apiserver.pem"]


def test_a_certificate_of_another_authority_is_replaced(tmp_path: Path, inventory: Inventory) -> None:
    key = load_key(inventory.path("admin-key.pem"))
    stranger = Authority.create("kubernetes-ca", ec.generate_private_key(ec.SECP256R1()), now=NOW)
    forged = stranger.issue(Profile(common_name="admin", organizations=("system:masters",)), key, now=NOW)
    inventory.path("admin.pem").write_bytes(forged.public_bytes(serialization.Encoding.PEM))
    again = generate(tmp_path, NAMES, now=NOW)
    assert again.changed[0] == "admin.pem: is not signed by CN=kubernetes-ca"


def test_a_renewed_authority_keeps_its_leaves_valid(tmp_path: Path, inventory: Inventory) -> None:
    authority = load_certificate(inventory.path("ca.pem"))
    later = NOW + datetime.timedelta(days=3650)
    generate(tmp_path, NAMES, now=later)
    renewed = load_certificate(inventory.path("ca.pem"))
    assert renewed.not_valid_after_utc > authority.not_valid_after_utc
    assert renewed.public_key() == authority.public_key()
    load_certificate(inventory.path("admin.pem")).verify_directly_issued_by(renewed)


@pytest.mark.parametrize("name", ["ca-key.pem", "admin-key.pem", "service-account-key.pem"])
def test_a_damaged_key_is_named_and_never_replaced(tmp_path: Path, inventory: Inventory, name: str) -> None:
    inventory.path(name).write_text("damaged")
    with pytest.raises(PKIError, match=name):
        generate(tmp_path, NAMES, now=NOW)
    assert inventory.path(name).read_text() == "damaged"


def test_a_lost_authority_key_is_not_invented(tmp_path: Path, inventory: Inventory) -> None:
    inventory.path("etcd-ca-key.pem").unlink()
    with pytest.raises(PKIError, match=r"etcd-ca\.pem has no etcd-ca-key\.pem"):
        generate(tmp_path, NAMES, now=NOW)


def test_a_key_that_others_could_read_is_tightened(tmp_path: Path, inventory: Inventory) -> None:
    path = inventory.path("admin-key.pem")
    path.chmod(0o644)
    generate(tmp_path, NAMES, now=NOW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_damaged_encryption_configuration_is_kept(tmp_path: Path, inventory: Inventory) -> None:
    path = inventory.path("encryption-config.yaml")
    path.write_text("kind: Something")
    with pytest.raises(PKIError, match="not an EncryptionConfiguration"):
        generate(tmp_path, NAMES, now=NOW)
    assert path.read_text() == "kind: Something"


def test_encryption_key_has_256_bits(inventory: Inventory) -> None:
    document = yaml.safe_load(inventory.path("encryption-config.yaml").read_text())
    providers = document["resources"][0]["providers"]
    assert list(providers[-1]) == ["identity"]
    assert len(base64.b64decode(providers[0]["aescbc"]["keys"][0]["secret"])) == 32


def test_service_account_pair_belongs_together(inventory: Inventory) -> None:
    public = serialization.load_pem_public_key(inventory.path("service-account.pem").read_bytes())
    assert load_key(inventory.path("service-account-key.pem")).public_key() == public


def test_each_host_gets_what_it_needs_and_no_more(inventory: Inventory) -> None:
    controller = inventory.host_files("controller-0")
    worker = inventory.host_files("worker-0")
    assert all(path.exists() for path in (*controller.values(), *worker.values()))
    assert "/etc/kubernetes/pki/ca-key.pem" in controller
    assert not any("ca-key" in path or "service-account" in path or "admin" in path for path in worker)
    assert not any("controller-1" in os.fspath(path) for path in controller.values())
    assert set(inventory.host_files("balancer")) == {"/etc/kubernetes/pki/ca.pem"}


def test_status_shows_expiry_and_trouble(tmp_path: Path, inventory: Inventory) -> None:
    assert all(row.problem == "" for row in status.rows(inventory, NOW))
    inventory.path("scheduler.pem").unlink()
    later = NOW + datetime.timedelta(days=400)
    found = {row.file: row for row in status.rows(inventory, later)}
    assert len(found) == len(leaves(NAMES)) + len(AUTHORITIES)
    assert "expired on 2031-01-01" in found["apiserver.pem"].problem
    assert "scheduler.pem is absent" in found["scheduler.pem"].problem
    assert found["ca.pem"].problem == ""
    text = status.render(list(found.values()), later)
    assert "2031-01-01 00:00Z   -35d" in text
