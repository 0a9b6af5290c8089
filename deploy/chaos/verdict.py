"""Did everything hold that the scenario says must hold? Pure: a run in, findings out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deploy.chaos.counters import longest_gap, lost_writes, stale_reads, watch_violations
from deploy.chaos.record import Run, Strike
from deploy.chaos.schema import ALWAYS, ASKED
from deploy.judge.verdict import judge
from deploy.judge.violation import Violation


@dataclass(frozen=True)
class Finding:
    """One thing that must hold, and every way in which it did not."""

    check: str
    meaning: str
    violations: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.violations


@dataclass(frozen=True)
class Back:
    """How long (seconds) after the last fault each part worked again; None: it did not."""

    parts: Mapping[str, float | None]

    @property
    def all(self) -> float | None:
        times = list(self.parts.values())
        return None if None in times else max(time for time in times if time is not None)


@dataclass(frozen=True)
class Verdict:
    """The judgement over one run."""

    findings: tuple[Finding, ...]
    back: Back
    gap: float  # longest time without an acknowledged write to the store, from the first fault on

    @property
    def violations(self) -> int:
        return sum(len(finding.violations) for finding in self.findings)


def back(run: Run, after: float) -> Back:
    """When each part worked again, counted from `after`. A request counts if it was made after that."""
    store = (call.returned for call in run.store_writes() if call.invoked >= after)
    api = (seen.at for seen in run.counters.writes if seen.began >= after)
    whole = (look.at for look in run.service.looks if look.at >= after and run.is_whole(look))
    answers = [
        min(
            (at for at, host, answered in run.service.answers if host == worker and answered and at >= after),
            default=None,
        )
        for worker in run.workers
    ]
    times = {
        "store writes": min((at for at in store if at is not None), default=None),
        "API writes": min(api, default=None),
        "members agree": _agreed(run, after),
        "Deployment whole": min(whole, default=None),
        "Service answers": None if None in answers else max((at for at in answers if at), default=after),
    }
    return Back({name: None if at is None else max(0.0, at - after) for name, at in times.items()})


def _agreed(run: Run, after: float) -> float | None:
    """The first moment at which the last word of every member is that one of them leads, in one term."""
    last: dict[str, tuple[int, int]] = {}
    for sample in sorted(run.samples, key=lambda sample: sample.at):
        if sample.at < after:
            continue
        last[sample.host] = (sample.role, sample.term)
        roles = sorted(role for role, _ in last.values())
        one_leads = len(last) == len(run.members) and roles == [0] * (len(last) - 1) + [1]
        if one_leads and len({term for _, term in last.values()}) == 1:
            return sample.at
    return None


def _acknowledged(run: Run, wrong: list[Violation]) -> list[str]:
    """Through the API: what is there at the end. In the store: every acknowledged write is in its log."""
    found = [f"API {each.key}: {each.what}" for each in lost_writes(run.counters, run.stored)]
    logged = {(event.revision, event.key) for event in run.store.log}
    for call in run.store_writes():
        assert call.response is not None
        if not call.response.succeeded:
            continue
        keys = [getattr(op, "key", "") for op in call.request.success]
        missing = [key for key in keys if (call.response.revision, key) not in logged]
        found += [f"store {key}: acknowledged at revision {call.response.revision}, gone" for key in missing]
    return found


def _is_about_watches(violation: Violation) -> bool:
    return "watch" in violation.rule


def _linearizable(run: Run, wrong: list[Violation]) -> list[str]:
    found = [str(violation) for violation in wrong if not _is_about_watches(violation)]
    return found + [f"API {each.key}: {each.what}" for each in stale_reads(run.counters)]


def _watches(run: Run, wrong: list[Violation]) -> list[str]:
    found = [str(violation) for violation in wrong if _is_about_watches(violation)]
    return found + [
        f"API {each.key}: {each.what}" for each in watch_violations(run.counters, run.counters.watched)
    ]


def _bound_once(run: Run, wrong: list[Violation]) -> list[str]:
    nodes: dict[str, list[str]] = {}
    for _, uid, node in sorted(run.bindings):
        seen = nodes.setdefault(uid, [])
        if node not in seen:
            seen.append(node)
    return [f"pod {uid}: bound to {', then '.join(seen)}" for uid, seen in nodes.items() if len(seen) > 1]


def _recovered(run: Run, wrong: list[Violation]) -> list[str]:
    found = [f"{strike}: {strike.error}" for strike in run.strikes if strike.error]
    found += [run.broken] if run.broken else []
    found += [f"not back: {run.lacking}"] if run.lacking else []
    missing = [name for name, time in back(run, run.healed).parts.items() if time is None]
    return found + ([f"after the last fault: not seen: {', '.join(missing)}"] if missing else [])


def _writes_continue(run: Run, wrong: list[Violation]) -> list[str]:
    return [
        f"{strike}: no write was acknowledged in {strike.ended - strike.began:.1f} s"
        for strike in _windows(run)
        if not any(_inside(strike, call.invoked, call.returned) for call in run.store_writes())
    ]


def _no_quorum_no_write(run: Run, wrong: list[Violation]) -> list[str]:
    return [
        f"{strike}: {call.client} was acknowledged a write made {call.invoked - strike.began:.2f} s in"
        for strike in _windows(run)
        for call in run.store_writes()
        if _inside(strike, call.invoked, call.returned)
    ]


def _inside(strike: Strike, invoked: float, returned: float | None) -> bool:
    return invoked >= strike.began and returned is not None and returned <= strike.ended


def _windows(run: Run) -> list[Strike]:
    """Strikes that lasted."""
    return [strike for strike in run.strikes if strike.ended > strike.began and not strike.error]


def _service_continues(run: Run, wrong: list[Violation]) -> list[str]:
    found = []
    for strike in _windows(run):
        for worker in (worker for worker in run.workers if worker not in strike.hosts):
            answers = (at for at, host, good in run.service.answers if host == worker and good)
            if not any(strike.began <= at <= strike.ended for at in answers):
                found.append(f"{strike}: no answer of the Service on {worker} meanwhile")
    return found


def _pods_moved(run: Run, wrong: list[Violation]) -> list[str]:
    return [
        f"{strike}: the Deployment did not become whole elsewhere in {strike.ended - strike.began:.0f} s"
        for strike in run.strikes
        if strike.met is False
    ]


def _pods_stay(run: Run, wrong: list[Violation]) -> list[str]:
    whole = [look.nodes for look in run.service.looks if look.nodes is not None and run.is_whole(look)]
    if not whole:
        return ["the Deployment was never whole"]
    gone = sorted(set(whole[0] or ()) - set(whole[-1] or ()))
    return [f"pod {uid} was replaced" for uid in gone]


CHECKS: Mapping[str, Callable[[Run, list[Violation]], list[str]]] = {
    "acknowledged": _acknowledged,
    "linearizable": _linearizable,
    "watches": _watches,
    "bound-once": _bound_once,
    "recovered": _recovered,
    "writes-continue": _writes_continue,
    "no-quorum-no-write": _no_quorum_no_write,
    "service-continues": _service_continues,
    "pods-moved": _pods_moved,
    "pods-stay": _pods_stay,
}


def decide(run: Run) -> Verdict:
    """Check everything that must hold."""
    wrong = judge(run.store)
    meanings = {**ALWAYS, **ASKED}
    findings = tuple(
        Finding(check, meanings[check], tuple(CHECKS[check](run, wrong))) for check in run.scenario.checks
    )
    first = min((strike.asked for strike in run.strikes), default=run.start)
    gap = longest_gap(run.store_acknowledged(), first, max(run.end, first))
    return Verdict(findings, back(run, run.healed), gap)
