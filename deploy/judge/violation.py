"""A broken promise, told in as few words and requests as prove it."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.judge.history import Call
from deploy.judge.model import Answer, Delete, Get, KeyValue, Op, Put, Request, Response


@dataclass(frozen=True, slots=True)
class Violation:
    """`rule` is the promise, `what` how it was broken, `calls` the requests that contradict each other."""

    rule: str
    what: str
    calls: tuple[Call, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.rule}: {self.what}", *(f"    {say_call(call)}" for call in self.calls)])


def say_call(call: Call) -> str:
    """One line: who, when, what, and what came back."""
    until = "..." if call.returned is None else f"{call.returned:.6f}"
    outcome = "outcome unknown"
    if call.refused:
        outcome = f"refused ({call.refused})"
    elif call.response is not None:
        outcome = say_response(call.response)
    return f"[{call.invoked:.6f} .. {until}] {call.client}: {say_request(call.request)} -> {outcome}"


def say_request(request: Request) -> str:
    """A request in etcdctl's spirit."""
    mode = " (serializable)" if request.serializable else ""
    success = "; ".join(_op(op) for op in request.success)
    if not request.compares and not request.failure:
        return success + mode
    conditions = " and ".join(
        f"{one.target}({one.key}) {one.relation} {one.operand}" for one in request.compares
    )
    failure = "; ".join(_op(op) for op in request.failure)
    return f"if {conditions} then {{{success}}} else {{{failure}}}{mode}"


def say_response(response: Response) -> str:
    """Revision and answers."""
    branch = "" if response.succeeded else " condition false"
    return (
        f"revision {response.revision}{branch} [{'; '.join(_answer(answer) for answer in response.answers)}]"
    )


def _op(op: Op) -> str:
    if isinstance(op, Put):
        return f"put {op.key}={op.value}" + (f" with lease {op.lease:x}" if op.lease else "")
    if isinstance(op, Get):
        return f"get {_range(op.key, op.end)}" + (f" at {op.revision}" if op.revision else "")
    if isinstance(op, Delete):
        return f"delete {_range(op.key, op.end)}"
    return f"revoke lease {op.lease:x}"


def _range(key: str, end: str) -> str:
    return f"[{key}, {end!r})" if end else key


def _answer(answer: Answer) -> str:
    if isinstance(answer, tuple):
        return ", ".join(say_value(found) for found in answer) or "nothing"
    return "done" if answer is None else f"{answer} deleted"


def say_value(found: KeyValue | None) -> str:
    """A key as it stands, with what is known of it."""
    if found is None:
        return "nothing"
    known = (("created", found.create), ("modified", found.mod), ("version", found.version))
    details = " ".join(f"{name} {value}" for name, value in known if value is not None)
    return f"{found.key}={found.value}" + (f" ({details})" if details else "")
