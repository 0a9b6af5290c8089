"""Continue tokens: where a paged list goes on. Opaque to clients; base64url of Kubernetes' own JSON form."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import orjson

from apimachinery import errors

VERSION = "meta.k8s.io/v1"
INCONSISTENT = -1  # the resourceVersion of a token that goes on at whatever revision is current


@dataclass(frozen=True, slots=True)
class Continuation:
    """`revision` of the snapshot (-1: none) and the key to go on from, relative to the list's prefix."""

    revision: int
    start: str


def encode(token: Continuation) -> str:
    body = orjson.dumps({"v": VERSION, "rv": token.revision, "start": token.start})
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def decode(text: str) -> Continuation:
    """Raises a 400 StatusError for anything that is not a token of this form."""
    try:
        body = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        version, revision, start = body["v"], body["rv"], body["start"]
    except (binascii.Error, ValueError, KeyError, TypeError):
        raise errors.bad_request("continue key is not valid: encoding is not valid") from None
    if version != VERSION or not isinstance(revision, int) or not isinstance(start, str) or not start:
        raise errors.bad_request("continue key is not valid: unrecognized version or empty start")
    if revision == 0 or revision < INCONSISTENT or ".." in start.split("/") or start.startswith("/"):
        raise errors.bad_request("continue key is not valid: the key is out of range")
    return Continuation(revision, start)
