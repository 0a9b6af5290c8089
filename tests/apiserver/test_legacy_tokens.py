"""Tokens kept in Secrets: good as long as the Secret holds them, and remembered when used."""

from __future__ import annotations

import asyncio
import base64
import copy
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from apiserver.auth import legacytokens, tokens
from apiserver.auth.legacytokens import CLAIMS, INVALID_SINCE, ISSUER, LAST_USED, LegacyTokens
from tests.apiserver.aggregation.test_apiservices import eventually
from tests.apiserver.harness import Harness, run

Object = dict[str, Any]
KEY = ec.generate_private_key(ec.SECP256R1())
MERGE = {"content-type": "application/merge-patch+json"}
ACCOUNT: Object = {"metadata": {"namespace": "ns", "name": "sa", "uid": "u1"}}


def token(key: Any = KEY, **changed: str) -> str:
    claims = {
        "iss": ISSUER,
        "sub": "system:serviceaccount:ns:sa",
        f"{CLAIMS}namespace": "ns",
        f"{CLAIMS}service-account.name": "sa",
        f"{CLAIMS}service-account.uid": "u1",
        f"{CLAIMS}secret.name": "s",
        **changed,
    }
    return jwt.encode(claims, key, tokens.algorithm(key))


def secret(held: str) -> Object:
    data = {"token": base64.b64encode(held.encode()).decode()}
    return {"metadata": {"namespace": "ns", "name": "s"}, "data": data}


def verifier(stored: Object | None, account: Object | None = ACCOUNT) -> LegacyTokens:
    objects = {"secrets": stored, "serviceaccounts": account}
    return LegacyTokens(
        [KEY.public_key()], lambda resource, _namespace, _name: copy.deepcopy(objects[resource])
    )


def test_a_token_that_its_secret_holds_names_the_account() -> None:
    given = token()
    user = verifier(secret(given)).user(given)
    assert user is not None and user.name == "system:serviceaccount:ns:sa" and user.uid == "u1"
    assert "system:serviceaccounts:ns" in user.groups


@pytest.mark.parametrize(
    "case",
    ["other secret", "no secret", "other account", "invalid since", "other key", "other issuer", "subject"],
)
def test_what_revokes_a_token(case: str) -> None:
    given, account = token(), ACCOUNT
    stored: Object | None = secret(given)
    if case == "other secret":
        stored = secret(token(extra="1"))
    elif case == "no secret":
        stored = None
    elif case == "other account":
        account = {"metadata": {**ACCOUNT["metadata"], "uid": "u2"}}
    elif case == "invalid since":
        assert stored is not None
        stored["metadata"]["labels"] = {INVALID_SINCE: "2026-01-01"}
    else:
        given = {
            "other key": token(ec.generate_private_key(ec.SECP256R1())),
            "other issuer": token(iss="someone"),
            "subject": token(sub="system:serviceaccount:ns:root"),
        }[case]
        stored = secret(given)
    assert verifier(stored, account).user(given) is None


def test_the_day_of_the_last_use_becomes_a_label() -> None:
    async def body(api: Harness) -> None:
        path = "/api/v1/namespaces/default/secrets"
        made = await api.ok("POST", path, {"metadata": {"name": "s"}, "data": {"token": "eA=="}})
        kind = api.server.scheme.resource("", "v1", "secrets")
        assert kind is not None
        uses = legacytokens.LastUses(api.server.registry, kind)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(uses.run())
            uses.note(made)

            async def labelled() -> Any:
                found = await api.ok("GET", f"{path}/s")
                return (found["metadata"].get("labels") or {}).get(LAST_USED)

            day = await eventually(labelled)
            assert len(day) == len("2026-01-01") and day[:2] == "20"
            task.cancel()

    run(body)


@pytest.mark.parametrize("held", ["2026-11-21", None, "", "tomorrow", "2026-13-01", "2026-11-21T00:00:00Z"])
def test_a_day_that_cannot_be_read_begins_anew(held: str | None) -> None:
    found = {"data": {} if held is None else {"since": held}}
    wanted = None if held == "2026-11-21" else {"since": "2026-12-01"}
    assert legacytokens.tracked_since(found, "2026-12-01") == wanted
    assert legacytokens.tracked_since(None, "2026-12-01") == {"since": "2026-12-01"}


def test_the_cluster_says_since_when_uses_are_known() -> None:
    path = f"/api/v1/namespaces/kube-system/configmaps/{legacytokens.TRACKING}"

    async def body(api: Harness) -> None:
        await api.server.bootstrap.finished.wait()
        since = (await api.ok("GET", path))["data"]["since"]
        assert len(since) == len("2026-01-01")
        await api.ok("PATCH", path, {"data": {"since": "once"}}, headers=MERGE)

        async def begun_anew() -> bool:
            await api.server.bootstrap._token_tracking()
            return bool((await api.ok("GET", path))["data"]["since"] == since)

        await eventually(begun_anew)
        await api.ok("PATCH", path, {"data": {"since": "2020-01-01"}}, headers=MERGE)
        await api.server.bootstrap._token_tracking()
        assert (await api.ok("GET", path))["data"]["since"] == "2020-01-01"

    run(body)
