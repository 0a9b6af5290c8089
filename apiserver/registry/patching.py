"""The patch types of PATCH: JSON Patch (RFC 6902), JSON Merge Patch (RFC 7386), strategic merge patch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from apimachinery import codec, errors, field
from apimachinery.patch import json as json_patch
from apimachinery.patch import merge, strategic
from apimachinery.schema.decode import definition_of
from apimachinery.scheme import Kind
from apiserver.rest import negotiate

Object = dict[str, Any]
Apply = Callable[[Object], Object]

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
SUPPORTED = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)


def clone(obj: Object) -> Object:
    copy: Object = orjson.loads(orjson.dumps(obj))
    return copy


@dataclass(frozen=True, slots=True)
class Patch:
    """What a PATCH body stands for: a function of the object. `strategic` holds a strategic merge patch."""

    apply: Apply
    strategic: Object | None = None

    def __call__(self, obj: Object) -> Object:
        return self.apply(obj)

    def misfit(self, made: Object, why: str) -> errors.StatusError:
        """422: what the patch makes of an object is no object of its kind. It shows, as Kubernetes does, a
        strategic patch itself, of others what they made.
        """
        shown = orjson.dumps(made).decode() if self.strategic is None else go_map(self.strategic)
        detail = why.partition(" cannot be handled as a ")[2].partition(": ")[2]
        return errors.invalid("", "", "", [field.invalid("patch", shown, detail if STRICT in why else why)])


STRICT = "strict decoding error: "


def go_map(value: Any) -> str:
    """A value as Go prints it with `%+v`."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{name}:{go_map(value[name])}" for name in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(go_map, value)) + "]"
    if value is None:
        return "<nil>"
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse(body: bytes, header: str, kind: Kind) -> Patch:
    """The patch a PATCH body stands for. Raises 400 for a malformed one, 415 for another type."""
    media = negotiate.content_type(header)
    if media not in SUPPORTED or media == APPLY_PATCH:
        listed = ", ".join(SUPPORTED)
        raise errors.unsupported_media_type(
            f'"{media}" is not supported for patch, supported types: {listed}'
        )
    document, _ = codec.parse_json(body)
    if media == JSON_PATCH:
        return Patch(lambda obj: json_patch.apply(obj, document))
    if not isinstance(document, dict):
        raise errors.bad_request("error decoding patch: a merge patch of an object is an object")
    if media == MERGE_PATCH:
        return Patch(lambda obj: merge.apply(obj, document))
    definition = definition_of(kind.group, kind.version, kind.kind)
    return Patch(lambda obj: strategic.apply(obj, document, definition), document)


def is_apply(header: str) -> bool:
    """Whether a PATCH is a server-side apply."""
    return negotiate.content_type(header) == APPLY_PATCH


def parse_apply(body: bytes, strictness: str, warnings: list[str]) -> Object:
    """The configuration of an apply: YAML, of which JSON is a part. Raises 400 for a malformed one, and for
    keys given twice when that is asked for (`Strict`).
    """
    if body.lstrip()[:1] == b"{":
        document, duplicates = codec.parse_json(body, find_duplicates=strictness != "Ignore")
    else:
        document, duplicates = codec.parse_yaml(body)
    if not isinstance(document, dict):
        raise errors.bad_request("error decoding YAML: an applied configuration is an object")
    found = [f'duplicate field "{path}"' for path in duplicates]
    if found and strictness == "Strict":
        raise errors.bad_request("error strict decoding YAML: " + ", ".join(found))
    if strictness == "Warn":
        warnings += found
    return document


def check_applied_type(config: Object, api_version: str, kind: str) -> None:
    """An applied configuration says what it is. Raises 400."""
    given = str(config.get("apiVersion") or ""), str(config.get("kind") or "")
    if given != (api_version, kind):
        group, _, version = given[0].rpartition("/")
        raise errors.bad_request(f"invalid object type: {group}/{version}, Kind={given[1]}")
