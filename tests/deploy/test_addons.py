"""Add-ons: every manifest can be applied, and says what the topology says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy import addons
from deploy.api import collection_path
from deploy.images import catalogue, python

VALUES = {
    "CLUSTER_DNS": "10.32.0.10",
    "CLUSTER_DOMAIN": "cluster.local",
    "DNS_IMAGE": "docker.io/x/dns:1",
    "METRICS_PORT": "4443",
    "CLUSTER_CA": "UEVN",
}


def everything() -> list[dict[str, Any]]:
    return [obj for name in addons.names() for obj in addons.load(name, VALUES)]


def found(kind: str, name: str) -> dict[str, Any]:
    objects = everything()
    return next(o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name))


def test_every_kind_has_a_path() -> None:
    for obj in everything():
        assert collection_path(obj["kind"], obj["metadata"].get("namespace")).startswith("/api")


def test_paths() -> None:
    assert collection_path("Deployment", "kube-system") == "/apis/apps/v1/namespaces/kube-system/deployments"
    assert collection_path("ClusterRole", None) == "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    with pytest.raises(ValueError, match="add-on of kind 'Job'"):
        collection_path("Job", None)


def test_cluster_dns_is_where_the_kubelets_look_for_it() -> None:
    service, deployment = found("Service", "kube-dns"), found("Deployment", "clusterdns")
    assert service["spec"]["clusterIP"] == "10.32.0.10"
    template = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert template["spec"]["containers"][0]["image"] == "docker.io/x/dns:1"
    assert deployment["spec"]["replicas"] == 2
    ports = {(port["name"], port["containerPort"]) for port in template["spec"]["containers"][0]["ports"]}
    assert {("dns", 53), ("dns-tcp", 53)} <= ports


def test_the_apiservers_user_may_reach_kubelets() -> None:
    binding = found("ClusterRoleBinding", "system:kube-apiserver")
    assert binding["subjects"][0]["name"] == "kube-apiserver-kubelet-client"
    assert "nodes/proxy" in found("ClusterRole", binding["roleRef"]["name"])["rules"][0]["resources"]


def test_bindings_name_roles_and_subjects_that_exist() -> None:
    from apiserver.auth.policy import CLUSTER_ROLES

    objects = everything()
    names = {("ClusterRole", name) for name in CLUSTER_ROLES}
    names |= {(o["kind"], o["metadata"]["name"]) for o in objects}
    for binding in (o for o in objects if o["kind"] == "ClusterRoleBinding"):
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in names
        for subject in binding["subjects"]:
            assert subject["kind"] == "User" or (subject["kind"], subject["name"]) in names


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(KeyError, match="DNS_IMAGE"):
        addons.load("20-cluster-dns", {"CLUSTER_DNS": "x", "CLUSTER_DOMAIN": "y"})


def test_the_provisioner_finds_what_it_imports_in_the_image_of_cluster_dns() -> None:
    """That image is packed from what cluster DNS imports."""
    root = Path(python.__file__).resolve().parents[2]
    sites = python.site_directories()
    packed = set(
        python.with_requirements(python.top_level(python.loaded_files(["clusterdns.app"], root), sites))
    )
    needed = set(python.top_level(python.loaded_files(["controllers.localpath.app"], root), sites))
    own = {root / name for name in catalogue.DNS_PACKAGES}
    assert needed <= packed | own
