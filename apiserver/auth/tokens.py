"""Service-account tokens: signed JWTs bound to a pod, secret or node, as issued by TokenRequest (KEP-1205).

A token is good as long as its signature, issuer, audience and times are, and its service account and the
object it is bound to still exist with the uids named in it. Deleting either revokes it at once.
"""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from apiserver.auth.user import EXTRA_CREDENTIAL, User, service_account

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
# (kind, namespace, name) -> the object's uid, "" when there is none
FindUid = Callable[[str, str, str], str]

CLAIM = "kubernetes.io"
LEEWAY = 60.0
CACHE_SECONDS, CACHE_SIZE = 10.0, 4096
EXTRA_POD, EXTRA_POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"
EXTRA_NODE, EXTRA_NODE_UID = "authentication.kubernetes.io/node-name", "authentication.kubernetes.io/node-uid"


class UnusableKey(ValueError):
    """A key file cannot be used; the text names it."""


def load_public_keys(path: str) -> list[PublicKey]:
    """The keys of a PEM file, public or private, several allowed."""
    text = Path(path).read_bytes()
    keys: list[PublicKey] = []
    for block in _pem_blocks(text):
        if b"PRIVATE KEY" in block:
            key: Any = serialization.load_pem_private_key(block, None)
            key = key.public_key()
        elif b"CERTIFICATE" in block:
            from cryptography import x509

            key = x509.load_pem_x509_certificate(block).public_key()
        else:
            key = serialization.load_pem_public_key(block)
        if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            raise UnusableKey(f"{path}: only RSA and ECDSA keys are supported")
        keys.append(key)
    if not keys:
        raise UnusableKey(f"{path}: holds no key")
    return keys


