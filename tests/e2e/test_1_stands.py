"""`make up` ends with three members, three apiservers and three Ready nodes, and may be repeated."""

from __future__ import annotations

import re

from tests.e2e.lab import Lab


def test_nodes_are_ready(lab: Lab) -> None:
    text = lab.kubectl("get", "nodes", "-o", "wide")
    assert re.findall(r"^(worker-\d) +Ready ", text, re.M) == ["worker-0", "worker-1", "worker-2"], text
    assert "10.240.0.21" in text
    assert "containerd://" in text


def test_members_agree(lab: Lab) -> None:
    rows = lab.etcdctl("controller-0", "member", "list").splitlines()
    assert len(rows) == 3
    assert all(", started, controller-" in row for row in rows), rows


def test_status_shows_the_cluster(lab: Lab) -> None:
    text = lab.hardway("status")
    assert len(re.findall(r"^(controller|worker|balancer)\S* +\S+ +\w+ +running ", text, re.M)) == 28, text
    assert len(re.findall(r"^controller-\d +\w+ +leader +\d+ +\d+ ", text, re.M)) == 1, text
    assert len(re.findall(r"^controller-\d +https://\S+ +ready", text, re.M)) == 3, text
    assert len(re.findall(r"^worker-\d +Ready", text, re.M)) == 3, text
    lab.kubectl("wait", "pods", "--all", "-n", "kube-system", "--for=condition=Ready", "--timeout=120s")
    count = len(lab.get("pods", "-n", "kube-system")["items"])
    assert re.search(rf"^kube-system +Running +{count}$", lab.hardway("status"), re.M)


def test_up_again_changes_nothing(lab: Lab) -> None:
    before = lab.kubectl("get", "pods", "-A", "-o", "name")
    lab.hardway("up")
    assert lab.kubectl("get", "pods", "-A", "-o", "name") == before


def test_every_apiserver_serves_and_the_service_lists_them(lab: Lab) -> None:
    for number in range(3):
        lab.on_host(
            f"controller-{number}",
            "curl", "-fsS", "--cacert", "/etc/kubernetes/pki/ca.pem", f"https://10.240.0.1{number}:6443/readyz",
        )  # fmt: skip
    endpoints = lab.get("endpoints", "kubernetes")
    addresses = sorted(each["ip"] for each in endpoints["subsets"][0]["addresses"])
    assert addresses == ["10.240.0.10", "10.240.0.11", "10.240.0.12"]


def test_pki_status_lists_expiry(lab: Lab) -> None:
    text = lab.hardway("pki", "status")
    assert "system:kube-scheduler" in text or "scheduler" in text
    assert re.search(r"20\d\d-\d\d-\d\d", text), text
