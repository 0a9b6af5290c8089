"""Requests made up from our own OpenAPI document, right ones and wrong ones: none is answered with a 5xx.

schemathesis makes them. Every run takes each seventh operation once in either mode; HARDWAY_LONG=1 takes all
of them, many times. Left out: watches, and what needs a node (exec, attach, port-forward, proxy, logs).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.core import NotSet
from schemathesis.generation import GenerationMode

from tests.apiserver.harness import Harness, harness

LONG = bool(os.environ.get("HARDWAY_LONG"))
STRIDE, EXAMPLES = (1, 20) if LONG else (7, 1)
ELSEWHERE = ("/watch/", "/proxy", "/exec", "/attach", "/portforward", "/log")
ENDLESS = frozenset({"watch", "follow", "sendInitialEvents"})
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def api(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """One server for all requests: what they leave behind is part of the trial. It signs tokens."""
    key = tmp_path_factory.mktemp("fuzz") / "key.pem"
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*pem))
    issuer = "--service-account-issuer=https://kubernetes.default.svc"
    server = harness(issuer, f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}")
    yield runner.run(server.__aenter__())
    runner.run(server.__aexit__(None, None, None))


def document(runner: asyncio.Runner, api: Harness, path: str) -> Any:
    return runner.run(api.ok("GET", f"/openapi/v3{path}"))


async def sent(api: Harness, case: Any) -> None:
    """Send what was made up and look at the answer."""
    query = {name: value for name, value in (case.query or {}).items() if name not in ENDLESS}
    headers = {name.encode(): str(value).encode("latin-1", "replace") for name, value in case.headers.items()}
    content = None
    if not isinstance(case.body, NotSet):
        # Not by orjson: large integers and lone surrogates are among what is tried.
        text = case.body if isinstance(case.body, bytes) else json.dumps(case.body, default=str)
        content = text.encode() if isinstance(text, str) else text
        headers[b"content-type"] = (case.media_type or "application/json").encode()
    path = case.formatted_path
    answer = await api.client.request(case.method, path, params=query, headers=headers, content=content)
    told = f"{case.method} {path} {query} {content!r}"
    assert answer.status_code < 500, f"{answer.text}\n{told}"
    if answer.status_code >= 400:
        status = answer.json()
        assert status["kind"] == "Status" and status["code"] == answer.status_code, told


def try_operation(runner: asyncio.Runner, api: Harness, operation: Any, mode: GenerationMode) -> None:
    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        runner.run(sent(api, case))

    check()


@pytest.mark.timeout(3600 if LONG else 300)
@pytest.mark.filterwarnings("ignore")  # schemathesis' own, about patterns that it cannot turn into examples
def test_no_request_is_answered_with_a_5xx(runner: asyncio.Runner, api: Harness) -> None:
    tried = 0
    for path in sorted(document(runner, api, "")["paths"]):
        schema = schemathesis.openapi.from_dict(document(runner, api, f"/{path}"))
        for number, result in enumerate(schema.get_all_operations()):
            operation = result.ok()
            if number % STRIDE == 0 and not any(part in operation.path for part in ELSEWHERE):
                for mode in MODES:
                    try_operation(runner, api, operation, mode)
                tried += 1
    assert tried > 30
