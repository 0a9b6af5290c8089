"""pid 1 of a simulated host: starts the host's units, starts them again when they die, obeys the control
socket.

Single-threaded and without an event loop, because it forks daemons out of its own memory: the packages that
`up` imported are already there, so a daemon runs some milliseconds after the fork. What it decides is in
`deploy.restarts`. A unit writes to its log file directly (O_APPEND), so a log has no reader that could stall
or die; the supervisor only rotates it.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from componentbase import linux
from deploy import systemd
from deploy.restarts import Life, Phase
from deploy.systemd import unitfile
from deploy.systemd.unitfile import UnitFileError
from deploy.units import Unit

LOG_LIMIT = 16 << 20
LOG_CHECK = 30.0
SHUTDOWN_GRACE = 5.0
# systemd's words, which the kubelet reads on real machines' pid 1 as well (kubelet.shutdown).
SCHEDULED = Path("/run/systemd/shutdown/scheduled")
INHIBITORS = Path("/run/systemd/inhibit")
INHIBIT_LIMIT = 3600.0  # seconds; whoever ends the host has less patience
HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


def say(text: str) -> None:
    """One line in the supervisor's own log."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    print(f"{stamp}Z INFO supervisor {text}", flush=True)


def _inhibitors() -> list[Path]:
    return list(INHIBITORS.iterdir()) if INHIBITORS.is_dir() else []


def _is_held(path: Path) -> bool:
    """Whether somebody holds the lock of this inhibitor; one whose holder has died is nobody's."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def rotate(path: Path, limit: int = LOG_LIMIT) -> bool:
    """Move a log's content to `<path>.1` once it exceeds `limit` bytes; say whether it was.

    The file itself is kept and cut, since its writer holds it open; lines written between copy and cut are
    lost.
    """
    try:
        if path.stat().st_size <= limit:
            return False
        old = path.with_name(path.name + ".1")
        with path.open("r+b") as source, old.open("wb") as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)
            source.truncate(0)
    except FileNotFoundError:
        return False
    return True


def run_warm(unit: Unit) -> int:
    """Call the daemon's `main` in this (forked) process, as its own command line would."""
    sys.argv = [f"python -m {unit.package}", *unit.argv]
    linux.set_process_name(unit.name)
    module = importlib.import_module(f"{unit.package}.app")
    result = module.main(list(unit.argv))
    return int(result or 0)


