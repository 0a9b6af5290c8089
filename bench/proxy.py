"""Service rules: seconds from the API's objects to rules in the kernel, for 10, 1,000 and 5,000 services of
two endpoints, the first time and after one change, by either back end. The limit beside it: `nft -f` taking
in as many map elements that lead nowhere, `iptables-restore` as many chains and rules, with no compiler in
front.

Everything happens in a network namespace of its own. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kubeproxy import compiler, iptables, iptables_compiler, nftables
from kubeproxy.compiler import Fragment, Settings
from kubeproxy.model import service_ports
from kubeproxy.proxy import Compiler
from kubeproxy.rules import RuleSet

SIZES = (10, 1000, 5000)
SETTINGS = Settings(cluster_cidrs=("10.200.0.0/14",))
_NAMESPACE = ("unshare", "--net", "sleep", "3600")
_BARE = (
    "add table ip bare\n"
    "add map ip bare one { type ipv4_addr . inet_proto . inet_service : verdict; }\n"
    "add map ip bare two { type ipv4_addr . inet_service . mark : ipv4_addr . inet_service; }\n"
)


def _address(block: int, number: int) -> str:
    return f"10.{block}.{number // 250}.{number % 250 + 1}"


def service(number: int) -> dict[str, Any]:
    """A plain service with one port."""
    return {
        "metadata": {"namespace": "bench", "name": f"service-{number}", "uid": "u", "resourceVersion": "1"},
        "spec": {"clusterIP": _address(32, number), "type": "ClusterIP", "ports": [{"port": 80}]},
    }


def endpoint_slice(number: int, last: int = 201) -> dict[str, Any]:
    """Its two endpoints; `last` moves the second of them elsewhere."""
    addresses = (_address(200, number), _address(last, number))
    return {
        "metadata": {"namespace": "bench", "name": f"service-{number}-x"},
        "addressType": "IPv4",
        "ports": [{"port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [each], "nodeName": "n"} for each in addresses],
    }


def bare_elements(count: int) -> str:
    """The least a kernel has to be told: the same number of elements, nothing else."""
    services = ", ".join(f"{_address(32, each)} . tcp . 80 : drop" for each in range(count))
    endpoints = ", ".join(
        f"{_address(32, each)} . 80 . {slot} : {_address(200 + slot, each)} . 8080"
        for each in range(count)
        for slot in (0, 1)
    )
    return f"{_BARE}add element ip bare one {{ {services} }}\nadd element ip bare two {{ {endpoints} }}\n"


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bare_chains(count: int) -> str:
    """The same for iptables: a chain for each service and endpoint, and the rules that lead to them."""
    lines = ["*nat", ":BARE - [0:0]"]
    rules: list[str] = []
    for each in range(count):
        address = _address(32, each)
        lines += [f":S{each} - [0:0]", f":A{each} - [0:0]", f":B{each} - [0:0]"]
        rules.append(f"-A BARE -d {address}/32 -p tcp -m tcp --dport 80 -j S{each}")
        for chain, slot in (("A", 0), ("B", 1)):
            rules.append(f"-A S{each} -j {chain}{each}")
            rules.append(f"-A {chain}{each} -s {_address(200 + slot, each)}/32 -j RETURN")
    return "\n".join([*lines, *rules, "COMMIT", ""])


@dataclass(frozen=True)
class BackEnd:
    """One way into the kernel: the compiler, the two renderings, the bare limit, the program they are fed."""

    name: str
    rules: Compiler
    full: Callable[[RuleSet], str]
    update: Callable[[RuleSet, RuleSet], str]
    bare: Callable[[int], str]
    program: tuple[str, ...]


BACK_ENDS = (
    BackEnd("nftables", compiler, nftables.full, nftables.update, bare_elements, ("nft", "-f", "-")),
    BackEnd(
        "iptables",
        iptables_compiler,
        lambda rules: iptables.restore({}, rules.chains),
        lambda old, new: iptables.restore(old.chains, new.chains),
        bare_chains,
        ("iptables-restore", "--noflush"),
    ),
)


def measure(back_end: BackEnd, count: int, pid: int, bare_pid: int) -> tuple[float, float, float, float]:
    """Seconds: compile, first programming, one change from objects to kernel, the bare limit."""

    def feed(text: str, where: int = pid) -> None:
        argv = ["nsenter", f"--net=/proc/{where}/ns/net", *back_end.program]
        subprocess.run(argv, input=text, text=True, check=True, capture_output=True)

    def compile_one(number: int, last: int = 201) -> Fragment:
        (port,) = service_ports(service(number), [endpoint_slice(number, last)], "n")
        return back_end.rules.compile_port(port, SETTINGS)

    limit = _seconds(lambda: feed(back_end.bare(count), bare_pid))
    fragments: list[Fragment] = []
    compiling = _seconds(lambda: fragments.extend(compile_one(number) for number in range(count)))
    before = back_end.rules.assemble(fragments, SETTINGS)
    first = _seconds(lambda: feed(back_end.full(back_end.rules.assemble(fragments, SETTINGS))))

    def change() -> None:
        fragments[count // 2] = compile_one(count // 2, 202)
        feed(back_end.update(before, back_end.rules.assemble(fragments, SETTINGS)))

    return compiling, first, _seconds(change), limit


@contextlib.contextmanager
def namespace() -> Iterator[int]:
    """The pid of a process that holds a network namespace of its own."""
    holder = subprocess.Popen(_NAMESPACE)
    try:
        _wait_for_namespace(holder.pid)
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


def main() -> None:
    """Print the table."""
    if os.geteuid() != 0:
        print("proxy: needs root")
        return
    print("| back end | services | compile | first programming | one change | bare | first / bare |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for back_end in BACK_ENDS:
        for count in SIZES:
            with namespace() as pid, namespace() as bare_pid:
                compiling, first, change, limit = measure(back_end, count, pid, bare_pid)
            cells = " | ".join(f"{each * 1000:.0f} ms" for each in (compiling, first, change, limit))
            print(f"| {back_end.name} | {count:,} | {cells} | {first / limit:.1f} |", flush=True)


def _wait_for_namespace(pid: int) -> None:
    """Until the child has left our namespace, so that nothing is ever programmed in it."""
    deadline = time.monotonic() + 10
    while os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):  # noqa: PTH115
        if time.monotonic() > deadline:
            raise TimeoutError("no network namespace after 10 s")
        time.sleep(0.01)


if __name__ == "__main__":
    main()
