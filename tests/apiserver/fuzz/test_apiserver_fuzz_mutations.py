"""Valid objects, spoilt: created, updated and patched, they are taken or refused in words, never with a 5xx,
and what was taken can be read back in every form.

HARDWAY_LONG=1 tries a hundred times as many. A failure prints the seed and the request.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
import yaml

from apimachinery.scheme import Kind
from apiserver.kinds import SCHEME
from tests.apiserver.fuzz.mutate import json_patch, mutant, strategic, subtree
from tests.apiserver.harness import Harness, run

SAMPLES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "samples.yaml").read_text())
ROUNDS = 300 if os.environ.get("HARDWAY_LONG") else 6
FORMS = (
    "application/json",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    "application/yaml",
)
PATCHES: dict[str, Callable[[Random, Any], Any]] = {
    "application/merge-patch+json": subtree,
    "application/strategic-merge-patch+json": strategic,
    "application/json-patch+json": json_patch,
    "application/apply-patch+yaml": mutant,
}


def kind_of(sample: dict[str, Any]) -> Kind:
    group, _, version = sample["apiVersion"].rpartition("/")
    return next(
        kind for kind in SCHEME if (kind.group, kind.version, kind.kind) == (group, version, sample["kind"])
    )


def collection(kind: Kind, sample: dict[str, Any]) -> str:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    middle = f"/namespaces/{sample['metadata']['namespace']}" if kind.namespaced else ""
    return f"{root}{middle}/{kind.resource}"


async def answered(api: Harness, seed: int, method: str, path: str, body: Any, content: str) -> int:
    """The code of an answer that is in order: no 5xx, and a refusal is a Status with words."""
    told = f"seed {seed}: {method} {path} {content}\n{orjson.dumps(body).decode()}"
    try:
        answer = await api.call(method, path, orjson.dumps(body), headers={"content-type": content})
    except Exception as error:
        error.add_note(told)
        raise
    assert answer.status_code < 500, f"{answer.text}\n{told}"
    if answer.status_code >= 400:
        status = answer.json()
        assert status["kind"] == "Status" and status["code"] == answer.status_code and status["message"], told
    return answer.status_code


async def readable(api: Harness, path: str) -> None:
    for form in FORMS:
        answer = await api.call("GET", path, headers={"accept": form})
        assert answer.status_code == 200, f"{form}: {answer.text}"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: str(sample["kind"]))
def test_a_spoilt_object_is_taken_or_refused_in_words(sample: dict[str, Any]) -> None:
    kind = kind_of(sample)
    path, name = collection(kind, sample), sample["metadata"]["name"]

    async def body(api: Harness) -> None:
        for namespace in ("default", "quiet"):
            made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            await api.call("POST", "/api/v1/namespaces", made)
        if kind.resource == "pods":
            account = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default"}}
            await api.ok("POST", "/api/v1/namespaces/default/serviceaccounts", account)
        await api.ok("POST", path, sample)
        for seed in range(ROUNDS):
            rng = Random(f"{sample['kind']} {seed}")
            spoilt = mutant(rng, sample)
            code = await answered(api, seed, "POST", f"{path}?dryRun=All", spoilt, "application/json")
            if code == 409 and isinstance(spoilt.get("metadata"), dict):
                spoilt["metadata"]["name"] = f"x{seed}"
                await answered(api, seed, "POST", path, spoilt, "application/json")
            await answered(api, seed, "PUT", f"{path}/{name}", mutant(rng, sample), "application/json")
            for content, patch in PATCHES.items():
                owner = "?fieldManager=fuzz&force=true" if "apply" in content else ""
                await answered(api, seed, "PATCH", f"{path}/{name}{owner}", patch(rng, sample), content)
            await readable(api, path)

    run(body)


def test_there_is_one_sample_of_a_kind() -> None:
    kinds = [(sample["apiVersion"], sample["kind"]) for sample in SAMPLES]
    assert sorted(set(kinds)) == sorted(kinds)
