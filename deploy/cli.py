"""The `hardway` command: raise a cluster, look at it, reach into its hosts, end it."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from componentbase import linux
from deploy import doctor, down, etcdtools, namespaces, packages, rootless, runtimes, topology, why
from deploy.chaos import commands as chaos
from deploy.control import PROGRAMS, Control, HostDown, Refused
from deploy.faults.fault import FaultError
from deploy.goals import Reporter, tail
from deploy.hosts import HostError
from deploy.labs import command as labs
from deploy.network import NetworkError
from deploy.rootless import RootlessError
from deploy.runtimes import Choice
from deploy.state import Busy, State
from deploy.status import Looker
from deploy.topology import TOPOLOGIES, Topology, TopologyError
from deploy.units import unit_names
from deploy.up import DEFAULT_TIMEOUT, ROOT, Raise, UpError
from pki import layout
from pki.ca import PKIError, utc_now
from pki.layout import Inventory
from pki.status import render, rows

ROUTER = "router"
STOP_POLL = 0.05
EXPECTED = (
    TopologyError,
    PKIError,
    UpError,
    HostError,
    NetworkError,
    HostDown,
    Refused,
    Busy,
    FaultError,
    RootlessError,
    OSError,
    ValueError,
)


@dataclass(frozen=True)
class Context:
    """What every command works on."""

    topology: Topology
    state: State
    arguments: argparse.Namespace
    chosen: Choice

    def control(self) -> Control:
        """The command line into the host that was named."""
        host = self.topology.host(self.arguments.host)
        return Control(host.name, self.state.socket(host.name))


def _up(context: Context) -> int:
    report = Reporter()
    if context.chosen.why:
        report.step(f"runtime: {context.chosen.name}, since {context.chosen.why}")
    with context.state.lock():
        run = Raise(context.topology, context.state, report, timeout=context.arguments.timeout)
        missed = run.run()
    for sentence, nodes in run.not_isolated().items():
        print(f"NOT ISOLATED on {', '.join(nodes)}: {sentence}")
    kubeconfig = context.state.root / "pki" / "admin.kubeconfig"
    if missed:
        report.missed(missed)
        print(f"\n{len(missed)} goals were not reached in {context.arguments.timeout:.0f} s.")
        print("`hardway status` shows more.")
        return 1
    print(f"\nThe cluster stands after {report.elapsed:.1f} s. Use it:\n")
    for command in (
        f"export KUBECONFIG={kubeconfig}",
        "kubectl get nodes -o wide",
        "kubectl create deployment web --image=busybox:1.35 -- httpd -f -p 8080",
        "hardway exec controller-0 -- " + " ".join(etcdctl("member", "list")),
    ):
        print(f"    {command}")
    return 0


def etcdctl(*arguments: str) -> list[str]:
    """A command line of etcdctl that works on a controller."""
    flags = ["--cacert=/etc/etcd/ca.pem", "--cert=/etc/etcd/peer.pem", "--key=/etc/etcd/peer-key.pem"]
    return ["etcdctl", *flags, *arguments]


def _down(context: Context) -> int:
    chaos.before_down(context.topology, context.state, context.arguments)
    with context.state.lock():
        ended = down.end(context.state, context.topology)
    for name in ended.leftovers:
        print(f"could not remove cgroup {name}", file=sys.stderr)
    print(f"ended {len(ended.hosts)} hosts" if ended.hosts else "the cluster was down already")
    return 1 if ended.leftovers else 0


def _clean(context: Context) -> int:
    code = _down(context)
    with context.state.lock():
        down.clean(context.state)
        context.state.forget()
    print(f"removed {context.state.root}")
    return code


def _status(context: Context) -> int:
    print(Looker(context.topology, context.state).report())
    return 0


def _why(context: Context) -> int:
    print(why.ask(context.topology, context.state, context.arguments.pod))
    return 0


def _doctor(context: Context) -> int:
    host = context.topology.by_role("balancer")[0]
    up = Control(host.name, context.state.socket(host.name)).is_up()
    findings = list(doctor.examine(context.topology, context.state.root, cluster_up=up))
    print(doctor.render(findings))
    return 1 if any(not finding.ok and finding.fatal for finding in findings) else 0


def _install_packages(context: Context) -> int:
    absent = packages.missing(tests=context.arguments.tests)
    if not absent:
        print("every package is present")
        return 0
    if os.geteuid() != 0:
        print("not root; run: " + shlex.join(packages.install_command(absent)), file=sys.stderr)
        return 1
    return packages.install(absent)


def _pki_status(context: Context) -> int:
    inventory = Inventory(context.state.root / "pki", context.topology.cluster_names())
    found, now = rows(inventory, utc_now()), utc_now()
    print(render(found, now))
    return 1 if any(row.problem for row in found) else 0


def _pki_generate(context: Context) -> int:
    inventory = layout.generate(context.state.root, context.topology.cluster_names())
    print("\n".join(inventory.changed) or "nothing to do")
    return 0


def _kubeconfig(context: Context) -> int:
    print(context.state.root / "pki" / "admin.kubeconfig")
    return 0


def _smoke(context: Context) -> int:
    from deploy.smoke.runner import smoke

    arguments = context.arguments
    held = smoke(
        context.state,
        context.topology,
        context.state.root / "pki" / "admin.kubeconfig",
        topology_file=arguments.topology,
        client_name=arguments.client,
    )
    return 0 if held else 1


def _lab(context: Context) -> int:
    if context.topology.runtime == "embedded":
        raise ValueError("lab: the labs install containerd by hand, so they need root and its packages")
    return labs.run(context.topology, context.state, context.arguments.topology, context.arguments)


def _console(context: Context) -> int:
    from deploy.chaos.lab import Lab
    from deploy.console.catalogue import Catalogue
    from deploy.console.command import console

    lab = Lab(context.topology, context.state, context.arguments.topology)
    return console(context.topology, context.state, Catalogue(lab), context.arguments.port)


def _trace(context: Context) -> int:
    from deploy.api import APIError, Unreachable
    from deploy.trace import TraceError, trace

    source, target = context.arguments.ends
    try:
        return trace(context.state, context.topology, source, target)
    except (TraceError, Unreachable, APIError) as error:
        print(f"hardway: trace: {error}", file=sys.stderr)
        return 1


def _enter(context: Context, command: Sequence[str]) -> int:
    """Run a command inside a host (`router`: the outer network namespace); return its exit code."""
    if context.arguments.host == ROUTER:
        descriptor = os.open(context.state.router_netns, os.O_RDONLY | os.O_CLOEXEC)
        linux.setns(descriptor, linux.CLONE_NEWNET)
        os.close(descriptor)
    else:
        namespaces.enter(context.control().pid())
        os.chdir("/")
    os.environ["PATH"] = os.pathsep.join([PROGRAMS, str(Path(sys.executable).parent), os.environ["PATH"]])
    pid = os.fork()
    if pid == 0:
        try:
            os.execvp(command[0], list(command))
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr)
            os._exit(127)
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF


def _exec(context: Context) -> int:
    command = context.arguments.command
    command = command[1:] if command[:1] == ["--"] else command
    if not command:
        raise ValueError("exec: a command is needed after `--`")
    return _enter(context, command)


def _shell(context: Context) -> int:
    os.environ["PS1"] = f"[{context.arguments.host} \\W]\\$ "
    return _enter(
        context,
        [
            os.environ.get("SHELL", "/bin/sh"),
            *(["--norc"] if os.environ.get("SHELL", "").endswith("bash") else []),
        ],
    )


def _logs(context: Context) -> int:
    host = context.topology.host(context.arguments.host)
    path = context.state.log(host.name, context.arguments.unit)
    if context.arguments.follow:
        os.execvp("tail", ["tail", "-n", str(context.arguments.lines), "-F", str(path)])
    if not path.exists():
        known = ", ".join(("supervisor", *unit_names(context.topology, host)))
        raise ValueError(f"no log {path} (units of {host.name}: {known})")
    print("\n".join(tail(path, context.arguments.lines)))
    return 0


def signal_number(text: str) -> int:
    """TERM, SIGTERM, 15."""
    if text.isdigit():
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    try:
        return int(signal.Signals[name])
    except KeyError:
        raise ValueError(f"no signal is called {text!r}") from None


def _kill(context: Context) -> int:
    number = signal_number(context.arguments.signal)
    context.control().call("signal", unit=context.arguments.unit, signal=number)
    return 0


def _wait_stopped(control: Control, unit: str, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while control.call("status")["units"][unit]["state"] != "stopped":
        if time.monotonic() > deadline:
            raise UpError(f"{control.host}: {unit} did not stop in {timeout:.0f} s")
        time.sleep(STOP_POLL)


def _stop(context: Context) -> int:
    control, unit = context.control(), context.arguments.unit
    control.call("stop", unit=unit, signal=signal_number(context.arguments.signal))
    _wait_stopped(control, unit)
    return 0


def _start(context: Context) -> int:
    context.control().call("start", unit=context.arguments.unit, fresh=context.arguments.fresh)
    return 0


def _restart(context: Context) -> int:
    return _stop(context) or _start(context)


Command = Callable[[Context], int]


def _unit_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help_: str, run: Command
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_)
    parser.add_argument("host")
    parser.add_argument("unit")
    parser.set_defaults(run=run)
    return parser


def _simple(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], table: Sequence[tuple[str, str, Command]]
) -> None:
    for name, help_, run in table:
        commands.add_parser(name, help=help_).set_defaults(run=run)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main_parser = argparse.ArgumentParser(prog="hardway", description=__doc__)
    main_parser.add_argument(
        "--topology",
        type=Path,
        default=Path(os.environ.get("HARDWAY_TOPOLOGY", TOPOLOGIES / "lab.yaml")),
        help="YAML file of the cluster (default: $HARDWAY_TOPOLOGY, or deploy/topologies/lab.yaml)",
    )
    main_parser.add_argument(
        "--state", type=Path, help="state directory (default: .state/<name>, or $HARDWAY_STATE)"
    )
    commands = main_parser.add_subparsers(required=True, metavar="command")
    up = commands.add_parser("up", help="raise the cluster, or what of it is down")
    up.add_argument(
        "--timeout", type=float, default=DEFAULT_TIMEOUT, help="seconds until up gives up waiting"
    )
    up.set_defaults(run=_up)
    _simple(
        commands,
        (
            ("down", "end the cluster; its state stays", _down),
            ("clean", "end the cluster and remove its state", _clean),
            ("status", "members, apiservers, nodes, pods, units", _status),
            ("doctor", "what this machine lacks, and what helps", _doctor),
            ("kubeconfig", "print the path of the administrator's kubeconfig", _kubeconfig),
        ),
    )
    install = commands.add_parser("install-packages", help="install the system packages that are absent")
    install.add_argument("--tests", action="store_true", help="also those that only the tests need")
    install.set_defaults(run=_install_packages)
    smoke = commands.add_parser("smoke", help="the classic checklist, from outside, on the running cluster")
    smoke.add_argument(
        "--client", choices=("kubectl", "curl"), default="", help="default: kubectl if installed"
    )
    smoke.set_defaults(run=_smoke)
    chaos.add_commands(commands).set_defaults(
        run=lambda context: chaos.run(context.topology, context.state, context.arguments)
    )
    pki = commands.add_parser("pki", help="certificates").add_subparsers(required=True, metavar="command")
    _simple(
        pki,
        (
            ("status", "expiry of every certificate", _pki_status),
            ("generate", "make or renew", _pki_generate),
        ),
    )
    labs.add_command(commands).set_defaults(run=_lab)
    tools = etcdtools.add_commands(commands)
    tools.set_defaults(run=lambda context: etcdtools.run(context.arguments))
    _looking_commands(commands)
    _host_commands(commands)
    return main_parser


def _looking_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    console = commands.add_parser("console", help="a page on loopback: see the cluster live, and break it")
    console.add_argument("--port", type=int, default=8443, help="port of 127.0.0.1; 0: any (%(default)s)")
    console.set_defaults(run=_console)
    trace = commands.add_parser("trace", help="follow one packet: <pod|service|host> -> <pod|service|host>")
    trace.add_argument("ends", nargs=2, metavar="end", help="[pod/|svc/|host/][namespace/]name[:port]")
    trace.set_defaults(run=_trace)
    explain = commands.add_parser("why", help="how the scheduler judged each node for a pod: why [ns/]pod")
    explain.add_argument("pod")
    explain.set_defaults(run=_why)


def _host_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    execute = commands.add_parser(
        "exec", help="run a command on a host (or in `router`): exec <host> -- command"
    )
    execute.add_argument("host")
    execute.add_argument("command", nargs=argparse.REMAINDER)
    execute.set_defaults(run=_exec)
    shell = commands.add_parser("shell", help="a shell on a host (or in `router`)")
    shell.add_argument("host")
    shell.set_defaults(run=_shell)
    logs = _unit_command(commands, "logs", "the log of a unit", _logs)
    logs.add_argument("-n", "--lines", type=int, default=50)
    logs.add_argument("-f", "--follow", action="store_true")
    kill = _unit_command(
        commands, "kill", "send a signal to a unit, which is started again if it dies", _kill
    )
    kill.add_argument("--signal", default="KILL", help="KILL (default), STOP, CONT, ...")
    for name, help_, run in (
        ("stop", "end a unit and keep it down", _stop),
        ("restart", "stop, then start", _restart),
    ):
        command = _unit_command(commands, name, help_, run)
        command.add_argument("--signal", default="TERM")
        if name == "restart":
            command.add_argument(
                "--fresh", action="store_true", help="from the source on disk, in a new interpreter"
            )
    start = _unit_command(commands, "start", "start a stopped unit", _start)
    start.add_argument("--fresh", action="store_true", help="from the source on disk, in a new interpreter")


def state_for(chosen: Path | None, name: str) -> State:
    """The state directory: the flag, else $HARDWAY_STATE, else `.state/<name>` beside the source."""
    from_environment = os.environ.get("HARDWAY_STATE")
    root = chosen or (Path(from_environment) if from_environment else ROOT / ".state" / name)
    return State(name, root.absolute())


# What a user without root does in the machine's own eyes.
OUTSIDE = (_install_packages, _kubeconfig, _logs)


def _words(argv: Sequence[str]) -> list[str]:
    """Without the arrow of `trace a '->' b`, which argparse would take for an option."""
    words = list(argv)
    if "trace" in words and "exec" not in words[: words.index("trace")]:
        words = [word for word in words if word != "->"]
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors that a user can act on are one line, without a traceback."""
    arguments = parser().parse_args(_words(sys.argv[1:] if argv is None else argv))
    try:
        loaded = topology.load(arguments.topology)
        state = state_for(arguments.state, loaded.name)
        if rootless.wanted() and arguments.run not in OUTSIDE:
            return rootless.run(state.root, lambda: main(argv))
        settled, chosen = runtimes.settled(loaded, state)
        return int(arguments.run(Context(settled, state, arguments, chosen)))
    except EXPECTED as error:
        print(f"hardway: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hardway: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
