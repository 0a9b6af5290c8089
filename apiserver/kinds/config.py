"""ConfigMaps and Secrets."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from apimachinery import field, meta
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import column

SIZE_LIMIT = 1024 * 1024  # bytes of all values together
OPAQUE = "Opaque"
SERVICE_ACCOUNT_TOKEN = "kubernetes.io/service-account-token"  # noqa: S105 -- a type's name
_KEY = "[-._a-zA-Z0-9]+"
_KEY_TEXT = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' "
    f"(e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '{_KEY}')"
)


def _config_key(path: str, key: str) -> Iterator[Cause]:
    if len(key) > 253:
        yield field.invalid(path, key, "must be no more than 253 bytes")
    if not re.fullmatch(_KEY, key):
        yield field.invalid(path, key, _KEY_TEXT)
    if key in (".", "..") or key.startswith(".."):
        detail = f"must not be '{key}'" if key in (".", "..") else "must not start with '..'"
        yield field.invalid(path, key, detail)


def _size(values: Mapping[str, str] | None, *, encoded: bool) -> int:
    """Bytes of the values; base64 is counted as what it stands for."""
    if encoded:
        return sum(len(value) * 3 // 4 - value.count("=", -2) for value in (values or {}).values())
    return sum(len(value.encode()) for value in (values or {}).values())


# -- ConfigMap ----------------------------------------------------------------------------------------------


def _validate_config_map(item: Object) -> Iterator[Cause]:
    data, binary = item.get("data") or {}, item.get("binaryData") or {}
    for key in data:
        yield from _config_key(f"data[{key}]", key)
        if key in binary:
            yield field.invalid(f"data[{key}]", key, "duplicate of key present in binaryData")
    for key in binary:
        yield from _config_key(f"binaryData[{key}]", key)
    if _size(data, encoded=False) + _size(binary, encoded=True) > SIZE_LIMIT:
        yield field.too_long("", SIZE_LIMIT)


def _frozen(new: Mapping[str, Any], old: Mapping[str, Any], *names: str) -> Iterator[Cause]:
    """Once `immutable` is set, it and the data stay."""
    if not old.get("immutable"):
        return
    detail = "field is immutable when `immutable` is set"
    if not new.get("immutable"):
        yield field.forbidden("immutable", detail)
    for name in names:
        if (new.get(name) or {}) != (old.get(name) or {}):
            yield field.forbidden(name, detail)


def _validate_config_map_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _frozen(new, old, "data", "binaryData")
    yield from _validate_config_map(new)


CONFIG_MAP = Kind(
    group="",
    version="v1",
    kind="ConfigMap",
    resource="configmaps",
    namespaced=True,
    storage_prefix="configmaps",
    singular="configmap",
    short_names=("cm",),
    columns=(
        common.NAME,
        column(
            "Data", lambda item: len(item.get("data") or ()) + len(item.get("binaryData") or ()), "integer"
        ),
        common.AGE,
    ),
    strategy=Strategy(
        validate=_validate_config_map,
        validate_update=_validate_config_map_update,
        has_generation=False,
    ),
)


# -- Secret -------------------------------------------------------------------------------------------------


def _default_secret(secret: Object) -> None:
    """`stringData` is for writing only: it becomes data, and wins over it."""
    secret.setdefault("type", OPAQUE)
    plain = secret.pop("stringData", None)
    if plain:
        data = dict(secret.get("data") or {})
        data.update({key: base64.b64encode(value.encode()).decode() for key, value in plain.items()})
        secret["data"] = data


_NEEDED_KEYS = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
_ACCOUNT_NAME = "kubernetes.io/service-account.name"


def _validate_secret(secret: Object) -> Iterator[Cause]:
    data, kind = secret.get("data") or {}, secret.get("type", "")
    for key in data:
        yield from _config_key(f"data[{key}]", key)
    if _size(data, encoded=True) > SIZE_LIMIT:
        yield field.too_long("data", SIZE_LIMIT)
    if kind == SERVICE_ACCOUNT_TOKEN and not meta.annotations_of(secret).get(_ACCOUNT_NAME):
        yield field.required(f"metadata.annotations[{_ACCOUNT_NAME}]")
    for key in _NEEDED_KEYS.get(kind, ()):
        if key not in data:
            yield field.required(f"data[{key}]")
        elif key.startswith(".docker") and not _is_json(data[key]):
            yield field.invalid(f"data[{key}]", "<secret contents redacted>", "invalid character in JSON")
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & set(data):
        yield field.required("data[username]")
        yield field.required("data[password]")


def _is_json(encoded: str) -> bool:
    try:
        orjson.loads(base64.b64decode(encoded))
    except (binascii.Error, orjson.JSONDecodeError):
        return False
    return True


def _validate_secret_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from common.immutable("type", new.get("type"), old.get("type"))
    yield from _frozen(new, old, "data")
    yield from _validate_secret(new)


def _update_secret(new: Object, old: Object) -> None:
    if not new.get("type"):
        new["type"] = old.get("type", OPAQUE)


SECRET = Kind(
    group="",
    version="v1",
    kind="Secret",
    resource="secrets",
    namespaced=True,
    storage_prefix="secrets",
    singular="secret",
    columns=(
        common.NAME,
        column("Type", common.text("type")),
        column("Data", lambda secret: len(secret.get("data") or ()), "integer"),
        common.AGE,
    ),
    strategy=Strategy(
        default=_default_secret,
        prepare_update=_update_secret,
        validate=_validate_secret,
        validate_update=_validate_secret_update,
        fields=common.status_fields("type"),
        has_generation=False,
    ),
    selectable_fields=("type",),
    secret=True,
)

KINDS = (CONFIG_MAP, SECRET)
