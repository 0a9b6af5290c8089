"""kubeconfigs: what is written can be read back, and what is not supported is refused by name."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from pki.kubeconfig import Kubeconfig, KubeconfigError, build, dump, load, parse

WRITTEN = build("lab", "https://10.0.0.1:6443", b"CA", b"CERT", b"KEY", user="admin")


def config(user: dict[str, Any], cluster: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://h:1/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user}],
    }


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(dump(WRITTEN))
    assert load(path) == Kubeconfig("https://10.0.0.1:6443", b"CA", b"CERT", b"KEY")


def test_files_are_read_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"CA")
    (tmp_path / "token").write_text("secret\n")
    found = parse(config({"tokenFile": "token"}, {"certificate-authority": "ca.pem"}), tmp_path)
    assert (found.server, found.ca_pem, found.token) == ("https://h:1", b"CA", "secret")


def test_data_wins_over_files(tmp_path: Path) -> None:
    data = base64.b64encode(b"inline").decode()
    user = {"client-certificate": "absent.pem", "client-certificate-data": data}
    assert parse(config(user), tmp_path).cert_pem == b"inline"


def test_repr_shows_no_secret() -> None:
    shown = repr(Kubeconfig("https://h", b"CA", b"CERT", b"KEY", "token"))
    assert shown == "Kubeconfig(server='https://h')"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "current-context: must be set"),
        ({"current-context": "x"}, "contexts: no entry named 'x'"),
        ({**config({}), "clusters": []}, "clusters: no entry named 'c'"),
        ({**config({}), "users": []}, "users: no entry named 'u'"),
        (config({}, {"server": ""}), "server: must be set"),
        (config({"exec": {"command": "aws"}}), r"users\[\].user.exec: not supported"),
        (config({"username": "a", "password": "b"}), r"users\[\].user.username: not supported"),
        (config({"client-key-data": "%%%"}), "client-key-data: not base64"),
    ],
)
def test_refusals(document: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(KubeconfigError, match=message):
        parse(document, tmp_path)


@pytest.mark.parametrize(("text", "message"), [("[", "not YAML"), ("- a", "not a kubeconfig")])
def test_the_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_text(text)
    with pytest.raises(KubeconfigError, match=f"broken: {message}"):
        load(path)
