"""Asking a webhook: one POST of JSON over verified TLS, to a URL or to a Service's endpoints.

The words of failures are client-go's, as callers of webhooks know them.
"""

from __future__ import annotations

import base64
import random
import ssl
from functools import lru_cache
from typing import Any

import httpx

from apiserver.registry import answers
from apiserver.registry.backends import Backends, NoBackend, authority

Object = dict[str, Any]

MAX_ANSWER = 3 << 20  # bytes
CONCURRENT_CONTEXTS = 64


class CallFailed(Exception):
    """A webhook gave no usable answer, with the reason."""


class WebhookClient:
    """`clientConfig`s are those of admissionregistration and apiextensions alike. A webhook behind a Service
    must show the Service's certificate (`<name>.<namespace>.svc`), at whichever endpoint.
    """

    def __init__(self, backends: Backends, *, max_answer: int = MAX_ANSWER) -> None:
        self._backends = backends
        self._max_answer = max_answer

    async def post(self, config: Object, body: bytes, timeout: int) -> Object:
        """The answer's object. `timeout` (seconds) is told to the webhook; the caller keeps it. Raises
        CallFailed.
        """
        shown, server_name = _shown(config)
        failed = f'Post "{shown}?timeout={timeout}s"'
        headers = {"content-type": "application/json", "accept": "application/json", **answers.UNCOMPRESSED}
        extensions: dict[str, Any] = {}
        if server_name:
            headers["host"], extensions["sni_hostname"] = server_name, server_name
        try:
            url = self._address(config) if server_name else shown
            context = trust(config.get("caBundle") or "")
            async with httpx.AsyncClient(verify=context, trust_env=False, timeout=None) as client:
                query = {"timeout": f"{timeout}s"}
                sent = client.stream(
                    "POST", url, params=query, content=body, headers=headers, extensions=extensions
                )
                async with sent as answer:
                    if answer.status_code != 200:
                        raise CallFailed(f"{failed}: the server answered {answer.status_code}")
                    return await answers.document(answer, self._max_answer)
        except NoBackend as error:
            raise CallFailed(f"{failed}: {error.dialling()}") from error
        except (httpx.HTTPError, OSError, answers.Unusable) as error:
            raise CallFailed(f"{failed}: {error}") from error

    def _address(self, config: Object) -> str:
        service = config["service"]
        found = self._backends.addresses(service["namespace"], service["name"], service.get("port", 443))
        return f"https://{authority(random.choice(found))}{_path(service)}"


def _shown(config: Object) -> tuple[str, str]:
    """The webhook's URL by name, and the name its certificate has to show ("" for that in the URL)."""
    service = config.get("service")
    if service is None:
        return str(config["url"]), ""
    host = f"{service['name']}.{service['namespace']}.svc"
    return f"https://{host}:{service.get('port', 443)}{_path(service)}", host


def _path(service: Object) -> str:
    return "/" + (service.get("path") or "").lstrip("/")


@lru_cache(CONCURRENT_CONTEXTS)
def trust(bundle: str) -> ssl.SSLContext:
    """A client context that trusts a CA bundle (base64 of PEM); the system's when there is none."""
    if not bundle:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cadata=base64.b64decode(bundle).decode("ascii"))
    except (ValueError, ssl.SSLError) as error:
        raise CallFailed(f"unable to load root certificates: {error}") from error
