"""A run in which everything held, to be spoilt by tests one thing at a time."""

from __future__ import annotations

from deploy.chaos.counters import Counters, Seen
from deploy.chaos.load import service
from deploy.chaos.record import Run, Sample, Strike
from deploy.chaos.schema import ASKED, Scenario, Step
from deploy.judge.history import Batch, Call, Event, History, Watch
from deploy.judge.model import Get, KeyValue, Put, Request, Response

MEMBERS = ("c0", "c1", "c2")
WORKERS = ("w0", "w1")
SECONDS = range(30)
BASE = 100


def put(second: int, *, client: str = "a") -> Call:
    """A put made at `second`, acknowledged a tenth later, at revision BASE + second + 1."""
    request = Request((Put("k", f"v{second}"),))
    response = Response(BASE + second + 1, (None,))
    return Call(client=client, request=request, invoked=second, returned=second + 0.1, response=response)


def value(second: int) -> KeyValue:
    return KeyValue("k", f"v{second}", BASE + 1, BASE + second + 1, second + 1, 0)


def store() -> History:
    """A put every second, the last value read at the end, a watch that saw it all."""
    events = tuple(Event(BASE + second + 1, "k", value(second)) for second in SECONDS)
    last = SECONDS[-1]
    read = Call(
        client="b",
        request=Request((Get("k"),)),
        invoked=last + 0.5,
        returned=last + 0.6,
        response=Response(BASE + last + 1, ((value(last),),)),
    )
    batches = tuple(Batch(event.revision - BASE, event.revision, (event,)) for event in events)
    final = BASE + last + 1
    watch = Watch(name="watch", key="k", end="", start=BASE + 1, batches=batches, complete=final)
    calls = [*(put(second) for second in SECONDS), read]
    return History(calls=calls, watches=[watch], log=list(events), base=BASE, final=final, whole=False)


def counters() -> Counters:
    made = Counters()
    for second in SECONDS:
        made.acknowledge("w0-k0", second, float(second), second + 0.2)
        made.reads.append(Seen("w0-k0", second, second + 0.3, second + 0.4))
        made.watched.append(("w0-k0", second))
    return made


def seen() -> service.Seen:
    nodes = {"p0": "w0", "p1": "w1", "p2": "w0"}
    return service.Seen(
        looks=[service.Look(float(second), 3, dict(nodes)) for second in SECONDS],
        answers=[(float(second), worker, True) for second in SECONDS for worker in WORKERS],
    )


def good(*, expect: tuple[str, ...] = tuple(ASKED)) -> Run:
    """A fault from second 5 to second 10, in a run of 30 seconds that notices nothing."""
    step = Step(5.0, "partition", "leader", 5.0)
    # Both cannot be asked for at once: what holds without a quorum is tested on its own.
    asked = tuple(name for name in expect if name != "no-quorum-no-write")
    return Run(
        scenario=Scenario("good", "Good", "It is.", 20.0, (step,), asked),
        seed=7,
        start=0.5,
        end=29.5,
        strikes=[Strike(0, "partition", ("c0",), 4.9, 5.0, 10.0, met=None)],
        counters=counters(),
        stored={"w0-k0": SECONDS[-1]},
        store=store(),
        samples=[
            Sample(float(second), host, int(host == "c1"), 3, second)
            for second in SECONDS
            for host in MEMBERS
        ],
        bindings=[(101, "p0", "w0"), (102, "p1", "w1"), (103, "p0", "w0")],
        service=seen(),
        members=MEMBERS,
        workers=WORKERS,
    )
