"""The nodes: pod start, an endpoint's change to the first packet, rules, DNS, and what a node's agents cost.
Beside each the bare limit measured in the same run, and the target.

`BENCH_ONLY=pods,endpoint,agents,rules,dns` chooses. Needs root; raises a cluster of its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path

from bench import cluster, dns, endpointchange, podstart, proxy
from bench.processes import cpu_seconds, descendants, pss
from deploy.control import Control
from deploy.state import State
from deploy.topology import Topology

PARTS = ("pods", "endpoint", "agents", "rules", "dns")
SETTLE, IDLE = 20.0, 30.0
MIB = 1024 * 1024
AGENTS: Mapping[str, float] = {"kubelet": 91, "kubeproxy": 57, "containerd": 54}
"""The agents of a node, with the memory of the real ones in MiB (the design's targets)."""


def agents(topology: Topology, state: State) -> dict[str, tuple[float, float]]:
    """Of each agent, on a worker's average: bytes of proportional memory, cores while the cluster idles."""
    workers = topology.by_role("worker")
    found: dict[int, str] = {}
    for host in workers:
        for pid in descendants(Control(host.name, state.socket(host.name)).pid()):
            name = _name(pid)
            if name in AGENTS:
                found[pid] = name
    before = {pid: cpu_seconds(pid) for pid in found}
    time.sleep(IDLE)
    busy = {pid: (cpu_seconds(pid) - before[pid]) / IDLE for pid in found}
    return {
        name: (
            sum(pss(pid) for pid, each in found.items() if each == name) / len(workers),
            sum(busy[pid] for pid, each in found.items() if each == name) / len(workers),
        )
        for name in AGENTS
    }


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _row(measure: str, value: str, beside: str, ratio: float | None, target: str = "") -> None:
    shown = f"{ratio:.2f}" if ratio is not None else ""
    print(f"| {measure} | {value} | {beside} | {shown} | {target} |", flush=True)


def _head(beside: str) -> None:
    print(f"\n| measure | here | {beside} | ratio | target |")
    print("| --- | ---: | ---: | ---: | ---: |")


def _pods(topology: Topology, state: State, kubeconfig: Path) -> None:
    figures = asyncio.run(podstart.through_the_cluster(topology, state, kubeconfig))
    limit = asyncio.run(podstart.bare(topology, state))
    _head("bare CRI")
    for row in podstart.rows(figures, limit):
        _row(*row)
    print("\nCPU of a pod of twenty, by process (ms):", flush=True)
    for name, cost in sorted(figures.cpu.items(), key=lambda item: -item[1]):
        if cost >= 1:
            print(f"    {name:20} {cost:7.1f}   bare {limit.cpu.get(name, 0.0):7.1f}")


def _endpoint(topology: Topology, state: State, kubeconfig: Path) -> None:
    change = asyncio.run(endpointchange.measure(topology, state, kubeconfig))
    _head("watch event")
    packet, event = f"{change.packet * 1000:.0f} ms", f"{change.event * 1000:.0f} ms"
    _row("endpoint change to first packet, median", packet, event, change.packet / change.event)
    _row("the slowest of them", f"{change.slowest * 1000:.0f} ms", "", None)


def _agents(topology: Topology, state: State) -> None:
    time.sleep(SETTLE)
    _head("real one")
    for name, (memory, busy) in agents(topology, state).items():
        real = AGENTS[name]
        _row(f"memory of {name}", f"{memory / MIB:.0f} MiB", f"{real:.0f} MiB", memory / MIB / real, "<= 1")
        _row(f"idle CPU of {name}", f"{busy * 100:.2f} %", "", None)


def main() -> None:
    """Print the tables."""
    if os.geteuid() != 0:
        print("nodes: needs root")
        return
    wanted = os.environ.get("BENCH_ONLY", ",".join(PARTS)).split(",")
    if {"pods", "endpoint", "agents"} & set(wanted):
        with cluster.standing() as lab:
            topology, state, kubeconfig = lab.topology, lab.state, lab.kubeconfig
            lab.up()
            if "agents" in wanted:  # first: nothing has been done to them yet
                _agents(topology, state)
            if "endpoint" in wanted:
                _endpoint(topology, state, kubeconfig)
            if "pods" in wanted:
                _pods(topology, state, kubeconfig)
    if "rules" in wanted:
        print()
        proxy.main()
    if "dns" in wanted:
        print()
        dns.main()


if __name__ == "__main__":
    main()
