"""Hashes of passwords. They are made where a request arrives: the log and the database hold no password.

scrypt (RFC 7914) from the standard library, with its parameters beside the hash. Both functions take tens of
milliseconds of CPU by design: call them off the loop.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os

_N, _R, _P = 1 << 14, 8, 1  # 16 MiB
_SALT_BYTES = 16


def _derive(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)


def hash_password(password: str) -> str:
    """`scrypt$n$r$p$salt$hash`."""
    salt = os.urandom(_SALT_BYTES)
    derived = _derive(password, salt, _N, _R, _P)
    encoded = (base64.b64encode(each).decode() for each in (salt, derived))
    return f"scrypt${_N}${_R}${_P}$" + "$".join(encoded)


def matches(password: str, stored: str) -> bool:
    """Whether `stored` was made of `password`; False for a hash of another kind."""
    parts = stored.split("$")
    if len(parts) != 6 or parts[0] != "scrypt":
        return False
    n, r, p = (int(each) for each in parts[1:4])
    salt, derived = (base64.b64decode(each) for each in parts[4:])
    return hmac.compare_digest(_derive(password, salt, n, r, p), derived)
