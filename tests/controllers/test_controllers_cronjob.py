"""CronJob schedules against a brute-force reading of the clock, plans by tables, loops; Jobs that expire."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers import objects as o
from controllers import ttlafterfinished
from controllers.cronjob import CronJobController
from controllers.cronjob import plan as cp
from controllers.cronjob import schedule as cron
from controllers.ttlafterfinished import TTLAfterFinishedController
from kubeclient.resources import CRONJOBS, JOBS
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import MemoryApi, Object
from tests.controllers.world import World

NEW_YORK = zoneinfo.ZoneInfo("America/New_York")


def after(text: str, start: str, zone: dt.tzinfo = dt.UTC) -> str:
    found = cron.parse(text).next_after(dt.datetime.fromisoformat(start).timestamp(), zone)
    return "" if found is None else dt.datetime.fromtimestamp(found, zone).isoformat()


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("* * * * *", "2026-01-01T00:00:00+00:00", "2026-01-01T00:01:00+00:00"),
        ("* * * * *", "2026-01-01T00:00:59+00:00", "2026-01-01T00:01:00+00:00"),
        ("*/15 * * * *", "2026-01-01T00:46:00+00:00", "2026-01-01T01:00:00+00:00"),
        ("5/20 * * * *", "2026-01-01T00:26:00+00:00", "2026-01-01T00:45:00+00:00"),
        ("0 0 29 2 *", "2026-01-01T00:00:00+00:00", "2028-02-29T00:00:00+00:00"),
        ("0 0 31 2 *", "2026-01-01T00:00:00+00:00", ""),
        ("30 8-10/2 * * MON-fri", "2026-01-02T11:00:00+00:00", "2026-01-05T08:30:00+00:00"),
        ("0 0 13 * 5", "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"),  # either day
        ("0 0 13 * *", "2026-01-01T00:00:00+00:00", "2026-01-13T00:00:00+00:00"),
        ("0 0 */2 * 5", "2026-01-01T12:00:00+00:00", "2026-01-02T00:00:00+00:00"),  # a step is no star
        ("@monthly", "2026-01-15T00:00:00+00:00", "2026-02-01T00:00:00+00:00"),
        ("@weekly", "2026-01-01T00:00:00+00:00", "2026-01-04T00:00:00+00:00"),
        ("@every 90s", "2026-01-01T00:00:00+00:00", "2026-01-01T00:01:30+00:00"),
        ("@every 1h30m", "2026-01-01T00:00:00+00:00", "2026-01-01T01:30:00+00:00"),
        ("0 0 1 JAN,Jul ?", "2026-01-02T00:00:00+00:00", "2026-07-01T00:00:00+00:00"),
    ],
)
def test_next_time(text: str, start: str, expected: str) -> None:
    assert after(text, start) == expected


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        # 8 March 2026: 02:00 -> 03:00. What the clock skips does not come that day.
        ("30 2 * * *", "2026-03-07T12:00:00-05:00", "2026-03-09T02:30:00-04:00"),
        ("0 * * * *", "2026-03-08T01:00:00-05:00", "2026-03-08T03:00:00-04:00"),
        # 1 November 2026: 02:00 -> 01:00. What it repeats comes twice.
        ("30 1 * * *", "2026-10-31T12:00:00-04:00", "2026-11-01T01:30:00-04:00"),
        ("30 1 * * *", "2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00"),
        ("30 1 * * *", "2026-11-01T01:30:00-05:00", "2026-11-02T01:30:00-05:00"),
    ],
)
def test_daylight_saving(text: str, start: str, expected: str) -> None:
    assert after(text, start, NEW_YORK) == expected


ZONES = [
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/Havana",
]
NUMBER = {"minute": (0, 59), "hour": (0, 23)}


def part(low: int, high: int) -> st.SearchStrategy[str]:
    one = st.integers(low, high)
    spans = st.tuples(one, one).map(lambda pair: f"{min(pair)}-{max(pair)}")
    steps = st.tuples(st.one_of(st.just("*"), spans, one.map(str)), st.integers(1, high))
    item = st.one_of(st.just("*"), one.map(str), spans, steps.map(lambda s: f"{s[0]}/{s[1]}"))
    return st.lists(item, min_size=1, max_size=2).map(",".join)


def matching(fields: cron.Schedule, at: float, zone: dt.tzinfo) -> bool:
    assert isinstance(fields, cron.Fields)
    local = dt.datetime.fromtimestamp(at, zone)
    return fields.matches_date(local.date()) and local.hour in fields.hours and local.minute in fields.minutes


@settings(max_examples=150, deadline=None)
@given(
    minute=part(0, 59),
    hour=part(0, 23),
    weekday=part(0, 6),
    zone=st.sampled_from(ZONES),
    day=st.sampled_from(["2026-03-07", "2026-03-28", "2026-04-04", "2026-10-03", "2026-10-31", "2026-06-15"]),
    offset=st.integers(0, 86400),
)
def test_the_next_time_is_the_first_matching_minute(
    minute: str, hour: str, weekday: str, zone: str, day: str, offset: int
) -> None:
    clock, fields = zoneinfo.ZoneInfo(zone), cron.parse(f"{minute} {hour} * * {weekday}")
    start = dt.datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp() + offset
    horizon = int(start // 60 + 1 + 2 * 24 * 60)
    minutes = (number * 60.0 for number in range(int(start // 60) + 1, horizon))
    expected = next((at for at in minutes if matching(fields, at, clock)), None)
    found = fields.next_after(start, clock)
    if expected is None:
        assert found is None or found >= horizon * 60
    else:
        assert found == expected


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 7", "5-1 * * * *",
     "*/0 * * * *", "a * * * *", "@reboot", "@every", "@every 5", "@every 5x", "1-2-3 * * * *", "² * * * *"],
)  # fmt: skip
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(cron.BadSchedule):
        cron.parse(text)


# -- plans ---------------------------------------------------------------------------------------------------


def cronjob(schedule: str = "*/5 * * * *", **spec: Any) -> Object:
    return {
        "metadata": make.meta("tick", generation=1),
        "spec": {
            "schedule": schedule,
            "concurrencyPolicy": "Allow",
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"app": "tick"}}, "spec": {"template": make.TEMPLATE}},
            **spec,
        },
        "status": {},
    }


CREATED = o.parse_time(make.START)


@pytest.mark.parametrize(
    ("schedule", "spec", "last", "now", "at", "many"),
    [
        ("*/5 * * * *", {}, None, 299, None, False),
        ("*/5 * * * *", {}, None, 300, 300, False),
        ("*/5 * * * *", {}, None, 1000, 900, False),
        ("*/5 * * * *", {}, 900, 1000, None, False),
        ("*/5 * * * *", {}, None, 300 * 101.5, 300 * 101, True),
        ("*/5 * * * *", {"startingDeadlineSeconds": 400}, None, 300 * 101.5, 300 * 101, False),
        ("*/5 * * * *", {"startingDeadlineSeconds": 60}, None, 380, None, False),
        ("0 0 * * 1,2", {}, None, 86400 * 42, 86400 * 40, False),
        ("@every 7s", {}, None, 30, 28, False),
    ],
)
def test_what_is_due(
    schedule: str, spec: Object, last: float | None, now: float, at: float | None, many: bool
) -> None:
    cj = cronjob(schedule, **spec)
    status = {} if last is None else {"lastScheduleTime": o.format_time(CREATED + last)}
    due = cp.compute_due(cj, status, cron.parse(schedule), dt.UTC, CREATED + now)
    assert (due.at, due.many) == (None if at is None else CREATED + at, many)


@settings(deadline=None)
@given(minute=part(0, 59), hour=part(0, 23), ago=st.integers(0, 10 * 86400), zone=st.sampled_from(ZONES))
def test_the_latest_missed_time_is_found_without_counting(
    minute: str, hour: str, ago: int, zone: str
) -> None:
    clock, fields = zoneinfo.ZoneInfo(zone), cron.parse(f"{minute} {hour} * * *")
    now = CREATED + ago
    due = cp.compute_due(cronjob(), {}, fields, clock, now)
    back = (at * 60.0 for at in range(int(now // 60), int(CREATED // 60), -1))
    assert due.at == next((at for at in back if matching(fields, at, clock)), None)


def test_the_job_is_named_by_its_minute_and_says_its_time_in_its_zone() -> None:
    cj = cronjob()
    job = cp.build_job(cj, CREATED + 300, zoneinfo.ZoneInfo("Europe/Berlin"))
    assert job["metadata"]["name"] == f"tick-{int(CREATED + 300) // 60}"
    assert job["metadata"]["annotations"] == {cp.SCHEDULED_AT: "2026-01-01T01:05:00+01:00"}
    assert cp.build_job(cj, CREATED, dt.UTC)["metadata"]["annotations"][cp.SCHEDULED_AT] == make.START
    assert job["metadata"]["labels"] == {"app": "tick"}


def test_a_job_whose_run_was_never_noted_is_not_run_again() -> None:
    cj = cronjob(successfulJobsHistoryLimit=0)
    job = {**cp.build_job(cj, CREATED + 300, NEW_YORK), "status": {"conditions": [complete()]}}
    review = cp.compute_review(cj, [job])
    assert review.surplus == (job,)
    assert review.status["lastScheduleTime"] == o.format_time(CREATED + 300)


def complete(stamp: str = make.START, kind: str = "Complete") -> Object:
    return {"type": kind, "status": "True", "lastTransitionTime": stamp}


# -- loops ---------------------------------------------------------------------------------------------------


def finish(world: World, kind: str = "Complete") -> None:
    for job in world.api.all(JOBS):
        if not cp.verdict(job):
            status = {"conditions": [complete(world.now(), kind)], "completionTime": world.now()}
            world.api.put(JOBS, {**job, "status": {"startTime": world.now(), **status}})


def status_of(api: MemoryApi) -> Object:
    found = api.get(CRONJOBS, "tick", "default")
    assert found is not None
    return o.status(found)


def at_now(world: World, **extra: Any) -> Object:
    cj = cronjob(**{"schedule": "* * * * *", **extra})
    cj["metadata"]["creationTimestamp"] = world.now()
    return cj


def test_runs_are_started_noted_and_forgotten_by_the_history_limit() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(CRONJOBS, at_now(world, successfulJobsHistoryLimit=2))
        async with world.running(CronJobController):
            for number in range(1, 5):
                await world.until(lambda: bool(status_of(world.api).get("active")), seconds=70)
                assert len(status_of(world.api)["active"]) == 1
                finish(world)
                await world.until(lambda: not status_of(world.api).get("active"))
                assert world.events.reasons.count("SuccessfulCreate") == number
            await world.settle()
            assert len(world.api.all(JOBS)) == 2
            assert status_of(world.api)["lastSuccessfulTime"]
            assert {"SawCompletedJob", "SuccessfulDelete"} <= set(world.events.reasons)

    run(scenario())


@pytest.mark.parametrize(("policy", "jobs", "active"), [("Allow", 3, 3), ("Forbid", 1, 1), ("Replace", 1, 1)])
def test_concurrency(policy: str, jobs: int, active: int) -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(CRONJOBS, at_now(world, concurrencyPolicy=policy))
        async with world.running(CronJobController):
            await world.pass_time(185, step=1)
            assert len(world.api.all(JOBS)) == jobs
            assert len(status_of(world.api)["active"]) == active
            made = world.events.reasons.count("SuccessfulCreate")
            assert made == (1 if policy == "Forbid" else 3)
            if policy == "Forbid":
                assert "JobAlreadyActive" in world.events.reasons
                finish(world)  # the run that was held up starts as soon as it can
                await world.until(lambda: world.events.reasons.count("SuccessfulCreate") == 2, seconds=5)

    run(scenario())


def test_suspension_bad_schedules_and_lost_jobs() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(CRONJOBS, at_now(world, suspend=True))
        bad = at_now(world, schedule="nonsense")
        world.api.put(CRONJOBS, {**bad, "metadata": {**bad["metadata"], "name": "bad", "uid": "b"}})
        zone = at_now(world, timeZone="Mars/Olympus")
        world.api.put(CRONJOBS, {**zone, "metadata": {**zone["metadata"], "name": "zone", "uid": "z"}})
        async with world.running(CronJobController):
            await world.pass_time(130, step=1)
            assert world.api.all(JOBS) == []
            assert {"UnparseableSchedule", "UnknownTimeZone"} <= set(world.events.reasons)
            world.api.put(CRONJOBS, {**at_now(world)})
            await world.until(lambda: bool(world.api.all(JOBS)), seconds=70)
            await world.settle()
            world.api.drop(JOBS, o.name(world.api.all(JOBS)[0]), "default")
            await world.until(lambda: "MissingJob" in world.events.reasons, seconds=70)

    run(scenario())


def test_finished_jobs_expire() -> None:
    job: Object = {"metadata": make.meta("j"), "spec": {"ttlSecondsAfterFinished": 30}, "status": {}}
    assert ttlafterfinished.seconds_left(job, CREATED) is None
    ended = {**job, "status": {"conditions": [complete(kind="Failed")]}}
    assert ttlafterfinished.seconds_left(ended, CREATED + 10) == 20
    assert ttlafterfinished.seconds_left({**ended, "spec": {}}, CREATED) is None

    async def scenario() -> None:
        world = World()
        conditions = {"conditions": [complete(world.now())]}
        world.api.put(JOBS, {**job, "status": conditions})
        async with world.running(TTLAfterFinishedController):
            await world.pass_time(29, step=1)
            assert not o.is_terminating(world.api.all(JOBS)[0])
            await world.pass_time(3, step=1)
            assert o.finalizers(world.api.all(JOBS)[0]) == ["foregroundDeletion"]

    run(scenario())
