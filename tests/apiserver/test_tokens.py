"""Service-account tokens: bound, expiring, revoked by deletion; certificates told apart by authority."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from apimachinery.errors import StatusError
from apiserver.auth import tokens
from apiserver.auth.authenticate import Authenticator, FrontProxy
from apiserver.storage.codec import Object
from componentbase import tlsutil
from pki.layout import generate
from tests.apiserver.devserver import names

ISSUER = "https://kubernetes.default.svc"
ACCOUNT: Object = {"metadata": {"namespace": "ns", "name": "sa", "uid": "u1"}}
KEYS: list[Any] = [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)]


class World:
    """Objects by name, a clock for signatures and one for the cache."""

    def __init__(self, key: tokens.PrivateKey) -> None:
        self.uids = {
            ("serviceaccounts", "ns", "sa"): "u1",
            ("pods", "ns", "p"): "p1",
            ("nodes", "", "n"): "n1",
        }
        self.now = time.time()
        self.monotonic = 0.0
        self.issuer = tokens.Issuer(ISSUER, key, lambda: self.now)
        self.verifier = tokens.Verifier(
            [ISSUER], [key.public_key()], [ISSUER], self.uid, clock=lambda: self.monotonic
        )

    def uid(self, resource: str, namespace: str, name: str) -> str:
        return self.uids.get((resource, namespace, name), "")

    def issue(
        self, seconds: int = 600, audiences: tuple[str, ...] = (ISSUER,), **bound: dict[str, str]
    ) -> str:
        return self.issuer.issue(ACCOUNT, audiences, seconds, bound)[0]


@pytest.mark.parametrize("key", KEYS, ids=["ES256", "RS256"])
def test_a_token_names_its_account_and_what_it_is_bound_to(key: tokens.PrivateKey) -> None:
    world = World(key)
    user = world.verifier.user(world.issue(pod={"name": "p", "uid": "p1"}, node={"name": "n", "uid": "n1"}))
    assert user is not None and user.name == "system:serviceaccount:ns:sa" and user.uid == "u1"
    assert "system:serviceaccounts:ns" in user.groups and user.extra[tokens.EXTRA_POD] == ["p"]
    assert user.extra[tokens.EXTRA_NODE] == ["n"]


def test_deleting_what_a_token_is_bound_to_revokes_it_at_once() -> None:
    world = World(KEYS[0])
    bound, free = world.issue(pod={"name": "p", "uid": "p1"}), world.issue()
    assert world.verifier.user(bound) and world.verifier.user(free)
    world.uids["pods", "ns", "p"] = "another"
    assert world.verifier.user(bound) is None and world.verifier.user(free)
    del world.uids["serviceaccounts", "ns", "sa"]
    assert world.verifier.user(free) is None


def test_expired_foreign_and_misdirected_tokens_are_no_identity() -> None:
    world, other = World(KEYS[0]), World(ec.generate_private_key(ec.SECP256R1()))
    assert world.verifier.user(other.issue()) is None
    assert world.verifier.user(world.issue(audiences=("vault",))) is None
    assert world.verifier.user(world.issue(audiences=("vault",)), ["vault"]) is not None
    world.now -= 7200
    assert world.verifier.user(world.issue()) is None
    assert world.verifier.user("not.a.token") is None


def test_a_checked_signature_is_trusted_for_seconds_only() -> None:
    world = World(KEYS[0])
    token = world.issue()
    assert world.verifier.user(token)
    world.verifier._keys.clear()
    assert world.verifier.user(token)
    world.monotonic += tokens.CACHE_SECONDS + 1
    assert world.verifier.user(token) is None


def test_key_files_may_hold_private_public_and_several_keys(tmp_path: Path) -> None:
    inventory = generate(tmp_path, names(1, "n"))
    private, public = (inventory.path(f"service-account{suffix}.pem") for suffix in ("-key", ""))
    both = tmp_path / "both.pem"
    both.write_bytes(private.read_bytes() + public.read_bytes())
    ids = {tokens.key_id(key) for key in tokens.load_public_keys(str(both))}
    assert len(ids) == 1 and len(tokens.load_public_keys(str(both))) == 2
    [document] = tokens.key_set(tokens.load_public_keys(str(public)))["keys"]
    assert document["kid"] in ids and document["alg"] == "ES256" and "d" not in document


def test_the_authority_of_a_certificate_decides_what_it_may_say(tmp_path: Path) -> None:
    inventory = generate(tmp_path, names(1, "n"))

    def der(stem: str) -> bytes:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        return x509.load_pem_x509_certificate(inventory.path(f"{stem}.pem").read_bytes()).public_bytes(
            Encoding.DER
        )

    proxy = FrontProxy(inventory.path("front-proxy-ca.pem").read_bytes(), ["front-proxy-client"])
    authenticator = Authenticator(inventory.path("ca.pem").read_bytes(), proxy)
    said = {"x-remote-user": "alice", "x-remote-group": "a,b", "x-remote-extra-team": "blue"}
    alice = authenticator.authenticate(der("front-proxy-client"), said)
    assert (alice.name, alice.groups[:2], alice.extra) == ("alice", ("a", "b"), {"team": ("blue",)})
    admin = authenticator.authenticate(der("admin"), said)
    assert admin.name == tlsutil.identity(der("admin")).common_name and "system:masters" in admin.groups
    fingerprint = hashlib.sha256(der("admin")).hexdigest()
    assert admin.extra == {"authentication.kubernetes.io/credential-id": (f"X509SHA256={fingerprint}",)}
    with pytest.raises(StatusError) as refused:
        authenticator.authenticate(der("etcd-client"), said)
    assert refused.value.code == 401
    assert authenticator.authenticate(None, said).name == "system:anonymous"
    assert authenticator.authenticate(None, {}).name == "system:anonymous"
