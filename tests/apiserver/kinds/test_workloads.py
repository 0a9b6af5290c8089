"""The kinds that controllers run: Deployments, ReplicaSets, DaemonSets, StatefulSets, Jobs, CronJobs."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from apimachinery.scheme import Kind
from apiserver.kinds.jobs import cron_problem
from tests.apiserver.kinds.helpers import accepted, causes, cells, kind_of, made, update_causes

DEPLOYMENT = kind_of("apps", "deployments")
REPLICA_SET = kind_of("apps", "replicasets")
DAEMON_SET = kind_of("apps", "daemonsets")
STATEFUL_SET = kind_of("apps", "statefulsets")
CONTROLLER = kind_of("", "replicationcontrollers")
JOB = kind_of("batch", "jobs")
CRON_JOB = kind_of("batch", "cronjobs")
SELECTED = (DEPLOYMENT, REPLICA_SET, DAEMON_SET, STATEFUL_SET)


def template(**pod: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "web", "image": "web:1"}], **pod}
    return {"metadata": {"labels": {"app": "web"}}, "spec": spec}


def workload(kind: Kind, **spec: Any) -> dict[str, Any]:
    base = {"selector": {"matchLabels": {"app": "web"}}, "template": template()}
    return made(kind, spec={**base, **spec})


@pytest.mark.parametrize("kind", SELECTED, ids=lambda kind: kind.kind)
def test_a_minimal_workload_is_valid_and_its_template_defaulted(kind: Kind) -> None:
    assert causes(kind, workload(kind)) == []
    pod = accepted(kind, workload(kind))["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Always" and pod["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert "enableServiceLinks" not in pod


def test_deployment_defaults() -> None:
    spec = accepted(DEPLOYMENT, workload(DEPLOYMENT))["spec"]
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"},
    }
    assert (spec["replicas"], spec["revisionHistoryLimit"], spec["progressDeadlineSeconds"]) == (1, 10, 600)
    zero = accepted(DEPLOYMENT, workload(DEPLOYMENT, replicas=0, strategy={"type": "Recreate"}))["spec"]
    assert zero["replicas"] == 0 and zero["strategy"] == {"type": "Recreate"}


def test_other_defaults() -> None:
    daemons = accepted(DAEMON_SET, workload(DAEMON_SET))
    assert daemons["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    assert daemons["status"]["desiredNumberScheduled"] == 0
    states = accepted(
        STATEFUL_SET, workload(STATEFUL_SET, volumeClaimTemplates=[{"metadata": {"name": "d"}}])
    )["spec"]
    assert states["podManagementPolicy"] == "OrderedReady"
    assert states["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    assert states["volumeClaimTemplates"][0]["spec"]["volumeMode"] == "Filesystem"
    old = accepted(CONTROLLER, made(CONTROLLER, spec={"template": template()}))
    assert old["spec"]["selector"] == {"app": "web"} and old["metadata"]["labels"] == {"app": "web"}


@pytest.mark.parametrize("kind", SELECTED, ids=lambda kind: kind.kind)
def test_selector_rules(kind: Kind) -> None:
    missing = workload(kind)
    del missing["spec"]["selector"]
    assert "spec.selector: Required value" in causes(kind, missing)
    empty = f"spec.selector: Invalid value: {{}}: empty selector is invalid for {kind.singular}"
    assert empty in causes(kind, workload(kind, selector={}))
    other = workload(kind, selector={"matchLabels": {"app": "db"}})
    assert causes(kind, other) == [
        'spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match '
        "template `labels`"
    ]
    never = workload(kind, template=template(restartPolicy="Never"))
    expected = 'spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"'
    assert causes(kind, never) == [expected]


@pytest.mark.parametrize("kind", [DEPLOYMENT, REPLICA_SET, DAEMON_SET], ids=lambda kind: kind.kind)
def test_selectors_are_immutable(kind: Kind) -> None:
    new = accepted(kind, workload(kind))
    new["spec"]["selector"] = {"matchLabels": {"app": "web", "tier": "x"}}
    new["spec"]["template"]["metadata"]["labels"]["tier"] = "x"
    assert update_causes(kind, new, workload(kind)) == [
        'spec.selector: Invalid value: {"matchLabels":{"app":"web","tier":"x"}}: field is immutable'
    ]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"replicas": -1}, "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        (
            {"strategy": {"type": "Recreate", "rollingUpdate": {}}},
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}},
            'rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0',
        ),
        (
            {"strategy": {"rollingUpdate": {"maxSurge": "x"}}},
            'maxSurge: Invalid value: "x": a valid percent string',
        ),
        ({"strategy": {"rollingUpdate": {"maxUnavailable": "101%"}}}, "must not be greater than 100%"),
        ({"strategy": {"type": "Slow"}}, 'spec.strategy.type: Unsupported value: "Slow"'),
        (
            {"minReadySeconds": 600},
            "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReady",
        ),
    ],
)
def test_deployment_rules(spec: dict[str, Any], expected: str) -> None:
    assert any(expected in text for text in causes(DEPLOYMENT, workload(DEPLOYMENT, **spec)))


def test_stateful_sets_change_only_in_part() -> None:
    old = workload(STATEFUL_SET, serviceName="a")
    new = accepted(STATEFUL_SET, old)
    new["spec"]["replicas"] = 5
    assert update_causes(STATEFUL_SET, new, old) == []
    new["spec"]["serviceName"] = "b"
    assert "updates to statefulset spec for fields other than" in update_causes(STATEFUL_SET, new, old)[0]


def test_a_claim_template_is_a_volume_of_the_template() -> None:
    pod = template()
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/d"}]
    claims = [{"metadata": {"name": "data"}, "spec": {}}]
    assert causes(STATEFUL_SET, workload(STATEFUL_SET, template=pod, volumeClaimTemplates=claims)) == []
    assert "Not found" in causes(STATEFUL_SET, workload(STATEFUL_SET, template=pod))[0]


def test_replica_set_status_must_add_up() -> None:
    bad = {"status": {"replicas": 1, "readyReplicas": 2, "availableReplicas": 3}}
    fields = [cause.field for cause in REPLICA_SET.strategy.status_validate_update(bad, {})]
    assert fields == ["status.readyReplicas", "status.availableReplicas", "status.availableReplicas"]


def job(**spec: Any) -> dict[str, Any]:
    return made(JOB, spec={"template": template(restartPolicy="Never"), **spec})


def test_jobs() -> None:
    assert causes(JOB, job()) == []
    made_job = job()
    made_job["metadata"]["uid"] = "u1"
    spec = accepted(JOB, made_job)["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (1, 1, 6)
    assert spec["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}}
    assert spec["template"]["metadata"]["labels"]["job-name"] == "x"
    always = made(JOB, spec={"template": template()})
    expected = 'restartPolicy: Required value: valid values: "OnFailure", "Never"'
    assert expected in causes(JOB, always)[0]
    changed = copy.deepcopy(accepted(JOB, job()))
    changed["spec"]["template"]["spec"]["hostname"] = "h"
    assert any(text.startswith("spec.template: ") for text in update_causes(JOB, changed, job()))


def test_job_columns() -> None:
    done = {"startTime": "2025-12-31T23:59:00Z", "completionTime": "2025-12-31T23:59:07Z", "succeeded": 1}
    done["conditions"] = [{"type": "Complete", "status": "True"}]
    row = cells(JOB, {**job(completions=1), "status": done})
    assert (row["Status"], row["Completions"], row["Duration"]) == ("Complete", "1/1", "7s")


@pytest.mark.parametrize(
    "schedule", ["* * * * *", "*/5 0-6 1,15 jan-mar MON", "@hourly", "@every 1h30m", "0 0 ? * 0"]
)
def test_cron_schedules(schedule: str) -> None:
    assert cron_problem(schedule) is None


@pytest.mark.parametrize(
    "schedule",
    ["", "* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "5-1 * * * *", "x * * * *", "@never"],
)
def test_what_is_not_a_cron_schedule(schedule: str) -> None:
    assert cron_problem(schedule)


def test_cron_jobs() -> None:
    body = {
        "schedule": "* * * * *",
        "jobTemplate": {"spec": {"template": template(restartPolicy="OnFailure")}},
    }
    assert causes(CRON_JOB, made(CRON_JOB, spec=body)) == []
    spec = accepted(CRON_JOB, made(CRON_JOB, spec=body))["spec"]
    assert (
        spec["concurrencyPolicy"],
        spec["successfulJobsHistoryLimit"],
        spec["failedJobsHistoryLimit"],
    ) == ("Allow", 3, 1)
    nowhere = made(CRON_JOB, spec={**body, "timeZone": "Mars/Olympus"})
    assert "unknown time zone Mars/Olympus" in causes(CRON_JOB, nowhere)[0]


def test_columns() -> None:
    obj = {
        **accepted(DEPLOYMENT, workload(DEPLOYMENT, replicas=3)),
        "status": {"readyReplicas": 2, "updatedReplicas": 3},
    }
    row = cells(DEPLOYMENT, obj)
    assert (row["Ready"], row["Up-to-date"], row["Available"]) == ("2/3", 3, 0)
    assert (row["Containers"], row["Images"], row["Selector"]) == ("web", "web:1", "app=web")
