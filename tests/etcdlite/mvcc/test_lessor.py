"""Leases on a clock of the test's own."""

from __future__ import annotations

import pytest

from etcdlite.lease.lessor import MAX_TTL, Lessor
from etcdlite.mvcc.errors import LeaseExists, LeaseNotFound, LeaseTTLTooLarge


def test_grant_renew_expire() -> None:
    lessor = Lessor(minimum_ttl=2)
    lessor.grant(1, 10, now=100.0, index=1)
    assert lessor.get(1).remaining(104.0) == 6
    assert lessor.expired(109.9) == []
    lessor.renew(1, now=109.9, index=2)
    assert lessor.get(1).renewed == 2
    assert lessor.expired(119.8) == []
    assert lessor.expired(119.9) == [1]
    assert lessor.get(1).remaining(200.0) == 0


def test_refusals() -> None:
    lessor = Lessor(minimum_ttl=2)
    assert lessor.grant(1, 1, now=0.0, index=1).ttl == 2, "raised to the minimum"
    with pytest.raises(LeaseExists):
        lessor.grant(1, 10, now=0.0, index=2)
    with pytest.raises(LeaseTTLTooLarge):
        lessor.grant(2, MAX_TTL + 1, now=0.0, index=2)
    for act in (lessor.revoke, lessor.get, lambda id: lessor.renew(id, 0.0, 3)):
        with pytest.raises(LeaseNotFound):
            act(2)
    assert lessor.ids() == [1]


def test_keys_follow_their_latest_lease() -> None:
    lessor = Lessor(minimum_ttl=2)
    for id in (1, 2):
        lessor.grant(id, 10, now=0.0, index=id)
    for key in (b"b", b"a", b"c"):
        lessor.attach(1, key)
    lessor.release(b"c")
    lessor.release(b"b")
    lessor.attach(2, b"b")
    assert lessor.revoke(1) == [b"a"]
    assert lessor.revoke(2) == [b"b"]
    lessor.release(b"b")  # its lease is gone already
    lessor.attach(1, b"z")  # restored from a key whose lease was revoked
    assert len(lessor) == 0


def test_a_new_leader_gives_everyone_their_time_again() -> None:
    lessor = Lessor(minimum_ttl=2)
    lessor.restore([(1, 10, 1), (2, 20, 2)], now=0.0)
    lessor.promote(now=50.0, extend=1.0)
    assert lessor.expired(60.9) == []
    assert lessor.expired(61.0) == [1]
    assert lessor.ids() == [1, 2]
    assert lessor.expired(1000.0) == [1, 2], "the oldest first"
