"""The whole cluster: time to stand, memory, idle CPU. The limit beside it: what starting as many bare
interpreters costs.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.processes import cpu_seconds, descendants, pss
from deploy.control import Control
from deploy.state import State
from deploy.topology import TOPOLOGIES, Topology, parse
from deploy.units import TABLE

OUTSIDE = "127.0.0.1:26443"
SETTLE, IDLE = 20.0, 30.0
MIB = 1024 * 1024
IMPORTS = "import fastapi, uvicorn, httpx, grpc, orjson, cryptography.x509"


@dataclass(frozen=True)
class Lab:
    """A cluster to measure, in a directory that goes with it."""

    topology: Topology
    state: State
    file: Path

    @property
    def kubeconfig(self) -> Path:
        return self.state.root / "pki" / "admin.kubeconfig"

    def hardway(self, *command: str) -> str:
        """The `hardway` command on this cluster: what it printed."""
        where = ["--topology", str(self.file), "--state", str(self.state.root)]
        argv = [sys.executable, "-m", "deploy", *where, *command]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=600).stdout

    def up(self) -> float:
        """Raise it; the seconds that it took."""
        started = time.monotonic()
        print(self.hardway("up"), flush=True)
        return time.monotonic() - started


@contextlib.contextmanager
def standing() -> Iterator[Lab]:
    """A lab that is not up yet, from an installed environment; what is up of it ends with the context."""
    with tempfile.TemporaryDirectory(prefix="hardway-bench-") as folder:
        document = yaml.safe_load((TOPOLOGIES / "lab.yaml").read_text())
        document["name"], document["outside"] = "bench", OUTSIDE
        lab = Lab(parse(document), State("bench", Path(folder) / "state"), Path(folder) / "bench.yaml")
        lab.file.write_text(yaml.safe_dump(document))
        try:
            yield lab
        finally:
            lab.hardway("clean")


def interpreter_seconds(count: int) -> float:
    """Wall time of starting `count` interpreters with the daemons' imports, two at a time as there are
    cores.
    """
    started = time.monotonic()
    for _ in range(count // 2):
        pair = [subprocess.Popen([sys.executable, "-c", IMPORTS]) for _ in range(2)]
        for process in pair:
            process.wait()
    return time.monotonic() - started


def _costs(topology: Topology, state: State) -> dict[int, tuple[str, str]]:
    """Every process of the lab: pid -> (host, unit or what it runs)."""
    found: dict[int, tuple[str, str]] = {}
    for host in topology.hosts:
        control = Control(host.name, state.socket(host.name))
        for pid in descendants(control.pid()):
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                found[pid] = (host.role, name)
    return found


def main() -> None:
    """Print the table."""
    with standing() as lab:
        topology, state = lab.topology, lab.state
        first = lab.up()
        lab.hardway("down")
        again = lab.up()
        time.sleep(SETTLE)
        processes = _costs(topology, state)
        memory = {pid: pss(pid) for pid in processes}
        before = {pid: cpu_seconds(pid) for pid in processes}
        time.sleep(IDLE)
        busy = {pid: max(cpu_seconds(pid) - before[pid], 0.0) / IDLE for pid in processes}
        units = sum(len(TABLE[host.role]) for host in topology.hosts)
    limit = interpreter_seconds(units)
    print(f"{'measure':44} {'value':>12} {'beside':>12}  {'ratio':>6}")
    _row("up, first time", f"{first:.1f} s", f"{limit:.1f} s", first / limit)
    _row("up, after down (state kept)", f"{again:.1f} s", f"{limit:.1f} s", again / limit)
    print(f"  beside: {units} bare interpreters with the daemons' imports, two at a time")
    total, target = sum(memory.values()) / MIB, 1536.0
    _row("memory of all processes (PSS)", f"{total:.0f} MiB", f"{target:.0f} MiB", total / target)
    idle, idle_target = 100 * sum(busy.values()), 10.0
    _row("idle CPU of all processes", f"{idle:.1f} %", f"{idle_target:.1f} %", idle / idle_target)
    print("  beside: the targets of the design for three controllers and three workers")
    for name in sorted({name for _, name in processes.values()}):
        pids = [pid for pid, (_, each) in processes.items() if each == name]
        size, share = sum(memory[pid] for pid in pids) / MIB, 100 * sum(busy[pid] for pid in pids)
        print(f"    {name:20} x{len(pids):<3} {size:8.0f} MiB {share:8.1f} %")


def _row(measure: str, value: str, beside: str, ratio: float) -> None:
    print(f"{measure:44} {value:>12} {beside:>12}  {ratio:6.2f}")
