"""Types every command of the labs on its host and compares what it prints: `make labs`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.labs.pattern import compare
from deploy.labs.session import Outcome, Session, SessionLost
from deploy.labs.text import GROUPS, WORKSTATION, Command, Lab
from deploy.state import State
from deploy.topology import Topology, TopologyError
from deploy.up import ROOT

TIMEOUT = 180.0
POLL = 0.5
ROUTER = "router"
# The labs' text has the address of deploy/topologies/lab.yaml; a lab elsewhere types its own.
OUTSIDE = "127.0.0.1:6443"


@dataclass(frozen=True)
class Fault:
    """One command that did not do what the lab says."""

    lab: Lab
    command: Command
    host: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.lab.path.name}:{self.command.line}"
        first = self.command.text.strip().partition("\n")[0]
        return f"{where} on {self.host}: {first}\n    {self.reason}"


@dataclass
class Record:
    """How one lab went."""

    lab: Lab
    commands: int = 0
    compared: int = 0
    seconds: float = 0.0
    faults: list[Fault] = field(default_factory=list)


class Terminal:
    """The shells of one reader, one a host, opened when first typed into. `patience` multiplies waits."""

    def __init__(
        self, topology_file: Path, topology: Topology, state: State, *, patience: float = 1.0
    ) -> None:
        self._file, self._topology, self._state = topology_file, topology, state
        self.patience = patience
        self._sessions: dict[str, Session] = {}
        self._home = tempfile.TemporaryDirectory(prefix="hardway-lab-")

    def environment(self) -> dict[str, str]:
        """A reader's: this cluster's state, the commands of this source tree, a home of its own."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "/usr/bin:/bin")])
        kept = {name: os.environ[name] for name in ("LANG", "TERM") if name in os.environ}
        return {
            **kept,
            "PATH": path,
            "HOME": self._home.name,
            "HARDWAY_STATE": str(self._state.root),
            "HARDWAY_TOPOLOGY": str(self._file),
        }

    def hosts(self, where: str) -> Sequence[str]:
        """The hosts that a mark names. Raises TopologyError for one that there is not."""
        if where in (WORKSTATION, ROUTER):
            return (where,)
        if where in GROUPS:
            return [host.name for role in GROUPS[where] for host in self._topology.by_role(role)]
        return tuple(where.split(","))

    def facts(self, host: str) -> Mapping[str, str]:
        """What `<host>` and `<address>` stand for."""
        try:
            return {"host": host, "address": self._topology.host(host).address}
        except TopologyError:
            return {"host": host}

    def localized(self, host: str, text: str) -> str:
        """A text as this lab needs it: on the workstation the balancer may have another port."""
        address, port = self._topology.outside
        return text.replace(OUTSIDE, f"{address}:{port}") if host == WORKSTATION else text

    def type(self, host: str, text: str) -> Outcome:
        """Type commands on a host. Raises SessionLost."""
        session = self._sessions.get(host)
        if session is None:
            session = self._sessions[host] = self._open(host)
        try:
            return session.run(self.localized(host, text), timeout=TIMEOUT * self.patience)
        except SessionLost:
            del self._sessions[host]
            session.abandon()
            raise

    def _open(self, host: str) -> Session:
        shell = ["bash", "--norc", "--noprofile"]
        if host == WORKSTATION:
            return Session(shell, environment=self.environment(), directory=str(ROOT))
        enter = [sys.executable, "-m", "deploy", "exec", host, "--", *shell]
        return Session(enter, environment=self.environment(), directory=str(ROOT))

    def leave(self) -> None:
        """Close every shell, as at the end of a lab."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def close(self) -> None:
        """Close every shell and forget the home."""
        self.leave()
        self._home.cleanup()


def verdict(command: Command, expected: str, outcome: Outcome, facts: Mapping[str, str]) -> str | None:
    """What is wrong with an outcome, or None; `expected` only counts for a command that has output to be
    compared."""
    if outcome.failed and command.expected is None:
        code, _, what = outcome.failed.partition(" ")
        printed = outcome.output.strip().splitlines()
        return f"`{what.strip()}` ended with {code}; it printed {' / '.join(printed[-3:])!r}"
    if command.expected is None:
        return None
    difference = compare(expected, outcome.output, facts)
    return None if difference is None else str(difference)


def perform(terminal: Terminal, command: Command, host: str) -> str | None:
    """Type one command on one host, again and again where the lab says that it takes a while; what is wrong
    with the last outcome, or None."""
    deadline = time.monotonic() + command.within * terminal.patience
    expected = terminal.localized(host, command.expected or "")
    while True:
        try:
            outcome = terminal.type(host, command.text)
        except SessionLost as error:
            return str(error)
        reason = verdict(command, expected, outcome, terminal.facts(host))
        if reason is None or time.monotonic() >= deadline:
            return reason
        time.sleep(POLL)


def faults(terminal: Terminal, lab: Lab, record: Record) -> Iterator[Fault]:
    """Execute a lab; every fault as it is found."""
    for command in lab.commands:
        if command.manual:
            continue
        for host in terminal.hosts(command.where):
            record.commands += 1
            record.compared += command.expected is not None
            reason = perform(terminal, command, host)
            if reason is not None:
                yield Fault(lab, command, host, reason)
    terminal.leave()


def execute(
    terminal: Terminal,
    labs: Iterable[Lab],
    check: Callable[[Lab], Sequence[str]],
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Execute labs one after another, and after each check it as `hardway lab check` does; stop at the first
    lab with a fault, since the next ones stand on it."""
    records: list[Record] = []
    for lab in labs:
        record = Record(lab)
        records.append(record)
        started = time.monotonic()
        for fault in faults(terminal, lab, record):
            record.faults.append(fault)
            say(f"DIFFERENCE {fault}")
            break
        else:
            for sentence in check(lab):
                fault = Fault(
                    lab, Command(0, WORKSTATION, f"hardway lab check {lab.number:02}"), "", sentence
                )
                record.faults.append(fault)
                say(f"DIFFERENCE {fault}")
        record.seconds = time.monotonic() - started
        say(row(record))
        if record.faults:
            break
    return records


def row(record: Record) -> str:
    """One line of the table."""
    lab = record.lab
    return (
        f"{lab.number:02}  {lab.title:<46} {record.commands:>8} {record.compared:>8} "
        f"{len(record.faults):>11} {record.seconds:>7.1f} s"
    )


HEADER = f"    {'lab':<46} {'commands':>8} {'compared':>8} {'differences':>11} {'time':>9}"


def summary(records: Sequence[Record]) -> str:
    """The whole table."""
    totals = (
        f"    {'all':<46} {sum(r.commands for r in records):>8} {sum(r.compared for r in records):>8} "
        f"{sum(len(r.faults) for r in records):>11} {sum(r.seconds for r in records):>7.1f} s"
    )
    return "\n".join([HEADER, *(row(record) for record in records), totals])
