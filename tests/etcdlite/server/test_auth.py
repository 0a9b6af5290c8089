"""Authentication at the wire: tokens, certificates, and what goes on by itself while it is on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from etcdlite.pb import rpc_pb2 as rpc
from tests.etcdlite.server import members
from tests.etcdlite.server.members import running, running_cluster
from tests.etcdlite.server.test_tls import make_pki, server_flags
from tests.etcdlite.server.test_walk import Walker


class Call:
    """Calls with a token, or none."""

    def __init__(self, url: str) -> None:
        self._channel = grpc.insecure_channel(url.removeprefix("http://"))

    def close(self) -> None:
        self._channel.close()

    def __call__(self, method: str, request: Any, answer: Any, token: str = "") -> Any:
        call = self._channel.unary_unary(
            f"/etcdserverpb.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return call(request, timeout=10, metadata=(("token", token),) if token else ())

    def get(self, token: str = "") -> int:
        answer = self("KV/Range", rpc.RangeRequest(key=b"/pub/x"), rpc.RangeResponse, token)
        return int(answer.count)


def refusal(*arguments: Any) -> str:
    """Why a call is refused."""
    call, *rest = arguments
    with pytest.raises(grpc.RpcError) as failed:
        call(*rest)
    assert isinstance(failed.value, grpc.Call)
    return str(failed.value.details())


def prepare(ctl: Walker) -> None:
    for words in (
        "put /pub/x 1",
        "user add root:secret",
        "user grant-role root root",
        "role add reader",
        "role grant-permission reader read /pub/ /pub0",
        "user add ann:pw",
        "user grant-role ann reader",
        "user add client --no-password",
        "user grant-role client reader",
        "auth enable",
    ):
        ctl(*words.split())
    assert all(line == "-> 0" for line in ctl.transcript if line.startswith("->")), ctl.transcript


def token_of(call: Call, name: str = "ann", password: str = "pw") -> str:
    request = rpc.AuthenticateRequest(name=name, password=password)
    return str(call("Auth/Authenticate", request, rpc.AuthenticateResponse).token)


@pytest.fixture
def calls() -> Iterator[list[Call]]:
    made: list[Call] = []
    yield made
    for each in made:
        each.close()


def test_a_token_is_good_at_every_member_until_its_user_changes(tmp_path: Path, calls: list[Call]) -> None:
    with running_cluster(tmp_path) as now:
        ctl = Walker(now[0].client_url, tmp_path)
        prepare(ctl)
        calls += [Call(each.client_url) for each in now]
        token = token_of(calls[0])
        assert [call.get(token) for call in calls] == [1, 1, 1]
        assert refusal(calls[1].get, "made up") == "etcdserver: invalid auth token"
        assert refusal(calls[1].get) == "etcdserver: user name is empty"
        ctl("--user=root:secret", "user", "revoke-role", "ann", "reader")
        for call in calls:
            assert refusal(call.get, token) == "etcdserver: invalid auth token"
        fresh = token_of(calls[2])
        assert refusal(calls[1].get, fresh) == "etcdserver: permission denied"
        now[0].stop()
        now[0].start()
        now[0].wait_ready()
        assert refusal(Call(now[0].client_url).get, fresh) == "etcdserver: invalid auth token"
        assert refusal(Call(now[0].client_url).get) == "etcdserver: user name is empty", "still on"


@pytest.mark.parametrize("kind", members.KINDS)
def test_a_certificate_speaks_for_its_common_name(tmp_path: Path, kind: str) -> None:
    if not members.installed(kind):
        pytest.skip("etcd is not installed")
    pki = make_pki(tmp_path)
    with running(kind, tmp_path, extra=[*server_flags(pki), "--client-cert-auth"], scheme="https") as one:
        files = [f"--cacert={pki}/ca.pem", f"--cert={pki}/client.pem", f"--key={pki}/client-key.pem"]
        ctl = Walker(one.client_url, tmp_path)
        bare = ctl.__call__

        def secured(*words: str, stdin: str = "") -> str:
            return bare(*files, *words, stdin=stdin)

        for words in (
            "put /pub/x 1",
            "user add root:secret",
            "user grant-role root root",
            "role add reader",
            "role grant-permission reader read /pub/ /pub0",
            "user add client --no-password",
            "user grant-role client reader",
            "auth enable",
        ):
            secured(*words.split())
        assert secured("get", "/pub/x") == "/pub/x\n1\n"
        secured("put", "/pub/x", "2")
        assert "Error: etcdserver: permission denied" in ctl.transcript
        assert secured("--user=root:secret", "put", "/pub/x", "2") == "OK\n"


def test_leases_run_out_and_alarms_are_raised_while_authentication_is_on(tmp_path: Path) -> None:
    with running("etcdlite", tmp_path, extra=["--quota-backend-bytes=400000"]) as one:
        ctl = Walker(one.client_url, tmp_path)
        prepare(ctl)
        root = "--user=root:secret"
        lease = ctl(root, "lease", "grant", "2").split()[1]
        ctl(root, "put", "/leased", "x", f"--lease={lease}")
        end = time.monotonic() + 10
        while ctl(root, "get", "/leased") and time.monotonic() < end:
            time.sleep(0.3)
        assert ctl(root, "get", "/leased") == ""
        while ctl(root, "put", "/big", "x" * 50_000):
            assert time.monotonic() < end + 10
        while "NOSPACE" not in ctl(root, "alarm", "list"):
            assert time.monotonic() < end + 20


def test_a_member_that_gets_a_snapshot_knows_the_users(tmp_path: Path) -> None:
    with running("etcdlite", tmp_path, extra=["--snapshot-count=5"]) as one:
        ctl = Walker(one.client_url, tmp_path)
        prepare(ctl)
        target = tmp_path / "backup"
        ctl("--user=root:secret", "snapshot", "save", str(target))
        restored = tmp_path / "restored"
        restored.mkdir()
        subprocess.run(
            [
                *(sys.executable, "-m", "deploy.etcdtools", "etcd", "snapshot", "restore", str(target)),
                *(f"--data-dir={restored / 'm0'}", "--name=m0", f"--initial-cluster=m0={one.peer_url}"),
            ],
            check=True,
            cwd=members.ROOT,
            capture_output=True,
        )
        one.stop()
        again = members.member("etcdlite", restored, "m0", cluster=f"m0={one.peer_url}")
        try:
            again.start()
            again.wait_ready()
            there = Walker(again.client_url, tmp_path)
            assert there("--user=ann:pw", "get", "/pub/x") == "/pub/x\n1\n"
            there("get", "/pub/x")
            assert "Error: etcdserver: user name is empty" in there.transcript
        finally:
            again.stop(9)
