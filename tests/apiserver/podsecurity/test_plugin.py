"""PodSecurity through the whole server: enforce, warn, audit, and labels of namespaces."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson

from tests.apiserver.harness import DEFAULT_ACCOUNT, Harness, harness, pod, run

Object = dict[str, Any]
LABEL = "pod-security.kubernetes.io/"
PODS = "/api/v1/namespaces/safe/pods"


async def namespace(api: Harness, **labels: str) -> None:
    body = {"metadata": {"name": "safe", "labels": {LABEL + key: value for key, value in labels.items()}}}
    await api.ok("POST", "/api/v1/namespaces", body)
    await api.ok("POST", "/api/v1/namespaces/safe/serviceaccounts", DEFAULT_ACCOUNT)


def privileged(name: str = "p") -> Object:
    out = pod(name)
    out["spec"]["hostPID"] = True
    return out


def deployment() -> Object:
    labels = {"matchLabels": {"a": "b"}}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": privileged()["spec"]}
    return {"metadata": {"name": "d"}, "spec": {"selector": labels, "template": template}}


def test_a_pod_that_violates_is_forbidden() -> None:
    async def body(api: Harness) -> None:
        await namespace(api, enforce="baseline")
        status = await api.fails(403, "Forbidden", "POST", PODS, privileged())
        assert status["message"] == (
            'pods "p" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostPID=true)'
        )
        made = await api.ok("POST", PODS, pod("p"))
        made["metadata"]["labels"] = {"changed": "yes"}
        await api.ok("PUT", f"{PODS}/p", made)
        answer = await api.call("POST", "/apis/apps/v1/namespaces/safe/deployments", deployment())
        assert answer.status_code == 201 and "warning" not in answer.headers

    run(body)


def test_pods_and_workloads_are_warned_about_and_recorded(tmp_path: Path) -> None:
    async def main() -> None:
        log = tmp_path / "audit.log"
        async with harness(f"--audit-log-path={log}") as api:
            await namespace(api, warn="baseline", audit="baseline")
            warning = 'would violate PodSecurity \\"baseline:latest\\": host namespaces (hostPID=true)'
            for path, sent in (
                (PODS, privileged()),
                ("/apis/apps/v1/namespaces/safe/deployments", deployment()),
            ):
                answer = await api.call("POST", path, sent)
                assert answer.status_code == 201 and warning in answer.headers["warning"]
        events = [orjson.loads(line) for line in log.read_bytes().splitlines()]
        told = [event["annotations"].get(f"{LABEL}audit-violations") for event in events]
        wanted = 'would violate PodSecurity "baseline:latest": host namespaces (hostPID=true)'
        assert told.count(wanted) == 2

    asyncio.run(main())


def test_labels_of_namespaces() -> None:
    async def body(api: Harness) -> None:
        await namespace(api)
        await api.ok("POST", PODS, privileged("one"))
        await api.ok("POST", PODS, privileged("two"))
        await api.ok("GET", PODS)
        found = await api.ok("GET", "/api/v1/namespaces/safe")
        found["metadata"]["labels"][f"{LABEL}enforce"] = "baseline"
        answer = await api.call("PUT", "/api/v1/namespaces/safe", found)
        assert answer.status_code == 200
        text = answer.headers["warning"]
        assert 'existing pods in namespace \\"safe\\" violate the new PodSecurity enforce level' in text
        assert "one (and 1 other pod): host namespaces" in text
        found = await api.ok("GET", "/api/v1/namespaces/safe")
        found["metadata"]["labels"][f"{LABEL}enforce"] = "strict"
        status = await api.fails(422, "Invalid", "PUT", "/api/v1/namespaces/safe", found)
        assert status["details"]["causes"][0]["field"] == f"metadata.labels[{LABEL}enforce]"

    run(body)