def execute(unit: Unit) -> NoReturn:
    """Become the unit's program; a warm unit's package runs in a new interpreter, from the source on disk."""
    environment = {**os.environ, **unit.environment}
    if unit.program is None:
        argv = [sys.executable, "-m", str(unit.package), *unit.argv]
    else:
        argv = [unit.program, *unit.argv]
    if unit.program is None or unit.wrap:
        # The source tree need not be installed; this process found it, and a new interpreter must as well.
        environment["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
    argv = [*unit.wrap, *argv]
    os.execvpe(argv[0], argv, environment)


def changed_unit(unit: Unit, request: Mapping[str, Any]) -> Unit:
    """The unit with what one start asks for: `flags` and `environment` are merged over its own."""
    return replace(
        unit,
        flags={**unit.flags, **(request.get("flags") or {})},
        environment={**unit.environment, **(request.get("environment") or {})},
        wrap=tuple(request.get("wrap") or ()),
    )


class Supervisor:
    """The units of one host and their lives. Ends by `shut_down`, after which the kernel ends the host."""

    def __init__(
        self,
        host: str,
        units: Sequence[Unit],
        listener: socket.socket,
        *,
        descriptors: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self.units = {unit.name: unit for unit in units}
        self.given = tuple(self.units)
        self.descriptors = descriptors or {}
        self.lives: dict[str, Life] = {unit.name: Life() for unit in units}
        self.fresh: set[str] = set()
        # What the last explicit start changed about a unit; kept when it is started again after a death.
        self.changed: dict[str, Unit] = {}
        self.listener = listener
        self.clock = clock
        self.ending = False
        self.next_log_check = clock() + LOG_CHECK

    # -- units from service files
    # ------------------------------------------------------------------------------------------

    def load(self, name: str) -> None:
        """Read `<name>.service` of this host; a running process goes on as it was started.

        Raises UnitFileError, OSError.
        """
        text = Path(f"{systemd.DIRECTORY}/{name}.service").read_text()
        variables = {variable: str(number) for variable, number in self.descriptors.items()}
        unit = unitfile.parse(name, text, lambda path: Path(path).read_text(), variables)
        self.units[name] = replace(
            unit,
            environment={**variables, **unit.environment},
            inherits=tuple(self.descriptors.values()),
        )
        self.lives.setdefault(name, Life())

    def boot(self) -> None:
        """Start what was there from the beginning, then what `systemctl enable` wants at every boot."""
        for name in self.given:
            self.start(name)
        for link in sorted(Path(systemd.WANTS).glob("*.service")):
            name = link.name.removesuffix(".service")
            try:
                if name not in self.units:
                    self.load(name)
                    self.start(name)
            except (UnitFileError, OSError) as error:
                say(f"{name}: cannot be started: {error}")

    # -- processes
    # ---------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start a unit's process."""
        unit = self.changed.get(name, self.units[name])
        log = os.open(unit.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            self._become(unit, log)
        os.close(log)
        self.lives[name].become_running(pid, self.clock())
        say(f"{name}: started as {pid}")

    def _become(self, unit: Unit, log: int) -> NoReturn:
        """In the child: leave everything of the supervisor's behind and be the unit."""
        code = 1
        try:
            os.setsid()
            for descriptor in (1, 2):
                os.dup2(log, descriptor)
            for descriptor in unit.inherits:
                os.set_inheritable(descriptor, True)
            self.listener.close()
            signal.set_wakeup_fd(-1)
            for number in HANDLED:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            if unit.package is None or unit.name in self.fresh:
                execute(unit)
            os.environ.update(unit.environment)
            gc.enable()
            code = run_warm(unit)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def send(self, name: str, number: int) -> None:
        """Send a signal to the unit's main process, if it has one."""
        pid = self.lives[name].pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """Ask a unit to end and keep it down."""
        self.lives[name].become_stopping(self.clock(), self.units[name].grace)
        self.send(name, number)

    def reap(self) -> None:
        """Collect the dead: units, and whatever orphans of theirs fell to pid 1."""
        by_pid = {life.pid: name for name, life in self.lives.items() if life.pid is not None}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name = by_pid.pop(pid, None)
            if name is None:
                continue
            life = self.lives[name]
            wait = life.become_dead(status, self.clock())
            if wait is None:
                say(f"{name}: stopped ({life.last_exit})")
            else:
                say(
                    f"{name}: died ({life.last_exit}), starts again in {wait:.1f} s (restart {life.restarts})"
                )

    # -- time
    # --------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what is due: start the dead, kill what outstayed its grace, rotate logs."""
        now = self.clock()
        for name, life in self.lives.items():
            due = life.next_event()
            if due is None or due > now:
                continue
            if life.phase is Phase.WAITING and not self.ending:
                self.start(name)
            elif life.phase is Phase.STOPPING:
                say(f"{name}: did not end in {self.units[name].grace:.0f} s, killed")
                life.stop_deadline = None
                self.send(name, signal.SIGKILL)
        if now >= self.next_log_check:
            self.next_log_check = now + LOG_CHECK
            for unit in self.units.values():
                rotate(Path(unit.log))

    def timeout(self) -> float:
        """Seconds until the next `tick` has something to do."""
        events = [event for life in self.lives.values() if (event := life.next_event()) is not None]
        return max(0.0, min([*events, self.next_log_check]) - self.clock())

    # -- commands
    # ----------------------------------------------------------------------------------------------

    def command(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one command; every error is an answer."""
        action = request.get("command")
        if action == "status":
            now = self.clock()
            return {
                "host": self.host,
                "units": {name: life.to_json(now) for name, life in self.lives.items()},
            }
        if action == "shutdown":
            self.ending = True
            return {}
        if action == "reload":
            return self._command_reload()
        name = str(request.get("unit"))
        if action == "start" and name not in self.units and systemd.is_name(name):
            try:
                self.load(name)
            except FileNotFoundError:
                pass  # no such unit, which the answer below says
            except UnitFileError as error:
                return {"error": str(error)}
        if name not in self.units:
            return {"error": f"no unit {name!r} (there are {', '.join(self.units) or 'none'})"}
        number = int(request.get("signal", signal.SIGTERM))
        if action == "start":
            return self._command_start(name, request)
        if action == "stop":
            self.stop(name, number)
        elif action == "signal":
            if self.lives[name].pid is None:
                return {"error": f"unit {name} is {self.lives[name].phase.value}, there is nothing to signal"}
            self.send(name, number)
        else:
            return {"error": f"unknown command {action!r}"}
        return {"unit": name, **self.lives[name].to_json(self.clock())}

    def _command_reload(self) -> dict[str, Any]:
        """Read every service file again. A unit whose file is gone is forgotten once it does not run."""
        for name in [name for name in self.units if name not in self.given]:
            try:
                self.load(name)
            except FileNotFoundError:
                if self.lives[name].phase is Phase.STOPPED:
                    del self.units[name], self.lives[name]
            except UnitFileError as error:
                return {"error": str(error)}
        return {}

    def _command_start(self, name: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Start, as it is meant or with further flags, variables or a program in front (`wrap`)."""
        life = self.lives[name]
        if life.phase is Phase.STOPPING:
            return {"error": f"unit {name} is still stopping"}
        if life.phase is not Phase.RUNNING:
            changed = changed_unit(self.units[name], request)
            self.changed[name] = changed
            # Variables like LD_PRELOAD, and another program in front, only take effect in a new program.
            fresh = (
                request.get("fresh") or changed.environment != self.units[name].environment or changed.wrap
            )
            (self.fresh.add if fresh else self.fresh.discard)(name)
            self.start(name)
        return {"unit": name, **life.to_json(self.clock())}

    def serve_one(self) -> None:
        """Answer one connection. A client that dawdles is dropped: it must not hold up the host."""
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(1.0)
            try:
                with connection.makefile("rwb") as stream:
                    line = stream.readline(1 << 16)
                    if not line:
                        return
                    try:
                        answer = self.command(json.loads(line))
                    except (ValueError, TypeError, AttributeError) as error:
                        answer = {"error": f"bad request: {error}"}
                    stream.write(json.dumps(answer).encode() + b"\n")
            except OSError:
                return

    # -- life
    # --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start every unit and look after them until told to end."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_end)
        selector = selectors.DefaultSelector()
        selector.register(self.listener, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        self.boot()
        while not self.ending:
            for key, _ in selector.select(self.timeout()):
                if key.fileobj is self.listener:
                    self.serve_one()
                else:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_read, 4096)
            self.reap()
            self.tick()
        self._shut_down()

    def _wait_for_inhibitors(self) -> None:
        """Announce the shutdown the way systemd does, and give whoever holds a delay inhibitor (the
        kubelet, for its pods) the time it asks for. Units are looked after meanwhile."""
        if not any(map(_is_held, _inhibitors())):
            return
        SCHEDULED.parent.mkdir(parents=True, exist_ok=True)
        SCHEDULED.write_text(f"USEC={int(time.time() * 1e6)}\nWARN_WALL=1\nMODE=poweroff\n")
        deadline = self.clock() + INHIBIT_LIMIT
        while any(map(_is_held, _inhibitors())) and self.clock() < deadline:
            self.reap()
            self.tick()
            time.sleep(0.05)

    def _on_end(self, number: int, frame: FrameType | None) -> None:
        self.ending = True

    def _shut_down(self) -> None:
        """Ask all units to end; what is left after the grace dies with this process."""
        say("shutting down")
        self._wait_for_inhibitors()
        for name in reversed(list(self.units)):
            self.stop(name)
        deadline = self.clock() + SHUTDOWN_GRACE
        while any(life.pid is not None for life in self.lives.values()) and self.clock() < deadline:
            self.reap()
            self.tick()
            time.sleep(0.01)
        say("ended")
