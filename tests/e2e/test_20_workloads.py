"""Deployments, StatefulSets and DaemonSets, as users drive them with kubectl."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.lab import Lab, Object, eventually
from tests.e2e.manifests import manifest, workload
from tests.e2e.space import Space, space

CLAIM = {
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
}


@pytest.fixture(scope="module")
def here(lab: Lab) -> Iterator[Space]:
    with space(lab, "workloads") as made:
        yield made


def env_of(pods: list[Object]) -> set[str]:
    """The value of V in every pod."""
    return {e["value"] for p in pods for e in p["spec"]["containers"][0].get("env", []) if e["name"] == "V"}


def revisions(here: Space) -> list[int]:
    text = here.kubectl("rollout", "history", "deployment/web")
    return [int(found) for found in re.findall(r"^(\d+) ", text, re.M)]


def test_a_paused_deployment_collects_changes_and_rolls_once(here: Space) -> None:
    here.apply(workload("Deployment", "web", replicas=2))
    here.rolled_out("deployment/web")
    here.kubectl("rollout", "pause", "deployment/web")
    here.kubectl("set", "env", "deployment/web", "V=1")
    here.kubectl("set", "env", "deployment/web", "V=2")
    assert env_of(here.living("web")) == set() and revisions(here) == [1]
    here.kubectl("rollout", "resume", "deployment/web")
    here.rolled_out("deployment/web")
    eventually("the new pods alone", lambda: env_of(here.living("web")) == {"2"})
    assert revisions(here) == [1, 2]


def test_restart_and_undo_to_a_revision(here: Space) -> None:
    before = {pod["metadata"]["uid"] for pod in here.living("web")}
    here.kubectl("rollout", "restart", "deployment/web")
    here.rolled_out("deployment/web")
    eventually("other pods", lambda: not before & {pod["metadata"]["uid"] for pod in here.living("web")})
    assert "V=2" in re.sub(
        r"V:\s+2", "V=2", here.kubectl("rollout", "history", "deployment/web", "--revision=2")
    )
    here.kubectl("rollout", "undo", "deployment/web", "--to-revision=1")
    here.rolled_out("deployment/web")
    eventually("the first template", lambda: env_of(here.living("web")) == set())
    assert revisions(here) == [2, 3, 4]


def test_scaling_on_condition_and_waiting(here: Space) -> None:
    here.kubectl("scale", "deployment/web", "--current-replicas=2", "--replicas=4")
    here.wait("jsonpath={.status.availableReplicas}=4", "deployment/web")
    text = here.kubectl("scale", "deployment/web", "--current-replicas=2", "--replicas=1", code=1)
    assert "Expected replicas to be 2, was 4" in text
    here.kubectl("scale", "deployment/web", "--replicas=0")
    here.wait("delete", "pod", "-l", "app=web")
    here.wait("condition=Available", "deployment/web")


def test_a_rollout_that_makes_no_progress_says_so(here: Space) -> None:
    never = {"container": {"readinessProbe": {"exec": {"command": ["false"]}}}}
    here.apply(workload("Deployment", "stuck", pod=never, progressDeadlineSeconds=3))
    text = here.kubectl("rollout", "status", "deployment/stuck", "--timeout=60s", code=1)
    assert 'deployment "stuck" exceeded its progress deadline' in text
    conditions = {c["type"]: c["reason"] for c in here.get("deployment", "stuck")["status"]["conditions"]}
    assert conditions["Progressing"] == "ProgressDeadlineExceeded"
    here.kubectl("delete", "deployment", "stuck")


def test_recreate_never_runs_both(here: Space) -> None:
    here.apply(workload("Deployment", "alone", replicas=1, strategy={"type": "Recreate"}))
    here.rolled_out("deployment/alone")
    here.kubectl("set", "env", "deployment/alone", "V=1")
    here.rolled_out("deployment/alone")
    sets = here.items("replicasets", "-l", "app=alone")
    assert sorted(each["spec"]["replicas"] for each in sets) == [0, 1]
    assert env_of(here.living("alone")) == {"1"}


# -- StatefulSets --------------------------------------------------------------------------------------------


def stateful(name: str, **spec: Any) -> str:
    mounts = {"container": {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}}
    script = "[ -e /data/who ] || hostname > /data/who; exec sleep 3600"
    return workload(
        "StatefulSet", name, script, pod=mounts, serviceName=name, volumeClaimTemplates=[CLAIM], **spec
    )


def headless(name: str) -> str:
    spec = {"clusterIP": "None", "selector": {"app": name}, "ports": [{"port": 80}]}
    return manifest("v1", "Service", name, spec=spec)


def made_at(here: Space, name: str) -> str:
    return str(here.get("pod", name)["metadata"]["creationTimestamp"])


def test_a_statefulset_comes_in_order_with_volumes_of_its_own(here: Space) -> None:
    here.apply(headless("db"), stateful("db", replicas=2))
    here.rolled_out("statefulset/db")
    assert made_at(here, "db-0") <= made_at(here, "db-1")
    assert here.kubectl("exec", "db-1", "--", "cat", "/data/who").strip() == "db-1"
    claims = here.items("pvc")
    assert {c["status"]["phase"] for c in claims} == {"Bound"} and len(claims) == 2
    assert {c["spec"]["storageClassName"] for c in claims} == {"local-path"}
    assert "LocalVolume" in here.lab.kubectl("describe", "pv", claims[0]["spec"]["volumeName"])


def test_a_member_that_comes_back_finds_its_data(here: Space) -> None:
    node = here.get("pod", "db-1")["spec"]["nodeName"]
    here.kubectl("exec", "db-1", "--", "sh", "-c", "echo kept > /data/note")
    here.kubectl("delete", "pod", "db-1", "--now")
    here.rolled_out("statefulset/db")
    eventually(
        "db-1 again", lambda: here.kubectl("exec", "db-1", "--", "cat", "/data/note").strip() == "kept"
    )
    assert here.get("pod", "db-1")["spec"]["nodeName"] == node


def test_a_claim_that_asks_for_more_gets_it(here: Space) -> None:
    more = '{"spec":{"resources":{"requests":{"storage":"3Mi"}}}}'
    here.kubectl("patch", "pvc", "data-db-0", "-p", more)
    here.wait("jsonpath={.status.capacity.storage}=3Mi", "pvc/data-db-0")
    volume = here.get("pvc", "data-db-0")["spec"]["volumeName"]
    assert here.lab.get("pv", volume)["spec"]["capacity"] == {"storage": "3Mi"}
    eventually("the event", lambda: "ExternalExpanding" in here.reasons("data-db-0"))


def test_a_partition_holds_the_update_back(here: Space) -> None:
    here.kubectl(
        "patch", "statefulset", "db", "-p", '{"spec":{"updateStrategy":{"rollingUpdate":{"partition":1}}}}'
    )
    here.kubectl("set", "env", "statefulset/db", "V=1")
    eventually("db-1 is new", lambda: env_of([here.get("pod", "db-1")]) == {"1"})
    here.rolled_out("statefulset/db")
    assert env_of([here.get("pod", "db-0")]) == set()
    here.kubectl(
        "patch", "statefulset", "db", "-p", '{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}'
    )
    here.rolled_out("statefulset/db")
    assert env_of(here.living("db")) == {"1"}
    assert len(here.items("controllerrevisions", "-l", "app=db")) == 2


def test_claims_are_kept_or_deleted_as_told(here: Space) -> None:
    here.kubectl("scale", "statefulset/db", "--replicas=1")
    here.wait("delete", "pod/db-1")
    assert here.names("pvc") == ["data-db-0", "data-db-1"]
    here.kubectl("scale", "statefulset/db", "--replicas=2")
    here.rolled_out("statefulset/db")
    assert here.kubectl("exec", "db-1", "--", "cat", "/data/note").strip() == "kept"
    policy = (
        '{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Delete","whenScaled":"Delete"}}}'
    )
    here.kubectl("patch", "statefulset", "db", "-p", policy)
    here.kubectl("scale", "statefulset/db", "--replicas=1")
    eventually("the claim of the member that is gone is gone", lambda: here.names("pvc") == ["data-db-0"])
    here.kubectl("delete", "statefulset", "db")
    eventually("no claims", lambda: here.names("pvc") == [])
    eventually("no volumes", lambda: here.volumes() == [])


def test_a_parallel_statefulset_does_not_wait(here: Space) -> None:
    """None of them is ever ready, and all of them are there; ordinals start where told."""
    probe = {"container": {"readinessProbe": {"exec": {"command": ["false"]}}}}
    here.apply(
        workload(
            "StatefulSet",
            "par",
            pod=probe,
            serviceName="par",
            replicas=3,
            podManagementPolicy="Parallel",
            ordinals={"start": 5},
        )
    )
    eventually("three at once", lambda: here.names("pods", "-l", "app=par") == ["par-5", "par-6", "par-7"])
    here.kubectl("delete", "statefulset", "par")


# -- DaemonSets --------------------------------------------------------------------------------------------


def test_a_daemonset_is_on_every_node_and_rolls(here: Space) -> None:
    here.apply(workload("DaemonSet", "agent"))
    here.rolled_out("daemonset/agent")
    nodes = sorted(pod["spec"]["nodeName"] for pod in here.living("agent"))
    assert nodes == ["worker-0", "worker-1", "worker-2"]
    here.kubectl("set", "env", "daemonset/agent", "V=1")
    here.rolled_out("daemonset/agent")
    assert env_of(here.living("agent")) == {"1"}
    here.kubectl("rollout", "undo", "daemonset/agent")
    here.rolled_out("daemonset/agent")
    eventually("the first template", lambda: env_of(here.living("agent")) == set())


def test_a_daemonset_follows_labels_of_nodes(here: Space) -> None:
    here.kubectl(
        "patch", "daemonset", "agent", "-p", '{"spec":{"template":{"spec":{"nodeSelector":{"e2e":"yes"}}}}}'
    )
    eventually("nobody", lambda: here.living("agent") == [])
    here.lab.kubectl("label", "node", "worker-1", "e2e=yes")
    try:
        eventually("one", lambda: [p["spec"]["nodeName"] for p in here.living("agent")] == ["worker-1"])
    finally:
        here.lab.kubectl("label", "node", "worker-1", "e2e-")
    eventually("nobody again", lambda: here.living("agent") == [])
    here.kubectl("delete", "daemonset", "agent")


def test_a_daemonset_that_surges_keeps_the_old_until_the_new_is_ready(here: Space) -> None:
    def ready_when(command: str) -> str:
        probe = {"exec": {"command": [command]}, "periodSeconds": 1}
        container = {"env": [{"name": "V", "value": command}], "readinessProbe": probe}
        pod = {"container": container, "nodeSelector": {"kubernetes.io/hostname": "worker-1"}}
        surge = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        return workload("DaemonSet", "surge", pod=pod, updateStrategy=surge)

    here.apply(ready_when("true"))
    here.rolled_out("daemonset/surge")
    [old] = here.living("surge")
    here.apply(ready_when("false"))
    eventually("old and new", lambda: env_of(here.living("surge")) == {"true", "false"})
    here.wait("jsonpath={.status.updatedNumberScheduled}=1", "daemonset/surge")
    assert here.get("daemonset", "surge")["status"]["numberAvailable"] == 1
    assert old["metadata"]["name"] in {pod["metadata"]["name"] for pod in here.living("surge")}
    here.apply(ready_when("/bin/true"))
    here.rolled_out("daemonset/surge")
    eventually("the new alone", lambda: env_of(here.living("surge")) == {"/bin/true"})
    here.kubectl("delete", "daemonset", "surge")
