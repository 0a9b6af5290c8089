"""Bootstrap tokens: what is signed and by whom, and what is removed."""

from __future__ import annotations

import base64
from typing import Any

import jwt
import pytest

from controllers import bootstraptokens as bt
from controllers import objects as o
from kubeclient import resources as r
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import Object
from tests.controllers.world import World

KUBECONFIG = "apiVersion: v1\nkind: Config\n"
VALUE = "0123456789abcdef"


def token(name: str = "abcdef", **data: str) -> Object:
    full = {"token-id": name, "token-secret": VALUE, "usage-bootstrap-signing": "true"}
    full |= {part.replace("_", "-"): value for part, value in data.items()}
    encoded = {part: base64.b64encode(value.encode()).decode() for part, value in full.items()}
    return {"metadata": make.meta(f"bootstrap-token-{name}", "kube-system"), "type": bt.TYPE, "data": encoded}


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")  # 16 characters, by their format
def test_the_signature_is_a_detached_jws_over_the_content() -> None:
    """Checked by another implementation (PyJWT), as kubeadm's discovery checks it."""
    read = bt.parse(token())
    assert read is not None
    header, nothing, signature = bt.sign(KUBECONFIG, read).split(".")
    assert nothing == ""
    payload = base64.urlsafe_b64encode(KUBECONFIG.encode()).rstrip(b"=").decode()
    whole = f"{header}.{payload}.{signature}"
    assert jwt.get_unverified_header(whole) == {"alg": "HS256", "kid": "abcdef"}
    found = jwt.api_jws.PyJWS().decode(whole, VALUE, algorithms=["HS256"])
    assert found == KUBECONFIG.encode()
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.api_jws.PyJWS().decode(whole, "another" * 5, algorithms=["HS256"])


@pytest.mark.parametrize(
    "bad",
    [
        {"token_id": "other1"},  # not the name of the Secret
        {"token_secret": "SHORT"},
        {"token_id": ""},
    ],
)
def test_a_malformed_token_is_none(bad: dict[str, str]) -> None:
    assert bt.parse(token(**bad)) is None
    assert bt.parse({**token(), "type": "Opaque"}) is None


@pytest.mark.parametrize(
    ("text", "left"),
    [("2026-01-01T01:00:00Z", 3600.0), ("2026-01-01T02:00:00+01:00", 3600.0), ("tomorrow", None)],
)
def test_when_a_token_expires(text: str, left: float | None) -> None:
    now = o.parse_time(make.START)
    read = bt.parse(token(expiration=text))
    assert read is not None
    found = read.seconds_left(now)
    assert found is not None and (found == left if left is not None else found < 0)


def test_who_signs() -> None:
    now = o.parse_time(make.START)
    data = {"kubeconfig": KUBECONFIG, "jws-kubeconfig-gone00": "old", "else": "kept"}
    secrets = [
        token("aaaaaa"),
        token("bbbbbb", usage_bootstrap_signing="false"),
        token("cccccc", expiration="2025-12-31T00:00:00Z"),
    ]
    signed = bt.compute_signatures(data, secrets, now)
    assert sorted(signed) == ["else", "jws-kubeconfig-aaaaaa", "kubeconfig"]
    assert bt.compute_signatures(signed, secrets, now) == signed
    assert bt.compute_signatures({"jws-kubeconfig-aaaaaa": "x"}, secrets, now) == {}


def test_signatures_follow_the_tokens_until_they_expire() -> None:
    async def scenario() -> None:
        world = World()
        info = {"metadata": make.meta("cluster-info", "kube-public"), "data": {"kubeconfig": KUBECONFIG}}
        world.api.put(r.CONFIGMAPS, info)
        world.api.put(r.SECRETS, token("aaaaaa"))
        soon = o.format_time(world.clock.now() + 30)
        world.api.put(r.SECRETS, token("bbbbbb", expiration=soon))

        def signers() -> set[str]:
            found: dict[str, Any] = (world.api.get(r.CONFIGMAPS, "cluster-info", "kube-public") or {})["data"]
            return {name[-6:] for name in found if name.startswith(bt.SIGNATURE)}

        async with world.running(bt.BootstrapSigner, bt.TokenCleaner):
            await world.until(lambda: signers() == {"aaaaaa", "bbbbbb"})
            await world.pass_time(29)
            assert signers() == {"aaaaaa", "bbbbbb"}
            await world.until(lambda: signers() == {"aaaaaa"})
            assert [o.name(s) for s in world.api.all(r.SECRETS)] == ["bootstrap-token-aaaaaa"]
            world.api.drop(r.SECRETS, "bootstrap-token-aaaaaa", "kube-system")
            await world.until(lambda: signers() == set())

    run(scenario())
