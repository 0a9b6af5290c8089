"""`hardway chaos`: a command for every fault, and those that run scenarios."""

from __future__ import annotations

import argparse
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from componentbase.flags import parse_duration
from deploy.chaos import active, catalogue, schema, targets
from deploy.chaos.catalogue import FAULTS, Entry
from deploy.chaos.lab import Lab
from deploy.state import State
from deploy.status import table
from deploy.topology import Topology

Commands = argparse._SubParsersAction


def add_commands(commands: Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Declare `chaos` and all below it. The caller sets `run` and calls `run(...)` of this module."""
    chaos = commands.add_parser(
        "chaos", help="break the cluster on purpose, and prove that nothing acknowledged is lost"
    )
    chaos.set_defaults(chaos_run=_run, scenarios=[], seed=None, report=None)
    actions = chaos.add_subparsers(metavar="action", help="none: run all scenarios that come with Hardway")
    run_ = actions.add_parser("run", help="run scenarios by name, or from files")
    run_.add_argument("scenarios", nargs="*", metavar="scenario")
    run_.add_argument("--seed", type=int, help="replay with this seed instead of the scenario's own")
    run_.add_argument("--report", type=Path, help="where to write the HTML report")
    run_.set_defaults(chaos_run=_run)
    for name, help_, action in (
        ("list", "all faults with their parameters, all scenarios", _list),
        ("active", "faults that are in force", _active),
    ):
        actions.add_parser(name, help=help_).set_defaults(chaos_run=action)
    undo = actions.add_parser("undo", help="take faults away: by id, or all")
    undo.add_argument("ids", nargs="*", metavar="id")
    undo.set_defaults(chaos_run=_undo)
    for entry in FAULTS.values():
        _fault_command(actions, entry)
    return chaos


def _fault_command(actions: Commands[argparse.ArgumentParser], entry: Entry) -> None:
    parser = actions.add_parser(entry.name, help=entry.summary)
    several = entry.target == catalogue.HOSTS
    form = "host" if entry.target in (catalogue.HOST, catalogue.HOSTS) else "host/unit"
    who = f"{form}, or a selector such as leader"
    if entry.only == "balancer":
        parser.set_defaults(targets=["balancer"])
    else:
        parser.add_argument("targets", nargs="+" if several else 1, metavar="target", help=who)
    parser.add_argument(
        "--for", dest="duration", type=_duration, metavar="TIME", help="undo it after this time, such as 30s"
    )
    parser.add_argument(
        "--detach", action="store_true", help="return at once; it ends by --for or `chaos undo`"
    )
    for parameter in entry.parameters:
        parser.add_argument(
            f"--{parameter.name}",
            dest=f"value_{parameter.name}",
            metavar="|".join(parameter.choices) or parameter.name.upper(),
            help=f"{parameter.help} (default {parameter.default})",
        )
    parser.set_defaults(chaos_run=_inject, fault=entry.name)


def _duration(text: str) -> float:
    seconds = parse_duration(text)
    if seconds <= 0:
        raise argparse.ArgumentTypeError("must be longer than nothing")
    return seconds


def _lab(topology: Topology, state: State, arguments: argparse.Namespace) -> Lab:
    return Lab(topology, state, Path(arguments.topology).absolute())


def run(topology: Topology, state: State, arguments: argparse.Namespace) -> int:
    """Carry out what was asked for; the exit code."""
    return int(arguments.chaos_run(_lab(topology, state, arguments), arguments))


def before_down(topology: Topology, state: State, arguments: argparse.Namespace) -> None:
    """What the cluster must have back before it ends: data that lies on a disk of ours, true certificates."""
    active.end_all(_lab(topology, state, arguments))


def _run(lab: Lab, arguments: argparse.Namespace) -> int:
    # Not above: it brings the API's client with it, which no other command needs.
    from deploy.chaos import campaign

    names: Sequence[str] = arguments.scenarios
    scenarios = [schema.find(name) for name in names] if names else schema.shipped()
    return 0 if campaign.run(lab, scenarios, seed=arguments.seed, report=arguments.report) else 1


def _list(lab: Lab, arguments: argparse.Namespace) -> int:
    rows = []
    for entry in FAULTS.values():
        knobs = " ".join(f"--{each.name} {each.default}" for each in entry.parameters)
        rows.append((entry.name, entry.target, entry.summary, knobs))
    print(table(("FAULT", "STRIKES", "WHAT HAPPENS", "PARAMETERS"), rows))
    print()
    selectors = [(name, meaning) for name, (meaning, _) in targets.SELECTORS.items()]
    print(table(("TARGET", "WHO IT IS WHEN ITS TURN COMES"), selectors))
    print()
    print(table(("SCENARIO", "TITLE"), [(each.name, each.title) for each in schema.shipped()]))
    return 0


def _active(lab: Lab, arguments: argparse.Namespace) -> int:
    now = time.time()
    for record in active.active(lab):
        print(record.say(now))
    return 0


def _undo(lab: Lab, arguments: argparse.Namespace) -> int:
    records = active.active(lab)
    known = {record.id for record in records}
    for unknown in (id_ for id_ in arguments.ids if id_ not in known):
        raise ValueError(f"no fault {unknown!r} is in force (there are {', '.join(sorted(known)) or 'none'})")
    for record in reversed(records):
        if (not arguments.ids or record.id in arguments.ids) and active.undo(lab, record):
            print(f"undone: {record.fault} {', '.join(record.targets)}")
    return 0


class _Ended(Exception):
    """A signal asks this process to end."""


def _on_signal(number: int, frame: FrameType | None) -> None:
    raise _Ended


def _inject(lab: Lab, arguments: argparse.Namespace) -> int:
    """Put a fault in force and, unless detached, stay until it is over: ending this process ends it too."""
    entry = catalogue.entry(arguments.fault)
    given = {name.removeprefix("value_"): value for name, value in vars(arguments).items()}
    params = {each.name: given[each.name] for each in entry.parameters if given[each.name] is not None}
    leaders = targets.needs_leaders(arguments.targets)
    choice = targets.Choice(lab.view(leaders=leaders), random.Random())
    chosen = [target for spec in arguments.targets for target in targets.resolve(spec, choice)]
    where = ", ".join(str(target) for target in chosen)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _on_signal)
    handle: active.Handle | None = None
    try:
        handle = active.inject(
            lab, entry.name, chosen, arguments.duration, detached=arguments.detach, **params
        )
        if arguments.detach or (not entry.lasting and arguments.duration is None):
            print(_said(entry, where, handle))
            return 0
        ends = "until you press Ctrl-C" if arguments.duration is None else f"for {arguments.duration:g} s"
        print(f"{entry.name} {where}: in force {ends}", flush=True)
        if arguments.duration is None:
            signal.pause()
        time.sleep(arguments.duration or 0.0)
    except _Ended:
        pass
    if handle is not None:
        handle.undo()
        print("undone")
    return 0


def _said(entry: Entry, where: str, handle: active.Handle) -> str:
    """What is left to know when the command does not stay."""
    if handle.record.until is None and not entry.lasting:
        return f"{entry.name} {where}: done"
    id_ = handle.record.id
    return f"{id_}: {entry.name} {where} is in force; `hardway chaos undo {id_}` ends it"
