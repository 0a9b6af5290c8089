"""What the files of a configMap, secret, downwardAPI or projected volume are. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubelet.pods.environment import Sources, field_value, resource_value
from kubelet.volumes.atomic import File, check_path

Object = Mapping[str, Any]
DEFAULT_MODE = 0o644
CONTENT_KINDS = ("configMap", "secret", "downwardAPI", "projected")
"""Volume sources whose files are made from the API's objects."""


class VolumeError(Exception):
    """A volume cannot be set up; the message is what the FailedMount event says."""


@dataclass(frozen=True, slots=True)
class TokenWish:
    """A service-account token that a projected volume asks for."""

    audience: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Needs:
    """The objects and tokens that a volume's files are made from."""

    configmaps: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    tokens: frozenset[TokenWish] = frozenset()


@dataclass(frozen=True, slots=True)
class Material:
    """What `Needs` asked for, as it was found."""

    sources: Sources = field(default_factory=Sources)
    tokens: Mapping[TokenWish, str] = field(default_factory=dict)


def token_wish(source: Mapping[str, Any]) -> TokenWish:
    return TokenWish(source.get("audience", ""), int(source.get("expirationSeconds", 3600)))


def _projections(volume: Object) -> list[tuple[str, Mapping[str, Any]]]:
    """Every volume of these kinds as a list of projections, so that one rule serves all."""
    if "projected" in volume:
        return [
            (kind, body) for source in volume["projected"].get("sources", []) for kind, body in source.items()
        ]
    if "configMap" in volume:
        return [("configMap", volume["configMap"])]
    if "secret" in volume:
        secret = volume["secret"]
        return [("secret", {**secret, "name": secret.get("secretName", "")})]
    return [("downwardAPI", volume["downwardAPI"])]


def needs(volume: Object) -> Needs:
    """Which objects and tokens the volume refers to."""
    projections = _projections(volume)
    return Needs(
        frozenset(body["name"] for kind, body in projections if kind == "configMap"),
        frozenset(body["name"] for kind, body in projections if kind == "secret"),
        frozenset(token_wish(body) for kind, body in projections if kind == "serviceAccountToken"),
    )


def default_mode(volume: Object) -> int:
    for kind in CONTENT_KINDS:
        if kind in volume:
            mode = volume[kind].get("defaultMode")
            return DEFAULT_MODE if mode is None else int(mode)
    return DEFAULT_MODE


def files(
    pod: Object, volume: Object, material: Material, *, private_tokens: bool = False
) -> dict[str, File]:
    """The volume's files; a later projection wins. Raises `VolumeError`."""
    mode = default_mode(volume)
    out: dict[str, File] = {}
    for kind, body in _projections(volume):
        if kind == "configMap":
            out.update(_from_object("configmap", body, material.sources.configmaps, mode, pod))
        elif kind == "secret":
            out.update(_from_object("secret", body, material.sources.secrets, mode, pod))
        elif kind == "downwardAPI":
            out.update(_downward(pod, body, material.sources, mode))
        elif kind == "serviceAccountToken":
            token = material.tokens[token_wish(body)]
            out[body["path"]] = File(token.encode(), 0o600 if private_tokens else mode)
        else:
            raise VolumeError(f"projected volume source {kind!r} is not supported")
    for path in out:
        try:
            check_path(path)
        except ValueError as error:
            raise VolumeError(str(error)) from error
    return out


def _content(obj: Object, what: str) -> dict[str, bytes]:
    if what == "secret":
        return {key: base64.b64decode(value) for key, value in (obj.get("data") or {}).items()}
    text = {key: value.encode() for key, value in (obj.get("data") or {}).items()}
    return text | {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}


def _from_object(
    what: str, body: Object, objects: Mapping[str, Object | None], mode: int, pod: Object
) -> dict[str, File]:
    name, optional = body["name"], bool(body.get("optional"))
    obj = objects.get(name)
    if obj is None:
        if optional:
            return {}
        raise VolumeError(f'{what} "{name}" not found')
    content = _content(obj, what)
    if not body.get("items"):
        return {key: File(value, mode) for key, value in content.items()}
    out = {}
    for item in body["items"]:
        if item["key"] in content:
            out[item["path"]] = File(content[item["key"]], int(item.get("mode") or mode))
        elif not optional:
            namespace = pod["metadata"].get("namespace", "")
            raise VolumeError(f"references non-existent {what} key: {namespace}/{name}: {item['key']}")
    return out


def _downward(pod: Object, body: Object, sources: Sources, mode: int) -> dict[str, File]:
    out = {}
    for item in body.get("items", []):
        if "fieldRef" in item:
            value = field_value(pod, item["fieldRef"]["fieldPath"], sources)
        else:
            reference = item["resourceFieldRef"]
            value = resource_value(pod, {"name": reference["containerName"]}, reference, sources.allocatable)
        out[item["path"]] = File(value.encode(), int(item.get("mode") or mode))
    return out
