"""Seats and queues: dealing, fairness between flows, borrowing; what is classified where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.auth.user import User, service_account
from apiserver.flowcontrol import classify, defaults, levels
from apiserver.flowcontrol.queues import Seats, Ticket, hand_of
from apiserver.rest.info import parse


@given(st.integers(0, 2**64 - 1), st.integers(1, 200), st.integers(1, 20))
def test_a_hand_has_different_queues(flow: int, queues: int, size: int) -> None:
    hand = hand_of(flow, queues, size)
    assert len(set(hand)) == len(hand) == min(queues, size)
    assert all(0 <= at < queues for at in hand)


def test_hands_are_spread_over_all_queues() -> None:
    hands = [hand_of(classify_hash, 16, 4) for classify_hash in range(0, 10**6, 997)]
    assert {at for hand in hands for at in hand} == set(range(16))
    assert len({tuple(sorted(hand)) for hand in hands}) > 300


def test_without_queues_what_does_not_fit_is_turned_away() -> None:
    seats = Seats(1)
    first = seats.arrive(1, 0.0)
    assert first is not None and seats.arrive(2, 0.0) is None
    seats.finish(first, 1.0)
    assert seats.arrive(2, 1.0) is not None


def test_a_full_queue_turns_away() -> None:
    seats = Seats(1, queues=1, hand_size=1, length_limit=2)
    assert seats.arrive(1, 1.0) is not None
    assert [seats.arrive(1, 1.0) is None for _ in range(3)] == [False, False, True]
    assert seats.waiting == 2


def test_one_that_gives_up_leaves_its_queue() -> None:
    seats = Seats(1, queues=1, hand_size=1, length_limit=2)
    running = seats.arrive(1, 1.0)
    waiting = seats.arrive(1, 1.0)
    assert running is not None and waiting is not None
    seats.cancel(waiting)
    seats.finish(running, 2.0)
    assert seats.dispatch(2.0) is None and (seats.executing, seats.waiting) == (0, 0)


def _drain(seats: Seats, running: Ticket, names: dict[Ticket, str], seconds: dict[str, float]) -> list[str]:
    """Who is seated, in order, when every request of a flow takes its time."""
    now, order, current = 1.0, [], running
    while True:
        now += seconds.get(names.get(current, ""), 0.01)
        seats.finish(current, now)
        chosen = seats.dispatch(now)
        if chosen is None:
            return order
        order.append(names[chosen])
        current = chosen


def _flows(queues: int, hand: int) -> tuple[int, int]:
    """Two flows whose hands have nothing in common."""
    flood = 12345
    for mouse in range(10**6):
        if not set(hand_of(mouse, queues, hand)) & set(hand_of(flood, queues, hand)):
            return flood, mouse
    raise AssertionError("unreachable")


def test_a_flood_does_not_keep_others_waiting() -> None:
    seats = Seats(1, queues=16, hand_size=4, length_limit=50)
    flood, mouse = _flows(16, 4)
    running = seats.arrive(flood, 1.0)
    assert running is not None
    names: dict[Ticket, str] = {}
    for _ in range(100):
        ticket = seats.arrive(flood, 1.0)
        assert ticket is not None
        names[ticket] = "flood"
    for _ in range(3):
        ticket = seats.arrive(mouse, 1.0)
        assert ticket is not None
        names[ticket] = "mouse"
    order = _drain(seats, running, names, {})
    assert len(order) == 103
    assert max(at for at, name in enumerate(order) if name == "mouse") < 20


def test_slow_requests_are_charged_for_what_they_took() -> None:
    seats = Seats(1, queues=16, hand_size=1, length_limit=50)
    slow, quick = _flows(16, 1)
    running = seats.arrive(slow, 1.0)
    assert running is not None
    names: dict[Ticket, str] = {}
    for flow, name in ((slow, "slow"), (quick, "quick")):
        for _ in range(20):
            ticket = seats.arrive(flow, 1.0)
            assert ticket is not None
            names[ticket] = name
    order = _drain(seats, running, names, {"slow": 1.0, "quick": 0.1})
    assert order[:11].count("quick") >= 9  # ten quick ones take as long as a slow one


def configured(total: int = 100) -> dict[str, levels.Level]:
    return levels.build(defaults.LEVELS, total, {})


def test_seats_are_shared_by_shares() -> None:
    found = configured(245)  # as many as there are shares
    limits = {name: level.seats.limit for name, level in found.items() if level.seats}
    assert limits["workload-low"] == 100 and limits["leader-election"] == 10 and limits["catch-all"] == 5
    assert found["exempt"].seats is None and found["workload-low"].lendable == 90


def test_idle_seats_are_lent_and_not_twice() -> None:
    found = configured(245)
    borrower, every = found["leader-election"], list(found.values())
    assert borrower.seats is not None
    lendable = sum(level.lendable for level in every if level is not borrower)
    for _ in range(10):
        assert borrower.seats.arrive(1, 1.0) is not None
    taken = 0
    while levels.may_borrow(borrower, every):
        assert borrower.seats.arrive(1, 1.0, borrowed=True) is not None
        taken += 1
    assert taken == lendable


def test_a_level_whose_configuration_did_not_change_keeps_its_queues() -> None:
    before = configured()
    after = levels.build(defaults.LEVELS, 100, before)
    assert all(after[name].seats is before[name].seats for name in before)
    assert levels.build(defaults.LEVELS, 500, before)["system"].seats is not before["system"].seats


USERS = {
    "admin": User("admin", ("system:masters", "system:authenticated")),
    "node": User("system:node:n1", ("system:nodes", "system:authenticated")),
    "scheduler": User("system:kube-scheduler", ("system:authenticated",)),
    "pod": service_account("default", "default"),
    "dns": service_account("kube-system", "coredns"),
    "bob": User("bob", ("system:authenticated",)),
    "nobody": User("system:anonymous", ("system:unauthenticated",)),
    "stranger": User("x", ()),
}
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"


@pytest.mark.parametrize(
    ("user", "method", "path", "schema"),
    [
        ("admin", "GET", "/api/v1/pods", "exempt"),
        ("nobody", "GET", "/readyz", "probes"),
        ("node", "PUT", LEASE, "system-node-high"),
        ("node", "PATCH", "/api/v1/nodes/n1/status", "system-node-high"),
        ("node", "GET", "/api/v1/namespaces/d/pods/p", "system-nodes"),
        ("scheduler", "PUT", LEASE, "system-leader-election"),
        ("scheduler", "GET", "/api/v1/pods", "kube-scheduler"),
        ("dns", "PUT", LEASE, "workload-leader-election"),
        ("dns", "GET", "/api/v1/services", "kube-system-service-accounts"),
        ("pod", "GET", "/api/v1/namespaces/default/pods", "service-accounts"),
        ("bob", "GET", "/api/v1/pods", "global-default"),
        ("nobody", "GET", "/version", "global-default"),
    ],
)
def test_requests_are_classified_as_by_kubernetes(user: str, method: str, path: str, schema: str) -> None:
    names = {item["metadata"]["name"]: "" for item in defaults.LEVELS}
    found = classify.schemas(defaults.SCHEMAS, names)
    info = parse(method, path, b"")
    assert next(one.name for one in found if one.matches(USERS[user], info)) == schema
