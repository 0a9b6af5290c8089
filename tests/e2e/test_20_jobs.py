"""Jobs and CronJobs: indexes, policies, suspension, clean-up, time zones."""

from __future__ import annotations

import datetime as dt
import json
import zoneinfo
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.lab import Lab, Object, eventually
from tests.e2e.manifests import FOREVER, job, manifest, pod_spec
from tests.e2e.space import Space, space


@pytest.fixture(scope="module")
def here(lab: Lab) -> Iterator[Space]:
    with space(lab, "jobs") as made:
        never = {"template": {"spec": pod_spec("true", restartPolicy="Never")}}
        spec = {"schedule": "* * * * *", "successfulJobsHistoryLimit": 1, "jobTemplate": {"spec": never}}
        made.apply(manifest("batch/v1", "CronJob", "often", spec=spec))
        yield made


def condition(found: Object, kind: str) -> Object:
    return next(c for c in found["status"]["conditions"] if c["type"] == kind)


def test_an_indexed_job_gives_every_pod_its_index(here: Space) -> None:
    here.apply(
        job(
            "count",
            "echo index $JOB_COMPLETION_INDEX",
            completions=3,
            parallelism=3,
            completionMode="Indexed",
        )
    )
    here.wait("condition=complete", "job/count")
    found = here.get("job", "count")["status"]
    assert (found["succeeded"], found["completedIndexes"]) == (3, "0-2")
    text = here.kubectl("logs", "-l", "batch.kubernetes.io/job-name=count")
    assert sorted(text.split("\n")[:-1]) == ["index 0", "index 1", "index 2"]


def test_a_failure_policy_ends_the_job_at_once(here: Space) -> None:
    codes = {"containerName": "c", "operator": "In", "values": [42]}
    rules = [{"action": "FailJob", "onExitCodes": codes}]
    here.apply(job("fatal", "exit 42", backoffLimit=6, podFailurePolicy={"rules": rules}))
    here.wait("condition=failed", "job/fatal")
    found = condition(here.get("job", "fatal"), "Failed")
    assert found["reason"] == "PodFailurePolicy"
    assert "failed with exit code 42 matching FailJob rule at index 0" in found["message"]
    assert len(here.items("pods", "-l", "job-name=fatal")) == 1


def test_an_index_that_fails_does_not_stop_the_others(here: Space) -> None:
    script = "[ $JOB_COMPLETION_INDEX != 1 ]"
    here.apply(
        job("partly", script, completions=3, parallelism=3, completionMode="Indexed", backoffLimitPerIndex=0)
    )
    here.wait("condition=failed", "job/partly")
    found = here.get("job", "partly")
    assert (found["status"]["completedIndexes"], found["status"]["failedIndexes"]) == ("0,2", "1")
    assert condition(found, "Failed")["reason"] == "FailedIndexes"


def test_a_success_policy_ends_the_job_before_all_are_done(here: Space) -> None:
    script = "[ $JOB_COMPLETION_INDEX = 0 ] || sleep 3600"
    policy = {"rules": [{"succeededIndexes": "0"}]}
    here.apply(
        job("leader", script, completions=2, parallelism=2, completionMode="Indexed", successPolicy=policy)
    )
    here.wait("condition=complete", "job/leader")
    found = here.get("job", "leader")
    assert condition(found, "SuccessCriteriaMet")["reason"] == "SuccessPolicy"
    assert found["status"]["completedIndexes"] == "0"


def test_a_suspended_job_has_no_pods_until_it_is_resumed(here: Space) -> None:
    here.apply(job("later", "true", suspend=True))
    here.wait("condition=suspended", "job/later")
    assert here.items("pods", "-l", "job-name=later") == []
    here.kubectl("patch", "job", "later", "-p", '{"spec":{"suspend":false}}')
    here.wait("condition=complete", "job/later")
    assert {"Suspended", "Resumed", "Completed"} <= here.reasons("later")


def test_a_job_that_somebody_else_manages_is_left_alone(here: Space) -> None:
    here.apply(job("theirs", "true", managedBy="example.com/queue"), job("ours", "true"))
    here.wait("condition=complete", "job/ours")
    assert here.items("pods", "-l", "job-name=theirs") == []
    assert "startTime" not in here.get("job", "theirs").get("status", {})


def test_a_finished_job_goes_after_its_time(here: Space) -> None:
    here.apply(job("brief", "true", ttlSecondsAfterFinished=0))
    eventually("the job and its pod are gone", lambda: "brief" not in here.names("jobs"))
    eventually("no pod", lambda: here.items("pods", "-l", "job-name=brief") == [])


