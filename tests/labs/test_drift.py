"""What the labs have a reader type makes what the bring-up makes: run for real, with a stand-in for hosts."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from deploy import configs
from deploy.configs import Machine
from deploy.labs import text
from deploy.topology import TOPOLOGIES, load
from pki import encryption, layout
from pki.ca import load_certificate
from pki.layout import Inventory

LAB = load(TOPOLOGIES / "lab.yaml")
NAMES = LAB.cluster_names()
CONFIGURATION = re.compile(r"cat > (/etc/(?!systemd)\S+) <<'EOF'\n(.*?)^EOF$", re.DOTALL | re.MULTILINE)
# What a host can only know when it is there: its own facts, the node's range.
COMPUTED = {configs.HOST_ENV, configs.CNI_CONF}
# Takes the place of the command: hosts are folders.
STAND_IN = """#!/bin/bash
set -e
case "$1 $2" in
"lab folder") echo "$PKI" ;;
"exec "*)
    root=$ROOTS/$2; shift 3; mkdir -p "$root"
    case "$1" in
    tar) tar -C "$root" -x ;;
    install) install -D -m "$4" /dev/stdin "$root$6" ;;
    *) exit 0 ;;
    esac ;;
"pki status") ;;
*) echo "stand-in: $*" >&2; exit 1 ;;
esac
"""


class Made:
    """What the commands of labs 03, 04 and 05 have made."""

    def __init__(self, folder: Path) -> None:
        self.state, self.roots = folder / "state", folder / "roots"

    def run(self, folder: Path) -> None:
        (self.state / "pki").mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "bin" / "hardway").write_text(STAND_IN)
        (folder / "bin" / "hardway").chmod(0o755)
        environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PKI": str(self.state / "pki"),
            "ROOTS": str(self.roots),
        }
        for number in (3, 4, 5):
            lab = text.load()[number - 1]
            typed = [c.text for c in lab.commands if c.where == text.WORKSTATION and c.expected is None]
            script = "set -e\numask 022\n" + "\n".join(typed)
            subprocess.run(["bash", "-c", script], env=environment, cwd=folder, check=True, timeout=60)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    folder = tmp_path_factory.mktemp("labs")
    made = Made(folder)
    made.run(folder)
    yield made
    shutil.rmtree(folder)


def test_the_bring_up_finds_nothing_to_make_or_renew(made: Made) -> None:
    before = {path: path.read_bytes() for path in (made.state / "pki").rglob("*") if path.is_file()}
    inventory = layout.generate(made.state, NAMES)
    assert inventory.changed == ()
    after = {path: path.read_bytes() for path in (made.state / "pki").rglob("*") if path.is_file()}
    assert after == before
    assert encryption.flaw(inventory.path("encryption-config.yaml")) is None


def describe(certificate: x509.Certificate) -> dict[str, object]:
    """Everything that a certificate says, but for what differs each time: key, number, signature, date."""
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    extensions = {
        extension.oid.dotted_string: (extension.critical, said(extension.value))
        for extension in certificate.extensions
    }
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "curve": key.curve.name,
        "hash": certificate.signature_algorithm_oid.dotted_string,
        "days": (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days,
        "extensions": extensions,
    }


def said(value: x509.ExtensionType) -> object:
    if isinstance(value, (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)):
        return type(value).__name__
    if isinstance(value, (x509.SubjectAlternativeName, x509.ExtendedKeyUsage)):
        return {str(entry) for entry in value}
    return value


def test_certificates_say_what_those_of_the_bring_up_say(made: Made, tmp_path: Path) -> None:
    ours = Inventory(made.state / "pki", NAMES)
    theirs = layout.generate(tmp_path, NAMES)
    for stem in (*layout.AUTHORITIES, *(leaf.stem for leaf in layout.leaves(NAMES))):
        typed, generated = (
            describe(load_certificate(inventory.path(f"{stem}.pem"))) for inventory in (ours, theirs)
        )
        if stem in layout.AUTHORITIES:
            # openssl marks a root with its own key as the issuer's, which RFC 5280 (4.2.1.1) leaves open.
            for description in (typed, generated):
                extensions = description["extensions"]
                assert isinstance(extensions, dict)
                extensions.pop("2.5.29.35", None)
        assert typed == generated, stem


@pytest.mark.parametrize("host", LAB.hosts, ids=lambda host: host.name)
def test_each_host_gets_the_files_of_the_bring_up_and_no_other(made: Made, host: object) -> None:
    name = getattr(host, "name", "")
    root = made.roots / name
    expected = Inventory(made.state / "pki", NAMES).host_files(name)
    found = {f"/{path.relative_to(root)}": path for path in root.rglob("*") if path.is_file()}
    assert sorted(found) == sorted(expected)
    for path, source in expected.items():
        assert found[path].read_bytes() == source.read_bytes(), path
        if path.endswith(("-key.pem", ".kubeconfig", "encryption-config.yaml")):
            assert stat.S_IMODE(found[path].stat().st_mode) == 0o600, path


def test_configurations_in_the_labs_are_those_of_the_bring_up() -> None:
    planned: dict[str, set[str]] = {}
    for host in LAB.hosts:
        for path, content in configs.files_for(LAB, host, Machine(restrict_oom=False)).items():
            planned.setdefault(path, set()).add(content)
    labs = text.load()
    written: set[str] = set()
    for lab in labs:
        if lab.number <= 12:
            for path, content in CONFIGURATION.findall(lab.path.read_text()):
                assert content in planned[path], f"{lab.path.name}: {path}"
                written.add(path)
    given = {"/etc/hostname", "/etc/resolv.conf"}
    assert written == set(planned) - given - COMPUTED
