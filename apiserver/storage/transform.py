"""Encryption at rest: the value transformers of `EncryptionConfiguration` (apiserver.config.k8s.io/v1).

Wire forms are Kubernetes': `k8s:enc:aescbc:v1:<key name>:` + IV (16 bytes) + AES-CBC with PKCS#7 padding,
`k8s:enc:aesgcm:v1:<key name>:` + nonce (12 bytes) + AES-GCM with the storage key as additional data, and
`k8s:enc:secretbox:v1:<key name>:` + nonce (24 bytes) + XSalsa20-Poly1305.
Values without a prefix are plain (`identity`). The first provider of a resource writes, all of them read.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7

from apiserver.storage.interface import Undecodable

MARK = b"k8s:enc:"


class ConfigurationError(ValueError):
    """The encryption configuration cannot be used; the text names the field."""


class Cipherer(Protocol):
    """One key of one provider."""

    prefix: bytes

    def seal(self, plain: bytes, storage_key: bytes) -> bytes: ...
    def open(self, sealed: bytes, storage_key: bytes) -> bytes: ...


class AesCbc:
    """AES in CBC mode. Gives secrecy, not integrity, exactly as Kubernetes' provider of that name."""

    def __init__(self, name: str, key: bytes) -> None:
        self.prefix = MARK + b"aescbc:v1:" + name.encode() + b":"
        self._key = algorithms.AES(key)

    def seal(self, plain: bytes, storage_key: bytes) -> bytes:
        iv = os.urandom(16)
        padder = PKCS7(128).padder()
        encryptor = Cipher(self._key, modes.CBC(iv)).encryptor()
        return iv + encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()

    def open(self, sealed: bytes, storage_key: bytes) -> bytes:
        decryptor = Cipher(self._key, modes.CBC(sealed[:16])).decryptor()
        unpadder = PKCS7(128).unpadder()
        padded = decryptor.update(sealed[16:]) + decryptor.finalize()
        return unpadder.update(padded) + unpadder.finalize()