def test_a_cronjob_runs_by_hand_and_reads_its_time_zone(here: Space) -> None:
    never = {"template": {"spec": pod_spec("true", restartPolicy="Never")}}
    spec = {"schedule": "0 3 29 2 *", "timeZone": "Asia/Tokyo", "jobTemplate": {"spec": never}}
    here.apply(manifest("batch/v1", "CronJob", "yearly", spec=spec))
    here.kubectl("create", "job", "--from=cronjob/yearly", "by-hand")
    here.wait("condition=complete", "job/by-hand")
    owner = here.get("job", "by-hand")["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("CronJob", "yearly")
    assert "Asia/Tokyo" in here.kubectl("get", "cronjob", "yearly")
    wrong = json.dumps({"spec": {"timeZone": "Mars/Olympus"}})
    text = here.kubectl("patch", "cronjob", "yearly", "-p", wrong, code=1)
    assert "unknown time zone Mars/Olympus" in text


def test_a_cronjob_makes_a_job_when_its_minute_comes(here: Space) -> None:
    """It was made before the first test here, so that its minute passes beside them."""
    made = here.get("cronjob", "often")

    def has_run() -> bool:
        return "lastSuccessfulTime" in here.get("cronjob", "often").get("status", {})

    eventually("a run", has_run, timeout=120)
    runs = [each for each in here.items("jobs") if each["metadata"]["name"].startswith("often-")]
    assert runs and runs[0]["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    here.kubectl("patch", "cronjob", "often", "-p", '{"spec":{"suspend":true}}')


# -- runs that are due at once: their CronJob is told that it ran two days ago ------------------------------


def daily(at: dt.datetime) -> str:
    return f"{at.minute} {at.hour} * * *"


def due(name: str, script: str, at: dt.datetime, **spec: Any) -> str:
    """A CronJob that runs daily at this time, once it is let."""
    run = {"template": {"spec": pod_spec(script, restartPolicy="Never")}}
    full = {"schedule": daily(at), "suspend": True, "jobTemplate": {"spec": run}, **spec}
    return manifest("batch/v1", "CronJob", name, spec=full)


def behind(here: Space, *crons: str) -> None:
    """They have a run to make up for: as if they had been suspended for two days."""
    here.kubectl("apply", "-f", "-", stdin="\n".join(crons))
    names = [json.loads(each)["metadata"]["name"] for each in crons]
    stamp = (dt.datetime.now(dt.UTC) - dt.timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = json.dumps({"status": {"lastScheduleTime": stamp}})
    here.kubectl("patch", "cronjob", *names, "--subresource=status", "--type=merge", "-p", status)
    here.kubectl("patch", "cronjob", *names, "-p", '{"spec":{"suspend":false}}')


def runs(here: Space, name: str) -> set[str]:
    return {found for found in here.names("jobs") if found.startswith(f"{name}-")}


def named(name: str, *times: dt.datetime) -> set[str]:
    return {f"{name}-{int(at.timestamp()) // 60}" for at in times}


def test_a_run_is_due_by_the_clock_of_its_zone(here: Space) -> None:
    now = dt.datetime.now(zoneinfo.ZoneInfo("Asia/Kathmandu"))  # UTC+5:45
    at = now.replace(second=0, microsecond=0) - dt.timedelta(hours=3)
    behind(here, due("zoned", "true", at, timeZone="Asia/Kathmandu"))
    eventually("the run of that time", lambda: runs(here, "zoned") == named("zoned", at))


def test_a_run_meets_the_one_before_it(here: Space) -> None:
    """Both stand together, the new one is left out, or the old one goes; and history has an end."""
    first = dt.datetime.now(dt.UTC).replace(second=0, microsecond=0) - dt.timedelta(hours=2)
    second = first + dt.timedelta(hours=1)
    policies = {"allow": "Allow", "forbid": "Forbid", "replace": "Replace"}
    long = [due(name, FOREVER, first, concurrencyPolicy=policy) for name, policy in policies.items()]
    behind(here, *long, due("history", "true", first, successfulJobsHistoryLimit=1))
    for name in (*policies, "history"):
        eventually("the first", lambda n=name: runs(here, n) == named(n, first))  # type: ignore[misc]
    here.wait("condition=complete", *(f"job/{each}" for each in named("history", first)))
    later = json.dumps({"spec": {"schedule": daily(second)}})
    here.kubectl("patch", "cronjob", *policies, "history", "-p", later)
    eventually("both", lambda: runs(here, "allow") == named("allow", first, second))
    eventually("the new one", lambda: runs(here, "replace") == named("replace", second))
    eventually("it is said", lambda: "JobAlreadyActive" in here.reasons("forbid"))
    assert runs(here, "forbid") == named("forbid", first)
    eventually("the newest", lambda: runs(here, "history") == named("history", second))
    here.kubectl("delete", "cronjob", *policies)
