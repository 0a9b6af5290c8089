"""Legacy tokens: which are marked, which go, which stay whatever their age."""

from __future__ import annotations

from typing import Any

import pytest

from controllers import legacytokens as lt
from controllers import objects as o
from controllers.accounttokens import ACCOUNT, ACCOUNT_UID, TYPE
from controllers.legacytokens import Verdict
from tests.controllers import make
from tests.controllers.memoryapi import Object

DAY = 24 * 3600.0
NOW = o.parse_time(make.START) + 400 * DAY  # 2027-02-05
PERIOD = 365 * DAY  # since 2026-02-05
ACCOUNT_OBJECT: Object = {"metadata": {"name": "robot", "uid": "u9"}, "secrets": [{"name": "old"}]}


def secret(name: str = "old", *, labels: Object | None = None, **notes: str) -> Object:
    annotations = {ACCOUNT: "robot", ACCOUNT_UID: "u9", **notes}
    return {"metadata": make.meta(name, labels=labels or {}, annotations=annotations), "type": TYPE}


def judged(found: Object, account: Object | None = ACCOUNT_OBJECT, in_use: bool = False) -> Verdict:
    return lt.judge(found, account, in_use, NOW, PERIOD)


def test_one_that_was_never_used_is_marked_and_goes_a_period_later() -> None:
    assert judged(secret()) is Verdict.INVALIDATE
    assert judged(secret(labels={lt.INVALID_SINCE: "2026-02-05"})) is Verdict.KEEP
    assert judged(secret(labels={lt.INVALID_SINCE: "2026-02-04"})) is Verdict.DELETE
    assert judged(secret(labels={lt.INVALID_SINCE: "then"})) is Verdict.INVALIDATE


@pytest.mark.parametrize(
    ("used", "verdict"),
    [
        ("2026-02-04", Verdict.INVALIDATE),
        ("2026-02-05", Verdict.KEEP),
        ("2027-02-05", Verdict.KEEP),
        ("lately", Verdict.KEEP),  # not to be determined
        ("", Verdict.KEEP),
    ],
)
def test_the_day_of_the_last_use_counts(used: str, verdict: Verdict) -> None:
    assert judged(secret(labels={lt.LAST_USED: used})) is verdict


def test_who_stays_whatever_his_age() -> None:
    assert judged(secret("by-hand")) is Verdict.KEEP  # the account does not name it
    assert judged(secret(), in_use=True) is Verdict.KEEP
    assert judged(secret(), account=None) is Verdict.KEEP
    other = {**ACCOUNT_OBJECT, "metadata": {"name": "robot", "uid": "u8"}}
    assert judged(secret(), other) is Verdict.KEEP
    young = secret()
    young["metadata"]["creationTimestamp"] = o.format_time(NOW - PERIOD + 1)
    assert judged(young) is Verdict.KEEP
    going = secret()
    going["metadata"]["deletionTimestamp"] = make.START
    assert judged(going) is Verdict.KEEP


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({"imagePullSecrets": [{"name": "pull"}]}, {"pull"}),
        ({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}, {"s"}),
        ({"volumes": [{"projected": {"sources": [{"secret": {"name": "p"}}]}}]}, {"p"}),
        ({"volumes": [{"csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}}]}, {"csi"}),
        ({"volumes": [{"iscsi": {"secretRef": {"name": "chap"}}}]}, {"chap"}),
        ({"volumes": [{"azureFile": {"secretName": "az"}}]}, {"az"}),
        ({"containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "e", "key": "k"}}}]}]}, {"e"}),
        ({"initContainers": [{"envFrom": [{"secretRef": {"name": "f"}}]}]}, {"f"}),
        ({"containers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]}]}, set()),
    ],
)  # fmt: skip
def test_every_way_a_pod_names_a_secret(spec: Any, names: set[str]) -> None:
    assert lt.secrets_of({"spec": spec}) == names


def test_nothing_is_judged_before_a_whole_period_was_counted() -> None:
    since = lt.counts_since({"data": {"since": "2026-01-01"}})
    assert since is not None and o.format_time(since) == "2026-01-02T00:00:00Z"
    for unreadable in (None, {}, {"data": {}}, {"data": {"since": "yesterday"}}):
        assert lt.counts_since(unreadable) is None