class AesGcm:
    """AES-GCM bound to the storage key, so that a value cannot be moved to another key."""

    def __init__(self, name: str, key: bytes) -> None:
        self.prefix = MARK + b"aesgcm:v1:" + name.encode() + b":"
        self._aead = AESGCM(key)

    def seal(self, plain: bytes, storage_key: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._aead.encrypt(nonce, plain, storage_key)

    def open(self, sealed: bytes, storage_key: bytes) -> bytes:
        return self._aead.decrypt(sealed[:12], sealed[12:], storage_key)


class SecretBox:
    """XSalsa20 and Poly1305 (NaCl's secretbox): nonce (24 bytes), then the sealed value."""

    def __init__(self, name: str, key: bytes) -> None:
        from nacl.secret import SecretBox as Box  # only a configuration that names it pays for the import

        self.prefix = MARK + b"secretbox:v1:" + name.encode() + b":"
        self._box = Box(key)

    def seal(self, plain: bytes, storage_key: bytes) -> bytes:
        return bytes(self._box.encrypt(plain, os.urandom(NONCE_BYTES)))

    def open(self, sealed: bytes, storage_key: bytes) -> bytes:
        from nacl.exceptions import CryptoError

        try:
            return bytes(self._box.decrypt(sealed))
        except CryptoError as error:
            raise ValueError("the value cannot be opened") from error


NONCE_BYTES = 24
PROVIDERS: Mapping[str, type[AesCbc] | type[AesGcm] | type[SecretBox]] = {
    "aescbc": AesCbc,
    "aesgcm": AesGcm,
    "secretbox": SecretBox,
}
KEY_BYTES: Mapping[str, tuple[int, ...]] = {"secretbox": (32,)}
AES_BYTES = (16, 24, 32)


@dataclass(frozen=True, slots=True)
class Transformer:
    """How the values of one resource are written (None: plain) and which keys may read them."""

    writer: Cipherer | None
    readers: Sequence[Cipherer]
    plain_readable: bool

    def to_storage(self, key: str, plain: bytes) -> bytes:
        if self.writer is None:
            return plain
        return self.writer.prefix + self.writer.seal(plain, key.encode())

    def is_stale(self, value: bytes) -> bool:
        """Whether a stored value was written in another way than new ones are."""
        return value.startswith(MARK) if self.writer is None else not value.startswith(self.writer.prefix)

    def from_storage(self, key: str, value: bytes) -> bytes:
        """Raises Undecodable when no configured provider can read the value."""
        if not value.startswith(MARK):
            if self.plain_readable:
                return value
            raise Undecodable(f"{key}: stored in plain, but no identity provider is configured")
        for reader in self.readers:
            if value.startswith(reader.prefix):
                try:
                    return reader.open(value[len(reader.prefix) :], key.encode())
                except (ValueError, InvalidTag) as error:
                    raise Undecodable(f"{key}: decryption failed") from error
        raise Undecodable(f"{key}: no configured key matches the stored value")


PLAIN = Transformer(None, (), True)


class Transformers:
    """Transformer by group resource (`secrets`, `configmaps`, `deployments.apps`)."""

    def __init__(self, by_resource: Mapping[str, Transformer]) -> None:
        self._by_resource = dict(by_resource)

    def of(self, group_resource: str) -> Transformer:
        found = self._by_resource.get(group_resource)
        if found is None:
            _, _, group = group_resource.partition(".")
            found = self._by_resource.get(f"*.{group}") or self._by_resource.get("*.*")
        return found or PLAIN


def load(path: str) -> Transformers:
    """Read an EncryptionConfiguration file. Raises ConfigurationError, OSError."""
    document = yaml.safe_load(Path(path).read_text())
    if not isinstance(document, dict) or document.get("kind") not in (
        "EncryptionConfiguration",
        "EncryptionConfig",
    ):
        raise ConfigurationError(f"{path}: kind must be EncryptionConfiguration")
    return from_configuration(document)


def from_configuration(document: Mapping[str, Any]) -> Transformers:
    """Build the transformers of a decoded EncryptionConfiguration; earlier entries win, as in Kubernetes."""
    table: dict[str, Transformer] = {}
    for index, entry in enumerate(document.get("resources") or []):
        where = f"resources[{index}]"
        transformer = _transformer(entry.get("providers") or [], f"{where}.providers")
        for resource in entry.get("resources") or []:
            table.setdefault(str(resource), transformer)
    return Transformers(table)


def _transformer(providers: Sequence[Mapping[str, Any]], where: str) -> Transformer:
    if not providers:
        raise ConfigurationError(f"{where}: at least one provider is required")
    readers: list[Cipherer] = []
    writers: list[Cipherer | None] = []
    for index, provider in enumerate(providers):
        [(name, body)] = provider.items()
        if name == "identity":
            writers.append(None)
            continue
        keys = _keys(name, body or {}, f"{where}[{index}].{name}")
        readers += keys
        writers.append(keys[0])
    return Transformer(writers[0], readers, None in writers)


def _keys(provider: str, body: Mapping[str, Any], where: str) -> list[Cipherer]:
    if provider not in PROVIDERS:
        known = ", ".join((*PROVIDERS, "identity"))
        raise ConfigurationError(f"{where}: provider is not supported (supported: {known})")
    out: list[Cipherer] = []
    for index, key in enumerate(body.get("keys") or []):
        try:
            secret = base64.b64decode(key.get("secret", ""), validate=True)
        except (binascii.Error, TypeError):
            raise ConfigurationError(f"{where}.keys[{index}].secret: must be base64") from None
        allowed = KEY_BYTES.get(provider, AES_BYTES)
        if len(secret) not in allowed:
            sizes = " or ".join(", ".join(str(size) for size in allowed).rsplit(", ", 1))
            raise ConfigurationError(
                f"{where}.keys[{index}].secret: must be {sizes} bytes, got {len(secret)}"
            )
        out.append(PROVIDERS[provider](str(key.get("name", "")), secret))
    if not out:
        raise ConfigurationError(f"{where}.keys: at least one key is required")
    return out
