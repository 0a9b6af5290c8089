"""NetworkPolicies: objects in, the traced fate of a connection out; and the agent that programs them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from kubeproxy import nftables
from kubeproxy.policy import TABLE, Pod, compile_policies, pod_of
from kubeproxy.policy_agent import PolicyAgent
from kubeproxy.rules import RuleSet
from kubeproxy.trace import Packet, Tracer
from tests.kubeclient.fakeapi import running
from tests.kubeclient.loops import eventually, on_loop
from tests.kubeproxy.test_kubeproxy_proxy import FakeNft

HERE = "node-a"
WEB = Pod("shop", "web", "10.200.0.2", {"app": "web"}, HERE, (("http", "tcp", 8080), ("dns", "udp", 53)))
DB = Pod("shop", "db", "10.200.0.3", {"app": "db"}, HERE, (("sql", "tcp", 5432),))
FRONT = Pod("shop", "front", "10.200.1.4", {"app": "front"}, "node-b")
SPY = Pod("attic", "spy", "10.200.1.5", {"app": "front"}, "node-b")
PODS = [WEB, DB, FRONT, SPY]
NAMESPACES = {"shop": {"team": "a"}, "attic": {"team": "b"}}
OUTSIDE = "192.0.2.7"


def policy(selector: Any = None, *, name: str = "p", namespace: str = "shop", **spec: Any) -> Any:
    body = {"podSelector": {"matchLabels": {"app": selector}} if selector else {}, **spec}
    return {"metadata": {"namespace": namespace, "name": name}, "spec": body}


def app(name: str) -> Any:
    return {"podSelector": {"matchLabels": {"app": name}}}


def compiled(*policies: Any, pods: list[Pod] | None = None) -> RuleSet:
    return compile_policies(policies, PODS if pods is None else pods, NAMESPACES, HERE)


def passes(
    rules: RuleSet, source: Pod | str, target: Pod | str, port: int = 8080, protocol: str = "tcp"
) -> bool:
    sender, receiver = (each if isinstance(each, str) else each.ip for each in (source, target))
    outcome = Tracer(rules).send(Packet(sender, receiver, port, protocol))
    assert outcome.verdict in ("accept", "drop")
    return outcome.verdict == "accept"


FROM_FRONT = policy("web", ingress=[{"from": [app("front")]}])
TEAM_A = {"namespaceSelector": {"matchLabels": {"team": "a"}}}
TEAM_B = {"namespaceSelector": {"matchLabels": {"team": "b"}}}
BLOCK = {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}}


@pytest.mark.parametrize(
    ("title", "policies", "connection", "expected"),
    [
        ("no policy", [], (FRONT, WEB), True),
        ("default deny", [policy(ingress=[])], (FRONT, WEB), False),
        ("default deny says nothing of egress", [policy(ingress=[])], (WEB, FRONT), True),
        ("a pod that is not selected", [policy("db")], (FRONT, WEB), True),
        ("a policy of another namespace", [policy(namespace="attic")], (FRONT, WEB), True),
        ("an empty rule allows all", [policy(ingress=[{}])], (OUTSIDE, WEB), True),
        ("a selected peer", [FROM_FRONT], (FRONT, WEB), True),
        ("a peer with the labels elsewhere", [FROM_FRONT], (SPY, WEB), False),
        ("another pod of the namespace", [FROM_FRONT], (DB, WEB), False),
        ("from outside", [FROM_FRONT], (OUTSIDE, WEB), False),
        ("namespace", [policy("web", ingress=[{"from": [TEAM_B]}])], (SPY, WEB), True),
        ("not that namespace", [policy("web", ingress=[{"from": [TEAM_B]}])], (FRONT, WEB), False),
        (
            "both selectors",
            [policy("web", ingress=[{"from": [{**TEAM_B, **app("front")}]}])],
            (SPY, WEB),
            True,
        ),
        (
            "both, other labels",
            [policy("web", ingress=[{"from": [{**TEAM_B, **app("db")}]}])],
            (SPY, WEB),
            False,
        ),
        ("either of two peers", [policy("web", ingress=[{"from": [TEAM_B, app("db")]}])], (DB, WEB), True),
        (
            "every namespace",
            [policy("web", ingress=[{"from": [{"namespaceSelector": {}}]}])],
            (SPY, WEB),
            True,
        ),
        (
            "every namespace is not outside",
            [policy("web", ingress=[{"from": [{"namespaceSelector": {}}]}])],
            (OUTSIDE, WEB),
            False,
        ),
        ("ipBlock", [policy("web", ingress=[{"from": [BLOCK]}])], (OUTSIDE, WEB), True),
        ("ipBlock's exception", [policy("web", ingress=[{"from": [BLOCK]}])], ("192.0.2.200", WEB), False),
        (
            "ipBlock of the other family",
            [policy("web", ingress=[{"from": [{"ipBlock": {"cidr": "::/0"}}]}])],
            (OUTSIDE, WEB),
            False,
        ),
        ("port", [policy("web", ingress=[{"ports": [{"port": 8080}]}])], (FRONT, WEB, 8080), True),
        ("another port", [policy("web", ingress=[{"ports": [{"port": 8080}]}])], (FRONT, WEB, 8081), False),
        (
            "another protocol",
            [policy("web", ingress=[{"ports": [{"port": 8080}]}])],
            (FRONT, WEB, 8080, "udp"),
            False,
        ),
        (
            "range",
            [policy("web", ingress=[{"ports": [{"port": 8000, "endPort": 8100}]}])],
            (FRONT, WEB, 8100),
            True,
        ),
        (
            "beyond the range",
            [policy("web", ingress=[{"ports": [{"port": 8000, "endPort": 8100}]}])],
            (FRONT, WEB, 8101),
            False,
        ),
        (
            "protocol alone",
            [policy("web", ingress=[{"ports": [{"protocol": "UDP"}]}])],
            (FRONT, WEB, 9, "udp"),
            True,
        ),
        ("named port", [policy("web", ingress=[{"ports": [{"port": "http"}]}])], (FRONT, WEB, 8080), True),
        (
            "named port of another protocol",
            [policy("web", ingress=[{"ports": [{"port": "dns"}]}])],
            (FRONT, WEB, 53),
            False,
        ),
        (
            "port and peer, both",
            [policy("web", ingress=[{"from": [app("front")], "ports": [{"port": 80}]}])],
            (DB, WEB, 80),
            False,
        ),
        (
            "two policies add up",
            [FROM_FRONT, policy("web", name="q", ingress=[{"from": [app("db")]}])],
            (DB, WEB),
            True,
        ),
        ("two policies, none allows", [FROM_FRONT, policy("web", name="q", ingress=[])], (DB, WEB), False),
        ("egress by type", [policy("web", policyTypes=["Egress"])], (WEB, DB), False),
        ("egress by type leaves ingress", [policy("web", policyTypes=["Egress"])], (DB, WEB), True),
        (
            "egress to a peer",
            [policy("web", policyTypes=["Egress"], egress=[{"to": [app("db")]}])],
            (WEB, DB, 5432),
            True,
        ),
        ("egress by its rules", [policy("web", egress=[{"to": [app("db")]}])], (WEB, OUTSIDE), False),
        ("egress rules isolate ingress too", [policy("web", egress=[{}])], (DB, WEB), False),
        (
            "egress ipBlock",
            [policy("web", policyTypes=["Egress"], egress=[{"to": [BLOCK]}])],
            (WEB, OUTSIDE),
            True,
        ),
        (
            "egress named port",
            [policy("web", policyTypes=["Egress"], egress=[{"ports": [{"port": "sql"}]}])],
            (WEB, DB, 5432),
            True,
        ),
        (
            "egress named port, not there",
            [
                policy(
                    "web", policyTypes=["Egress"], egress=[{"to": [app("front")], "ports": [{"port": "sql"}]}]
                )
            ],
            (WEB, DB, 5432),
            False,
        ),
        (
            "both ends must agree: source refuses",
            [policy("web", policyTypes=["Egress"]), policy("db", name="q", ingress=[{}])],
            (WEB, DB),
            False,
        ),
        (
            "both ends must agree: target refuses",
            [policy("web", policyTypes=["Egress"], egress=[{}]), policy("db", name="q", ingress=[])],
            (WEB, DB),
            False,
        ),
        (
            "both ends agree",
            [policy("web", policyTypes=["Egress"], egress=[{}]), policy("db", name="q", ingress=[{}])],
            (WEB, DB),
            True,
        ),
        ("pods of other nodes are for their own node", [policy(ingress=[])], (WEB, FRONT), True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fate(title: str, policies: Any, connection: Any, expected: bool) -> None:
    assert passes(compiled(*policies), *connection) is expected, title


def test_expressions_select_too() -> None:
    not_db = {"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]}}
    rules = compiled(policy("web", ingress=[{"from": [not_db]}]))
    assert passes(rules, FRONT, WEB)
    assert not passes(rules, DB, WEB)


@pytest.mark.parametrize(
    ("status", "spec", "found"),
    [
        ({"podIP": "10.200.0.2", "phase": "Running"}, {}, True),
        ({"phase": "Pending"}, {}, False),
        ({"podIP": "10.200.0.2", "phase": "Succeeded"}, {}, False),
        ({"podIP": "10.240.0.20", "phase": "Running"}, {"hostNetwork": True}, False),
    ],
)
def test_which_pods_count(status: Any, spec: Any, found: bool) -> None:
    ports = [{"containerPort": 80, "name": "http"}, {"containerPort": 81}]
    spec = {"nodeName": HERE, "containers": [{"name": "c", "ports": ports}], **spec}
    pod = pod_of({"metadata": {"namespace": "a", "name": "b"}, "spec": spec, "status": status})
    assert (pod is not None) is found
    if pod:
        assert pod == Pod("a", "b", "10.200.0.2", {}, HERE, (("http", "tcp", 80),))


def test_a_peer_that_comes_is_one_element() -> None:
    late = Pod("shop", "late", "10.200.1.9", {"app": "front"}, "node-b")
    text = nftables.update(compiled(FROM_FRONT), compiled(FROM_FRONT, pods=[*PODS, late]), table=TABLE)
    (line,) = text.splitlines()
    assert line.startswith("add element ip hardway-policy peers-")
    assert line.endswith("{ 10.200.1.9 }")


def test_a_pod_selected_like_another_shares_its_chain() -> None:
    twin = Pod("shop", "web-2", "10.200.0.9", {"app": "web"}, HERE)
    text = nftables.update(compiled(FROM_FRONT), compiled(FROM_FRONT, pods=[*PODS, twin]), table=TABLE)
    assert "add chain" not in text
    assert "add element ip hardway-policy to-pods { 10.200.0.9 : jump ingress-" in text


# -- the agent ----------------------------------------------------------------------------------------------


def pod_object(pod: Pod) -> Any:
    metadata = {"namespace": pod.namespace, "name": pod.name, "labels": dict(pod.labels)}
    status = {"podIP": pod.ip, "phase": "Running"}
    return {"metadata": metadata, "spec": {"nodeName": pod.node, "containers": []}, "status": status}


POLICIES = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies"


def test_policies_are_programmed_as_they_come() -> None:
    async def test() -> None:
        async with running() as (api, client):
            api.put("/api/v1/namespaces", {"metadata": {"name": "shop"}})
            for pod in (WEB, FRONT):
                api.put(f"/api/v1/namespaces/{pod.namespace}/pods", pod_object(pod))
            nft = FakeNft()
            nft._table = TABLE
            async with asyncio.TaskGroup() as group:
                agent = PolicyAgent(client, HERE, nft=nft, min_sync_period=0.01)
                task = group.create_task(agent.run())
                await eventually(lambda: len(nft.transactions) == 1)
                assert "10.200.0.2" not in nft.transactions[0]
                api.put(POLICIES, FROM_FRONT)
                await eventually(lambda: len(nft.transactions) == 2)
                assert "to-pods { 10.200.0.2 : jump ingress-" in nft.transactions[1]
                assert "{ 10.200.1.4 }" in nft.transactions[1]
                api.remove(f"{POLICIES}/p")
                await eventually(lambda: len(nft.transactions) == 3)
                assert "delete element ip hardway-policy to-pods { 10.200.0.2 }" in nft.transactions[2]
                task.cancel()

    on_loop(test)


def test_without_permission_one_warning_names_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    class Impatient:
        async def sleep(self, seconds: float) -> None:
            waits.append(seconds)
            await asyncio.sleep(0.01)

        def monotonic(self) -> float:
            return 0.0

    waits: list[float] = []

    async def test() -> None:
        async with running() as (api, client):
            refusal = {"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403}
            for _ in range(6):
                api.answers.append((403, {}, refusal))
            nft = FakeNft()
            nft._table = TABLE
            clock: Any = Impatient()
            async with asyncio.TaskGroup() as group:
                task = group.create_task(PolicyAgent(client, HERE, nft=nft, clock=clock).run())
                await eventually(lambda: bool(nft.transactions))
                task.cancel()

    with caplog.at_level(logging.WARNING):
        on_loop(test)
    warnings = [each for each in caplog.records if "not enforced" in each.message]
    assert len(warnings) == 1
    named = warnings[0].__dict__["resources"]
    assert all(resource in named for resource in ("pods", "namespaces", "networkpolicies"))
    assert waits[:2] == [60.0, 60.0]
