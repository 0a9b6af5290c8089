"""Content negotiation: which form of an object the client wants, and how to read what it sends. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from apimachinery import codec, errors
from apiserver.rest import protobuf

JSON_TYPES = ("", "application/json", "text/json")
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")
TABLE, PARTIAL, PARTIAL_LIST, PLAIN = "Table", "PartialObjectMetadata", "PartialObjectMetadataList", ""


@dataclass(frozen=True, slots=True)
class Form:
    """`shape`: "" for the object itself, Table, PartialObjectMetadata or PartialObjectMetadataList."""

    shape: str = PLAIN
    yaml: bool = False
    protobuf: bool = False


def accept(header: str, *, shapes: tuple[str, ...] = (TABLE, PARTIAL, PARTIAL_LIST)) -> Form:
    """The first media type of an Accept header that can be served, protobuf last: whoever takes either gets
    JSON, which costs us nothing. Raises 406 when there is none.
    """
    if not header or header in ("*/*", "application/json"):
        return Form()
    protobuf_too = False
    for media, parameters in _media(header):
        if media in ("*/*", "application/*", "application/json"):
            shape = parameters.get("as", "")
            if not shape:
                return Form()
            if (
                shape in shapes
                and parameters.get("g") == "meta.k8s.io"
                and parameters.get("v") in ("v1", "v1beta1")
            ):
                return Form(shape)
        elif media in YAML_TYPES and not parameters.get("as"):
            return Form(yaml=True)
        elif media == protobuf.MEDIA_TYPE and not parameters.get("as"):
            protobuf_too = True
    if protobuf_too:
        return Form(protobuf=True)
    raise not_acceptable()


def not_acceptable() -> errors.StatusError:
    return errors.not_acceptable(
        "only the following media types are accepted: application/json, application/yaml, "
        f"{protobuf.MEDIA_TYPE} (built-in kinds), application/json;as=Table;v=v1;g=meta.k8s.io"
    )


def _media(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    for part in header.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        yield media.lower(), dict(piece.partition("=")[::2] for piece in parameters)


def content_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


def read_any(body: bytes, header: str, *, find_duplicates: bool = False) -> tuple[Any, tuple[str, ...]]:
    """Decode a request body; the second value lists keys given twice. Raises 415 for another type, 400 if
    malformed.
    """
    media = content_type(header)
    if media == protobuf.MEDIA_TYPE:
        return protobuf.read(body), ()
    if media in YAML_TYPES:
        return codec.parse_yaml(body)
    if media not in JSON_TYPES:
        known = ", ".join(("application/json", "application/yaml", protobuf.MEDIA_TYPE))
        raise errors.unsupported_media_type(
            f"the body of the request was in an unknown format - accepted media types include: {known}"
        )
    return codec.parse_json(body, find_duplicates=find_duplicates)


def read_object(
    body: bytes, header: str, *, find_duplicates: bool = False
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Like `read_any`, for bodies that must be one object."""
    obj, duplicates = read_any(body, header, find_duplicates=find_duplicates)
    if not isinstance(obj, dict):
        raise errors.bad_request("the body of the request must be one object")
    return obj, duplicates
