"""Flow control in the server: objects, headers, metrics, waiting and 429."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from apimachinery.errors import StatusError
from apiserver.auth.user import User
from apiserver.flowcontrol import defaults
from apiserver.rest.flow import FlowControl
from apiserver.rest.info import parse
from componentbase import metrics
from tests.apiserver.aggregation.test_apiservices import eventually
from tests.apiserver.harness import CONFIG_MAPS, Harness, run

Object = dict[str, Any]
ROOT = "/apis/flowcontrol.apiserver.k8s.io/v1"
LEVELS, SCHEMAS = f"{ROOT}/prioritylevelconfigurations", f"{ROOT}/flowschemas"
TABLE = {"accept": "application/json;as=Table;g=meta.k8s.io;v=v1"}
BOB = "bob;dev"


def test_the_bootstrap_objects_are_there_and_in_force() -> None:
    async def body(api: Harness) -> None:
        listed = await api.ok("GET", SCHEMAS)
        assert {item["metadata"]["name"] for item in listed["items"]} == {
            item["metadata"]["name"] for item in defaults.SCHEMAS
        }

        async def told() -> bool:
            table = await api.ok("GET", f"{SCHEMAS}/probes", headers=TABLE)
            return bool(table["rows"][0]["cells"][-1] == "False")

        await eventually(told)
        table = await api.ok("GET", f"{LEVELS}/workload-low", headers=TABLE)
        assert table["rows"][0]["cells"][:6] == ["workload-low", "Limited", "100", "128", "6", "50"]
        schema = await api.ok("GET", f"{SCHEMAS}/exempt")
        level = await api.ok("GET", f"{LEVELS}/exempt")

        async def known() -> bool:
            answer = await api.call("GET", CONFIG_MAPS)
            return (
                answer.headers["x-kubernetes-pf-flowschema-uid"] == schema["metadata"]["uid"]
                and answer.headers["x-kubernetes-pf-prioritylevel-uid"] == level["metadata"]["uid"]
            )

        await eventually(known)

    run(body)


def level(name: str, **limited: Any) -> Object:
    response = {"type": "Reject"}
    spec = {"nominalConcurrencyShares": 0, "limitResponse": response, "borrowingLimitPercent": 0, **limited}
    return {
        "kind": "PriorityLevelConfiguration",
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "metadata": {"name": name},
        "spec": {"type": "Limited", "limited": spec},
    }


def schema(name: str, level: str, user: str = "bob") -> Object:
    rule = {
        "subjects": [{"kind": "User", "user": {"name": user}}],
        "resourceRules": [
            {
                "verbs": ["*"],
                "apiGroups": ["*"],
                "resources": ["*"],
                "namespaces": ["*"],
                "clusterScope": True,
            }
        ],
    }
    return {
        "kind": "FlowSchema",
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "metadata": {"name": name},
        "spec": {"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": 50, "rules": [rule]},
    }


def test_a_schema_of_ones_own_takes_requests_to_its_level() -> None:
    async def body(api: Harness) -> None:
        made = await api.ok("POST", SCHEMAS, schema("mine", "mine"))
        found = made

        async def dangles(status: str) -> bool:
            nonlocal found
            found = await api.ok("GET", f"{SCHEMAS}/mine")
            conditions = (found.get("status") or {}).get("conditions") or [{}]
            return bool(conditions[0].get("status") == status)

        await eventually(lambda: dangles("True"))
        assert "there is no such object" in found["status"]["conditions"][0]["message"]
        await api.ok("POST", LEVELS, level("mine"))
        await eventually(lambda: dangles("False"))

        async def classified() -> bool:
            answer = await api.call("GET", CONFIG_MAPS, user=BOB)
            return bool(answer.headers["x-kubernetes-pf-flowschema-uid"] == made["metadata"]["uid"])

        await eventually(classified)

    run(body)


def test_mandatory_objects_cannot_be_bent() -> None:
    async def body(api: Harness) -> None:
        stored = await api.ok("GET", f"{SCHEMAS}/catch-all")
        stored["spec"]["matchingPrecedence"] = 9
        status = await api.fails(422, "Invalid", "PUT", f"{SCHEMAS}/catch-all", stored)
        assert "must equal the fixed value" in status["message"]

    run(body)


@pytest.mark.parametrize(
    ("limited", "where"),
    [
        ({"lendablePercent": 101}, "spec.limited.lendablePercent"),
        ({"limitResponse": {"type": "Queue"}}, "spec.limited.limitResponse.queuing"),
        ({"limitResponse": {"type": "Reject", "queuing": {}}}, "spec.limited.limitResponse.queuing"),
        (
            {"limitResponse": {"type": "Queue", "queuing": {"queues": 4, "handSize": 5}}},
            "spec.limited.limitResponse.queuing.handSize",
        ),
        (
            {"limitResponse": {"type": "Queue", "queuing": {"queues": 10000, "handSize": 10}}},
            "spec.limited.limitResponse.queuing.handSize",
        ),
    ],
)
def test_rules_of_levels(limited: Object, where: str) -> None:
    async def body(api: Harness) -> None:
        status = await api.fails(422, "Invalid", "POST", LEVELS, level("bad", **limited))
        assert where in {cause["field"] for cause in status["details"]["causes"]}

    run(body)


USER, INFO = User("bob"), parse("GET", "/api/v1/pods", b"")


async def seated(flow: FlowControl) -> Any:
    place = flow.place(USER, INFO)
    return place, await flow.start(place, USER, INFO)


def test_a_request_over_the_limit_waits_for_a_seat() -> None:
    async def main() -> None:
        flow = FlowControl(1, 1)
        queued = {"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 1}}
        flow.configure([schema("s", "l")], [level("l", limitResponse=queued)])
        place, ticket = await seated(flow)
        assert place.schema.name == "s"
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(seated(flow))
            await asyncio.sleep(0)
            with pytest.raises(StatusError) as full:
                await seated(flow)
            assert full.value.code == 429 and full.value.headers["Retry-After"] == "1"
            assert not waiting.done()
            flow.finish(place, ticket)
        _, second = waiting.result()
        flow.finish(place, second)
        assert flow.levels["l"].seats is not None and flow.levels["l"].seats.executing == 0
        text = metrics.render().decode()
        rejected = 'flow_schema="s",priority_level="l",reason="queue-full"'
        assert f"apiserver_flowcontrol_rejected_requests_total{{{rejected}}} 1.0" in text
        assert 'apiserver_flowcontrol_nominal_limit_seats{priority_level="l"} 1.0' in text

    asyncio.run(main())


def test_one_that_is_cancelled_while_it_waits_leaves_no_trace() -> None:
    async def main() -> None:
        flow = FlowControl(1, 1)
        queued = {"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 5}}
        flow.configure([schema("s", "l")], [level("l", limitResponse=queued)])
        place, ticket = await seated(flow)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(seated(flow))
            await asyncio.sleep(0)
            waiting.cancel()
        seats = flow.levels["l"].seats
        assert seats is not None and (seats.waiting, seats.executing) == (0, 1)
        flow.finish(place, ticket)
        _, again = await seated(flow)
        flow.finish(place, again)
        assert seats.executing == 0

    asyncio.run(main())
