"""What another server answered, read up to a bound: webhooks and extension servers are not ours, and none of
them may fill our memory.
"""

from __future__ import annotations

from typing import Any

import httpx
import orjson

Object = dict[str, Any]

# What is counted is then what is kept: a small body cannot inflate to a large one.
UNCOMPRESSED = {"accept-encoding": "identity"}


class Unusable(Exception):
    """An answer that is no document, with the reason."""


async def document(answer: httpx.Response, limit: int) -> Object:
    """The JSON object of an answer that was not read yet; it is closed. Raises Unusable, and httpx.HTTPError
    when the connection breaks.
    """
    try:
        body = await _read(answer, limit)
    finally:
        await answer.aclose()
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unusable(str(error)) from error
    if not isinstance(found, dict):
        raise Unusable("the answer is no object")
    return found


async def _read(answer: httpx.Response, limit: int) -> bytes:
    """Stops at the bound: what lies behind it is never received."""
    if (encoding := answer.headers.get("content-encoding", "identity")) != "identity":
        raise Unusable(f"the answer is encoded as {encoding}, which was not asked for")
    body = bytearray()
    async for chunk in answer.aiter_raw():
        if len(body) + len(chunk) > limit:
            raise Unusable(f"the answer is larger than {limit} bytes")
        body += chunk
    return bytes(body)