def load_private_key(path: str) -> PrivateKey:
    key = serialization.load_pem_private_key(Path(path).read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise UnusableKey(f"{path}: only RSA and ECDSA keys are supported")
    return key


def _pem_blocks(text: bytes) -> list[bytes]:
    blocks, end = [], b"-----END "
    for part in text.split(b"-----BEGIN ")[1:]:
        body, _, tail = part.partition(end)
        blocks.append(b"-----BEGIN " + body + end + tail.split(b"-----")[0] + b"-----\n")
    return blocks


def key_id(key: PublicKey) -> str:
    """The hash of the public key, as Kubernetes names keys in a JWT header."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()


def algorithm(key: PublicKey | PrivateKey) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return {256: "ES256", 384: "ES384", 521: "ES512"}[key.curve.key_size]
    return "RS256"


class Issuer:
    """Signs tokens with one private key."""

    def __init__(self, issuer: str, key: PrivateKey, now: Callable[[], float]) -> None:
        self._issuer = issuer
        self._key = key
        self._now = now

    def issue(
        self,
        account: Mapping[str, Any],
        audiences: Sequence[str],
        seconds: int,
        bound: Mapping[str, Mapping[str, str]],
    ) -> tuple[str, float]:
        """A token for a ServiceAccount object and its expiry (Unix seconds). `bound`: "pod" etc. -> name
        and uid.
        """
        fields, now = account["metadata"], int(self._now())
        private: dict[str, Any] = {
            "namespace": fields["namespace"],
            "serviceaccount": {"name": fields["name"], "uid": fields["uid"]},
            **{kind: dict(ref) for kind, ref in bound.items()},
        }
        claims = {
            "iss": self._issuer,
            "sub": f"system:serviceaccount:{fields['namespace']}:{fields['name']}",
            "aud": list(audiences),
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "jti": str(uuid.uuid4()),
            CLAIM: private,
        }
        headers = {"kid": key_id(self._key.public_key())}
        return jwt.encode(claims, self._key, algorithm(self._key), headers), float(now + seconds)


class Verifier:
    """Knows a token's user, or None. `find_uid` reads the watch cache."""

    def __init__(
        self,
        issuers: Sequence[str],
        keys: Sequence[PublicKey],
        audiences: Sequence[str],
        find_uid: FindUid,
        *,
        legacy: Callable[[str], User | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`legacy` knows the users of tokens of the old sort (legacytokens.py)."""
        self._legacy = legacy
        self._issuers = list(issuers)
        self._keys = {key_id(key): key for key in keys}
        self.audiences = list(audiences)
        self._find_uid = find_uid
        self._clock = clock
        self._checked: dict[tuple[str, tuple[str, ...]], tuple[float, dict[str, Any]]] = {}

    def user(self, token: str, audiences: Sequence[str] | None = None) -> User | None:
        claims = self._claims(token, audiences or self.audiences)
        if claims is None:
            return self._legacy(token) if self._legacy else None
        return self._bound_user(claims)

    def accepted_audiences(self, token: str, audiences: Sequence[str]) -> list[str]:
        claims = self._claims(token, audiences) or {}
        given = claims.get("aud", [])
        return [name for name in audiences if name in ([given] if isinstance(given, str) else given)]

    def _claims(self, token: str, audiences: Sequence[str]) -> dict[str, Any] | None:
        """Claims of a good token; a checked signature is trusted for seconds, its objects never."""
        key, now = (token, tuple(audiences)), self._clock()
        expires, known = self._checked.get(key, (0.0, None))
        if known is not None and now < expires:
            return known
        claims = self._verified(token, audiences)
        if claims is not None:
            if len(self._checked) >= CACHE_SIZE:
                self._checked.clear()
            self._checked[key] = (now + CACHE_SECONDS, claims)
        return claims

    def _verified(self, token: str, audiences: Sequence[str]) -> dict[str, Any] | None:
        try:
            named = jwt.get_unverified_header(token).get("kid")
        except jwt.InvalidTokenError:
            return None
        keys = [self._keys[named]] if named in self._keys else [] if named else list(self._keys.values())
        for key in keys:
            try:
                return jwt.decode(
                    token,
                    key,
                    [algorithm(key)],
                    audience=list(audiences),
                    issuer=self._issuers,
                    leeway=LEEWAY,
                    options={"require": ["exp", "iss", "sub"]},
                )
            except jwt.InvalidTokenError:
                continue
        return None

    def _bound_user(self, claims: Mapping[str, Any]) -> User | None:
        private = claims.get(CLAIM)
        if not isinstance(private, dict):
            return None
        namespace, account = private.get("namespace", ""), private.get("serviceaccount") or {}
        name, uid = account.get("name", ""), account.get("uid", "")
        if not uid or self._find_uid("serviceaccounts", namespace, name) != uid:
            return None
        for kind, resource in (("pod", "pods"), ("secret", "secrets"), ("node", "nodes")):
            ref = private.get(kind)
            # A pod token also names its node; only a token without a pod is bound to that node.
            if ref and not (kind == "node" and "pod" in private):
                where = "" if kind == "node" else namespace
                if self._find_uid(resource, where, ref.get("name", "")) != ref.get("uid"):
                    return None
        return service_account(namespace, name, uid, _extra(claims, private))


def _extra(claims: Mapping[str, Any], private: Mapping[str, Any]) -> dict[str, list[str]]:
    extra: dict[str, list[str]] = {}
    if claims.get("jti"):
        extra[EXTRA_CREDENTIAL] = [f"JTI={claims['jti']}"]
    for kind, name_key, uid_key in (("pod", EXTRA_POD, EXTRA_POD_UID), ("node", EXTRA_NODE, EXTRA_NODE_UID)):
        ref = private.get(kind)
        if ref:
            extra[name_key] = [ref.get("name", "")]
            if ref.get("uid"):
                extra[uid_key] = [ref["uid"]]
    return extra


def key_set(keys: Sequence[PublicKey]) -> dict[str, Any]:
    """The JSON Web Key Set others verify tokens by."""
    out = []
    for key in keys:
        name = algorithm(key)
        if isinstance(key, ec.EllipticCurvePublicKey):
            document = jwt.algorithms.ECAlgorithm.to_jwk(key, as_dict=True)
        else:
            document = jwt.algorithms.RSAAlgorithm.to_jwk(key, as_dict=True)
        out.append({**document, "use": "sig", "kid": key_id(key), "alg": name})
    return {"keys": out}
