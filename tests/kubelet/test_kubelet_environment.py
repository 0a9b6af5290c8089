"""Environments, references, resources: where a container's configuration comes from."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from kubelet.cri.pb import api_pb2 as pb
from kubelet.pods import config, resources
from kubelet.pods.config import NodeFacts
from kubelet.pods.environment import ConfigError, Sources, environment
from kubelet.pods.expand import expand
from tests.kubelet.builders import container, pod

NODE = NodeFacts(
    "worker-0", ("10.240.0.20",), ("10.32.0.10",), host_dns=((), ("lab",), ()), memory_capacity=1 << 30
)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(MISSING)", "$(MISSING)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("a$(A)b$(B)c", "a1b2c"),
    ],
)
def test_expansion(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expanded


def env_of(variables: list[dict[str, Any]], **fields: Any) -> dict[str, str]:
    sources = Sources(
        configmaps={"cm": {"data": {"k": "v"}}, "gone": None},
        secrets={"s": {"data": {"k": base64.b64encode(b"hidden").decode()}}},
        pod_ips=("10.200.0.5",),
        host_ips=("10.240.0.20",),
        allocatable={"cpu": "2", "memory": "1Gi"},
    )
    made = container(env=variables, **fields)
    return environment(pod(made), made, sources)


def test_every_source_of_a_value() -> None:
    limits = {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}
    env = env_of(
        [
            {"name": "PLAIN", "value": "x"},
            {"name": "EXPANDED", "value": "$(PLAIN)-$(LATER)"},
            {"name": "LATER", "value": "y"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "CM", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {
                "name": "MEM",
                "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}},
            },
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
            {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {
                "name": "NONE",
                "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "k", "optional": True}},
            },
        ],
        resources=limits,
    )
    assert env == {
        "PLAIN": "x",
        "EXPANDED": "x-$(LATER)",
        "LATER": "y",
        "IP": "10.200.0.5",
        "CM": "v",
        "SECRET": "hidden",
        "MEM": "64",
        "CPU": "250",
        "CPUS": "2",
    }


def test_env_from_with_prefix_is_overridden_by_env() -> None:
    env = env_of(
        [{"name": "P_k", "value": "own"}], envFrom=[{"prefix": "P_", "configMapRef": {"name": "cm"}}]
    )
    assert env == {"P_k": "own"}


@pytest.mark.parametrize(
    ("variable", "complaint"),
    [
        ({"configMapKeyRef": {"name": "gone", "key": "k"}}, 'configmap "gone" not found'),
        ({"configMapKeyRef": {"name": "cm", "key": "no"}}, "couldn't find key no in ConfigMap ns/cm"),
        ({"fieldRef": {"fieldPath": "status.nonsense"}}, "unsupported fieldPath: status.nonsense"),
    ],
)
def test_what_is_missing_is_named(variable: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint.replace("(", "\\(")):
        env_of([{"name": "X", "valueFrom": variable}])


def test_service_variables_are_of_the_own_namespace_and_the_master() -> None:
    def service(name: str, namespace: str, address: str) -> dict[str, Any]:
        spec = {"clusterIP": address, "ports": [{"port": 80, "name": "http"}]}
        return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}

    services = [
        service("kubernetes", "default", "10.32.0.1"),
        service("my-db", "ns", "10.32.0.7"),
        service("far", "other", "10.32.0.8"),
        service("headless", "ns", "None"),
    ]
    made = container()
    env = environment(pod(made), made, Sources(services=services))
    assert env["KUBERNETES_SERVICE_HOST"] == "10.32.0.1"
    assert env["MY_DB_SERVICE_PORT_HTTP"] == "80"
    assert env["MY_DB_PORT_80_TCP"] == "tcp://10.32.0.7:80"
    assert not any(name.startswith(("FAR", "HEADLESS")) for name in env)
    unlinked = environment(pod(made, enableServiceLinks=False), made, Sources(services=services))
    assert {name.split("_")[0] for name in unlinked} == {"KUBERNETES"}


@pytest.mark.parametrize(
    ("given", "qos"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
        ({"limits": {"cpu": "1"}}, "Burstable"),
    ],
)
def test_quality_of_service(given: dict[str, Any], qos: str) -> None:
    assert resources.qos_class(pod(container(resources=given))["spec"]) == qos


def test_cgroup_figures() -> None:
    made = container(resources={"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"cpu": "500m"}})
    figures = resources.linux_resources(pod(made)["spec"], made, 1 << 30)
    assert (figures.cpu_shares, figures.cpu_quota, figures.cpu_period) == (256, 50_000, 100_000)
    assert figures.oom_score_adj == 750
    best_effort = resources.linux_resources(pod()["spec"], container(), 1 << 30)
    assert (best_effort.cpu_shares, best_effort.oom_score_adj) == (2, 1000)


def test_a_pod_asks_for_its_greediest_moment() -> None:
    def ask(name: str, cpu: str, **fields: Any) -> dict[str, Any]:
        return container(name, resources={"requests": {"cpu": cpu}}, **fields)

    made = pod(ask("a", "1"), ask("b", "1"), init=(ask("s", "500m", restartPolicy="Always"), ask("i", "3")))
    assert resources.pod_request(made["spec"], "cpu") == 3500
    assert resources.insufficient(made, [], {"cpu": "3", "pods": "110"}) == "cpu"
    assert resources.insufficient(made, [], {"cpu": "4", "pods": "110"}) == ""
    assert resources.insufficient(made, [made], {"cpu": "64", "pods": "1"}) == "pods"


def test_cluster_dns_and_its_exceptions() -> None:
    usual = config.dns(pod(), NODE)
    assert list(usual.servers) == ["10.32.0.10"]
    assert list(usual.searches) == ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "lab"]
    assert list(usual.options) == ["ndots:5"]
    assert list(config.dns(pod(hostNetwork=True), NODE).searches) == ["lab"]
    own = {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}
    none = config.dns(pod(dnsPolicy="None", dnsConfig=own), NODE)
    assert (list(none.servers), list(none.options)) == (["1.1.1.1"], ["ndots:2", "edns0"])


def test_hosts_file_has_the_pod_and_its_aliases() -> None:
    made = pod(hostAliases=[{"ip": "1.2.3.4", "hostnames": ["a", "b"]}], subdomain="sub")
    text = config.hosts_file(made, NODE, ["10.200.0.5"], "")
    assert "10.200.0.5\tp.sub.ns.svc.cluster.local\tp\n" in text
    assert text.endswith("1.2.3.4\ta\tb\n")


def test_sandbox_carries_the_marks_of_its_pod() -> None:
    made = pod(
        container(ports=[{"containerPort": 80, "hostPort": 8080}], securityContext={"privileged": True})
    )
    sandbox = config.sandbox_config(made, NODE, 2)
    assert sandbox.labels["io.kubernetes.pod.uid"] == "uid-1"
    assert sandbox.metadata.attempt == 2
    assert sandbox.log_directory == "/var/log/pods/ns_p_uid-1"
    assert sandbox.linux.cgroup_parent == "/kubepods/besteffort/poduid-1"
    assert sandbox.linux.security_context.privileged
    assert [(m.container_port, m.host_port) for m in sandbox.port_mappings] == [(80, 8080)]


def test_root_is_forbidden_where_the_pod_says_so() -> None:
    made = pod(container(), securityContext={"runAsNonRoot": True})
    for image in (pb.Image(), pb.Image(uid=pb.Int64Value(value=0)), pb.Image(username="someone")):
        with pytest.raises(ConfigError):
            config.security_context(made, container(), image)
    allowed = config.security_context(made, container(), pb.Image(uid=pb.Int64Value(value=1000)))
    assert allowed.run_as_user.value == 1000
