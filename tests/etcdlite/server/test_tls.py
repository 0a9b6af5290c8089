"""Mutual TLS on the client port and between members: who is let in, and who is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from etcdlite.client import EtcdClient, Unavailable
from pki import ca, certs
from tests.etcdlite.server.members import member, running
from tests.ports import free_port

BOTH = frozenset({certs.Usage.SERVER, certs.Usage.CLIENT})


def make_pki(folder: Path) -> Path:
    """A CA with a server pair and a client pair, and another CA with a client of its own."""
    now = ca.utc_now()
    for authority_name, leaves in (("ca", ("server", "client")), ("other-ca", ("stranger",))):
        authority = ca.ensure_authority(folder, authority_name, authority_name, now=now)
        for leaf in leaves:
            usages = BOTH if leaf == "server" else frozenset({certs.Usage.CLIENT})
            profile = certs.Profile(common_name=leaf, ips=("127.0.0.1",), dns=("localhost",), usages=usages)
            ca.ensure_leaf(folder, leaf, profile, authority, now=now)
    return folder


def server_flags(pki: Path) -> list[str]:
    files = {"cert-file": "server.pem", "key-file": "server-key.pem", "trusted-ca-file": "ca.pem"}
    return [f"--{flag}={pki / name}" for flag, name in files.items()]


def client(url: str, pki: Path, name: str | None, timeout: float = 5.0) -> EtcdClient:
    cert, key = (pki / f"{name}.pem", pki / f"{name}-key.pem") if name else (None, None)
    return EtcdClient([url], ca=pki / "ca.pem", cert=cert, key=key, timeout=timeout)


async def put(each: EtcdClient) -> int:
    async with each:
        return (await each.put(b"k", b"v")).header.revision


@pytest.mark.parametrize("kind", ["etcdlite", "etcd"])
def test_only_clients_of_the_ca(tmp_path: Path, kind: str) -> None:
    pki = make_pki(tmp_path)
    flags = [*server_flags(pki), "--client-cert-auth"]
    with running(kind, tmp_path, extra=flags, scheme="https") as one:
        assert asyncio.run(put(client(one.client_url, pki, "client"))) == 2
        for name in (None, "stranger"):
            with pytest.raises(Unavailable):
                asyncio.run(put(client(one.client_url, pki, name, timeout=1.0)))
        plain = EtcdClient([one.client_url.replace("https", "http")], timeout=1.0)
        with pytest.raises(Unavailable):
            asyncio.run(put(plain))
        assert asyncio.run(put(client(one.client_url, pki, "client"))) == 3, "nothing else got in"


def test_members_of_one_ca_form_a_cluster(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    peer = [flag.replace("--", "--peer-", 1) for flag in server_flags(pki)]
    flags = [*server_flags(pki), *peer, "--client-cert-auth", "--peer-client-cert-auth"]
    names = ["m0", "m1", "m2"]
    cluster = ",".join(f"{name}=https://127.0.0.1:{free_port()}" for name in names)
    members = [
        member("etcdlite", tmp_path, name, cluster=cluster, extra=flags, scheme="https") for name in names
    ]
    try:
        for each in members:
            each.start()
        for each in members:
            each.wait_ready()
        revisions = [asyncio.run(put(client(each.client_url, pki, "client"))) for each in members]
        assert revisions == [2, 3, 4]
    finally:
        for each in members:
            each.stop(9)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--client-cert-auth", "--cert-file=x", "--key-file=y"],
            "--client-cert-auth needs --trusted-ca-file",
        ),
        (["--cert-file=/nowhere/c.pem", "--key-file=/nowhere/k.pem"], "/nowhere/c.pem"),
        (["--cert-file=x"], "--cert-file and --key-file must be given together"),
        (["--listen-client-urls=https://127.0.0.1:1"], "https needs --cert-file and --key-file"),
        (["--initial-cluster=other=http://127.0.0.1:1"], "couldn't find local name 'm0'"),
        (["--election-timeout=200"], "should be at least as 5 times"),
        (["--listen-client-urls=unix:///x"], "is not http"),
        (["--discovery=http://x"], "unknown flag: --discovery"),
    ],
)
def test_flags_that_cannot_work_are_refused_by_name(tmp_path: Path, flags: list[str], message: str) -> None:
    one = member("etcdlite", tmp_path, extra=flags)
    one.start()
    with pytest.raises(AssertionError, match=message):
        one.wait_ready()
