"""The forms an object or list goes out in: its own bytes, a Table, PartialObjectMetadata(List), YAML,
protobuf.
"""

from __future__ import annotations

from typing import Any

import orjson
import yaml

from apimachinery import errors, table
from apimachinery.scheme import Kind
from apiserver.registry.reading import Listing
from apiserver.rest import protobuf
from apiserver.rest.message import JSON, PIECE, Joined, Response, encode
from apiserver.rest.negotiate import PARTIAL, PARTIAL_LIST, TABLE, Form
from apiserver.storage.watchcache import PLAIN as PLAIN_FRAMES
from apiserver.storage.watchcache import Renderer

Object = dict[str, Any]

INCLUDES: tuple[table.IncludeObject, ...] = ("None", "Metadata", "Object")


def include_object(text: str) -> table.IncludeObject:
    if not text:
        return "Metadata"
    for known in INCLUDES:
        if text == known:
            return known
    raise errors.bad_request(f'includeObject: unknown value "{text}", must be one of None, Metadata, Object')


def list_metadata(listing: Listing) -> Object:
    fields: Object = {"resourceVersion": str(listing.revision)}
    if listing.token:
        fields["continue"] = listing.token
    if listing.remaining:
        fields["remainingItemCount"] = listing.remaining
    return fields


def listing_response(kind: Kind, listing: Listing, form: Form, include: table.IncludeObject) -> Response:
    fields = list_metadata(listing)
    if form.shape == TABLE:
        rows = (entry.decoded() for entry in listing.entries)
        return respond(table.table(kind, rows, include, metadata=fields), form)
    if form.shape in (PARTIAL, PARTIAL_LIST):
        decoded = (entry.decoded() for entry in listing.entries)
        return respond(table.partial_metadata_list(decoded, fields), form)
    head = {"kind": kind.list_kind, "apiVersion": kind.api_version, "metadata": fields}
    items = [entry.data for entry in listing.entries]
    body = Joined(orjson.dumps(head)[:-1] + b',"items":[', items, b"]}\n")
    if form != Form():
        return respond(orjson.loads(b"".join(body)), form)
    return Response(200, body if len(body) > PIECE else b"".join(body))


def object_response(
    kind: Kind, obj: Object, form: Form, include: table.IncludeObject, status: int = 200
) -> Response:
    if form.shape == TABLE:
        return respond(one_row(kind, obj, include), form, status)
    if form.shape in (PARTIAL, PARTIAL_LIST):
        return respond(table.partial_metadata(obj), form, status)
    return respond(obj, form, status)


def bytes_response(kind: Kind, data: bytes, form: Form, include: table.IncludeObject) -> Response:
    """An object that is encoded already; its bytes go out as they are when no other form is asked for."""
    if form == Form():
        return Response(200, data + b"\n")
    return object_response(kind, orjson.loads(data), form, include)


def respond(obj: Object, form: Form, status: int = 200) -> Response:
    if form.yaml:
        return Response(status, yaml.safe_dump(obj, sort_keys=False).encode(), "application/yaml")
    if form.protobuf:
        return Response(status, protobuf.write(obj), protobuf.MEDIA_TYPE)
    return Response(status, encode(obj), JSON)


def event_renderer(kind: Kind, form: Form, include: table.IncludeObject) -> Renderer:
    """The form of the objects in watch events."""
    if form.shape == TABLE:
        return Renderer(f"table/{include}", lambda obj: one_row(kind, obj, include))
    if form.shape in (PARTIAL, PARTIAL_LIST):
        return Renderer("partial", table.partial_metadata)
    if form.protobuf:
        return PROTOBUF_FRAMES
    return PLAIN_FRAMES


def _protobuf_frame(kind: str, data: bytes) -> bytes:
    return protobuf.frame(kind, orjson.loads(data))


PROTOBUF_FRAMES = Renderer("protobuf", None, _protobuf_frame)


def one_row(kind: Kind, obj: Object, include: table.IncludeObject) -> Object:
    version = (obj.get("metadata") or {}).get("resourceVersion", "")
    return table.table(kind, [obj], include, metadata={"resourceVersion": version})
