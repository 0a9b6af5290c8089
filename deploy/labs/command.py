"""`hardway lab ...`: prepare, check, list and execute the labs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy import doctor, steps
from deploy.goals import Reporter
from deploy.labs import executor, text
from deploy.labs.check import Check
from deploy.labs.prepare import Prepare
from deploy.labs.text import Lab
from deploy.state import State
from deploy.topology import Topology
from deploy.up import UpError

PREPARE_TIMEOUT = 180.0


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Declare `lab`."""
    lab = commands.add_parser(
        "lab",
        help="the labs of docs/labs: prepare, check or execute them",
        description="`lab 08` does what the labs before 08 do; `lab check 08` says what is wrong with your "
        "work on 08; `lab hosts` raises bare hosts; `lab folder` prints where certificates belong; "
        "`lab run [08 ...]` types every command of the labs; `lab list` names them.",
    )
    lab.add_argument("what", help="NN, check, hosts, folder, run or list")
    lab.add_argument(
        "--patience", type=float, default=1.0, help="for run: multiplies every wait, on a busy machine"
    )
    lab.add_argument("numbers", nargs="*", help="labs: NN, or NN-MM")
    return lab


def _numbers(words: Sequence[str], labs: Sequence[Lab]) -> list[Lab]:
    """The labs that `08` or `01-05` name. Raises ValueError."""
    chosen: list[Lab] = []
    for word in words:
        first, _, last = word.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            raise ValueError(f"lab: {word!r} is not NN or NN-MM")
        found = [lab for lab in labs if int(first) <= lab.number <= int(last or first)]
        if not found:
            raise ValueError(f"lab: there is no lab {word} (there are 01-{len(labs):02})")
        chosen += found
    return chosen


def folder(state: State) -> Path:
    """Where the cluster's keys and certificates are made, for nobody else to read."""
    path = state.root / "pki"
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def prepare(topology: Topology, state: State, lab: Lab) -> int:
    """Do what the labs before this one do; the exit code."""
    report = Reporter()
    with state.lock():
        run = Prepare(topology, state, report, timeout=PREPARE_TIMEOUT, steps=steps.before(lab.number))
        missed = run.run()
    if missed:
        report.missed(missed)
        return 1
    print(f"\nReady for lab {lab.number:02}, {lab.title}: {lab.path}")
    return 0


def raise_hosts(topology: Topology, state: State) -> int:
    """Raise bare hosts; the exit code."""
    with state.lock():
        run = Prepare(topology, state, Reporter(), timeout=PREPARE_TIMEOUT, steps=())
        state.root.mkdir(parents=True, exist_ok=True)
        state.images.mkdir(exist_ok=True)
        images = run.build_images()
        try:
            run.raise_bare(images)
        finally:
            images.basic.work.abandon()
            images.dns.work.abandon()
    return 0


def sentences(topology: Topology, state: State, lab: Lab, topology_file: Path) -> Iterator[str]:
    """What is wrong with the reader's work on a lab: by the bring-up's plan, then by the lab's own checks."""
    if lab.number == 1:
        findings = doctor.examine(topology, state.root, cluster_up=True)
        yield from (f"{one.name}: {one.detail}" for one in findings if not one.ok and one.fatal)
    step = steps.at(lab.number)
    if step is not None:
        check = Check(topology, state, Reporter())
        wrong = list(check.findings(step))
        yield from wrong
        if wrong:
            return
        yield from check.results(step)
    terminal = executor.Terminal(topology_file, topology, state)
    try:
        for command in (command for command in lab.commands if command.check):
            for host in terminal.hosts(command.where):
                reason = executor.perform(terminal, command, host)
                if reason is not None:
                    yield f"{host}: {command.check} ({reason})"
    finally:
        terminal.close()


def check(topology: Topology, state: State, lab: Lab, topology_file: Path) -> int:
    """Say what is wrong with the work on a lab; the exit code."""
    wrong = list(sentences(topology, state, lab, topology_file))
    if not wrong:
        print(f"Lab {lab.number:02}, {lab.title}: everything is as it must be.")
        return 0
    print(wrong[0])
    if len(wrong) > 1:
        print(f"({len(wrong) - 1} more; the first is often the cause. They are:)")
        print("\n".join(f"    {sentence}" for sentence in wrong[1:]))
    return 1


def run_labs(
    topology: Topology, state: State, labs: Sequence[Lab], topology_file: Path, patience: float
) -> int:
    """Execute labs and print the table; the exit code."""
    if labs and labs[0].number > 2 and prepare(topology, state, labs[0]) != 0:
        return 1
    terminal = executor.Terminal(topology_file, topology, state, patience=patience)
    try:
        records = executor.execute(
            terminal, labs, lambda lab: list(sentences(topology, state, lab, topology_file))
        )
    finally:
        terminal.close()
    print("\n" + executor.summary(records))
    left = len(labs) - len(records)
    if left:
        print(f"{left} labs were not executed")
    return 1 if left or any(record.faults for record in records) else 0


def run(topology: Topology, state: State, topology_file: Path, given: argparse.Namespace) -> int:
    """One `hardway lab` command; the exit code."""
    labs = text.load()
    what, words = given.what, given.numbers
    if what == "list":
        print("\n".join(f"{lab.number:02}  {lab.title:<46} {lab.path}" for lab in labs))
        return 0
    if what == "folder":
        print(folder(state))
        return 0
    if what == "hosts":
        return raise_hosts(topology, state)
    if what == "run":
        return run_labs(topology, state, _numbers(words, labs) or labs, topology_file, given.patience)
    chosen = _numbers(words if what == "check" else [what], labs)
    if len(chosen) != 1:
        raise UpError(f"lab {what}: name one lab")
    if what == "check":
        return check(topology, state, chosen[0], topology_file)
    return prepare(topology, state, chosen[0])
