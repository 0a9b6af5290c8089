"""The life of a Deployment and its Service, with an unmodified kubectl."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.e2e.lab import Lab, eventually

MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
  labels: {app: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: shop
        image: busybox:1.35
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "echo open; exec httpd -f -p 8080 -h /etc"]
        ports: [{containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  selector: {app: shop}
  ports: [{port: 80, targetPort: 8080}]
"""


@pytest.fixture(scope="module")
def shop(lab: Lab) -> Iterator[Lab]:
    text = lab.kubectl("apply", "-f", "-", stdin=MANIFEST)
    assert "deployment.apps/shop created" in text
    assert "service/shop created" in text
    lab.kubectl("rollout", "status", "deployment/shop", "--timeout=90s")
    yield lab
    lab.kubectl("delete", "deployment,service", "shop", "--ignore-not-found", "--timeout=60s")


def revision(lab: Lab) -> str:
    return str(lab.get("deployment", "shop")["metadata"]["annotations"]["deployment.kubernetes.io/revision"])


def test_apply_again_is_unchanged(shop: Lab) -> None:
    text = shop.kubectl("apply", "-f", "-", stdin=MANIFEST)
    assert text.count("unchanged") == 2, text


def test_get_wide(shop: Lab) -> None:
    text = shop.kubectl("get", "deployment,pods,service", "-l", "app=shop", "-o", "wide")
    assert re.search(r"deployment.apps/shop +3/3 +3 +3 ", text), text
    assert len(re.findall(r"pod/shop-\w+-\w+ +1/1 +Running +0 .*10\.200\.\d+\.\d+ +worker-\d", text)) == 3, (
        text
    )


def test_describe(shop: Lab) -> None:
    text = shop.kubectl("describe", "deployment", "shop")
    assert re.search(r"Replicas: +3 desired \| 3 updated \| 3 total \| 3 available \| 0 unavailable", text), (
        text
    )
    assert "ScalingReplicaSet" in text, text
    pod = shop.get("pods", "-l", "app=shop")["items"][0]["metadata"]["name"]
    text = shop.kubectl("describe", "pod", pod)
    for word in ("Successfully assigned default/", "Started container shop", "QoS Class:", "BestEffort"):
        assert re.sub(r"\s+", " ", word) in re.sub(r"\s+", " ", text), text
    text = shop.kubectl("describe", "service", "shop")
    assert len(re.findall(r"10\.200\.\d+\.\d+:8080", text)) == 3, text
    assert "Ready" in shop.kubectl("describe", "node", "worker-0")


def test_logs_and_exec(shop: Lab) -> None:
    assert "open\n" in shop.kubectl("logs", "deployment/shop")
    pod = shop.get("pods", "-l", "app=shop")["items"][0]["metadata"]["name"]
    assert shop.kubectl("exec", pod, "--", "hostname").strip() == pod
    assert (
        shop.kubectl("exec", "-i", pod, "--", "cat", stdin="through and back").strip() == "through and back"
    )
    shop.kubectl("exec", pod, "--", "sh", "-c", "exit 7", code=7)


def test_set_image_and_undo(shop: Lab) -> None:
    before = revision(shop)
    shop.kubectl("set", "image", "deployment/shop", "shop=busybox:latest")
    shop.kubectl("rollout", "status", "deployment/shop", "--timeout=90s")
    images = {pod["spec"]["containers"][0]["image"] for pod in running(shop)}
    assert images == {"busybox:latest"}
    assert int(revision(shop)) == int(before) + 1
    shop.kubectl("rollout", "undo", "deployment/shop")
    shop.kubectl("rollout", "status", "deployment/shop", "--timeout=90s")
    eventually(
        "old image everywhere",
        lambda: {pod["spec"]["containers"][0]["image"] for pod in running(shop)} == {"busybox:1.35"},
    )
    assert len(re.findall(r"^\d+ ", shop.kubectl("rollout", "history", "deployment/shop"), re.M)) == 2


def running(lab: Lab) -> list[dict[str, dict[str, list[dict[str, str]]]]]:
    pods = lab.get("pods", "-l", "app=shop")["items"]
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def test_a_broken_image_stops_the_rollout_and_says_why(shop: Lab) -> None:
    shop.kubectl("set", "image", "deployment/shop", "shop=busybox:never-built")

    def waiting() -> bool:
        pods = shop.get("pods", "-l", "app=shop")["items"]
        states = [
            s["state"].get("waiting", {}) for pod in pods for s in pod["status"].get("containerStatuses", [])
        ]
        return any(state.get("reason") in ("ErrImagePull", "ImagePullBackOff") for state in states)

    eventually("ImagePullBackOff", waiting)
    assert int(shop.get("deployment", "shop")["status"]["availableReplicas"]) >= 2
    shop.kubectl("rollout", "undo", "deployment/shop")
    shop.kubectl("rollout", "status", "deployment/shop", "--timeout=90s")


def test_scale(shop: Lab) -> None:
    shop.kubectl("scale", "deployment/shop", "--replicas=5")
    shop.kubectl("rollout", "status", "deployment/shop", "--timeout=90s")
    assert len(running(shop)) == 5
    shop.kubectl("scale", "deployment/shop", "--replicas=1")
    eventually("one pod", lambda: len(shop.get("pods", "-l", "app=shop")["items"]) == 1)


def test_a_container_that_ends_comes_back(shop: Lab) -> None:
    shop.kubectl("run", "mortal", "--image=busybox:1.35", "--", "sh", "-c", "sleep 1; exit 3")

    def restarted() -> bool:
        status = shop.get("pod", "mortal")["status"]["containerStatuses"][0]
        ended = status["lastState"].get("terminated", {})
        return bool(status["restartCount"] >= 1 and ended["exitCode"] == 3 and ended["reason"] == "Error")

    try:
        eventually("a restart", restarted)
    finally:
        shop.kubectl("delete", "pod", "mortal", "--now")


def test_explain_and_api_resources(shop: Lab) -> None:
    assert "replicas" in shop.kubectl("explain", "deployment.spec")
    assert re.search(r"deployments +deploy +apps/v1 +true +Deployment", shop.kubectl("api-resources"))


def test_delete(shop: Lab) -> None:
    text = shop.kubectl("delete", "-f", "-", stdin=MANIFEST, timeout=90)
    assert 'deployment.apps "shop" deleted' in text
    eventually("no pods", lambda: not shop.get("pods,replicasets", "-l", "app=shop")["items"])
    assert "NotFound" in shop.kubectl("get", "deployment", "shop", code=1)
