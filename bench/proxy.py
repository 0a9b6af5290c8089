"""Service rules: seconds from the API's objects to rules in the kernel, for 10, 1,000 and 5,000 services of
two endpoints, the first time and after one change. The limit beside it: `nft -f` taking in as many map
elements that lead nowhere, with no compiler in front.

Everything happens in a network namespace of its own. Needs root.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

from kubeproxy import nftables
from kubeproxy.compiler import Fragment, Settings, assemble, compile_port
from kubeproxy.model import service_ports

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


def compiled(count: int, moved: int = -1) -> list[Fragment]:
    """The fragments of `count` services; one of them with an endpoint that moved."""
    return [
        compile_port(port, SETTINGS)
        for number in range(count)
        for port in service_ports(
            service(number), [endpoint_slice(number, 202 if number == moved else 201)], "n"
        )
    ]


def bare(count: int) -> str:
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


def measure(count: int, pid: int) -> tuple[float, float, float, float]:
    """Seconds: compile, first programming, one change from objects to kernel, the bare limit."""

    def nft(text: str) -> None:
        argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "nft", "-f", "-"]
        subprocess.run(argv, input=text, text=True, check=True, capture_output=True)

    limit = _seconds(lambda: nft(bare(count)))
    nft("delete table ip bare\n")
    fragments: list[Fragment] = []
    compiling = _seconds(lambda: fragments.extend(compiled(count)))
    before = assemble(fragments, SETTINGS)
    first = _seconds(lambda: nft(nftables.full(assemble(fragments, SETTINGS))))

    def change() -> None:
        number = count // 2
        ports = service_ports(service(number), [endpoint_slice(number, 202)], "n")
        fragments[number] = compile_port(ports[0], SETTINGS)
        nft(nftables.update(before, assemble(fragments, SETTINGS)))

    return compiling, first, _seconds(change), limit


def main() -> None:
    """Print the table."""
    if os.geteuid() != 0:
        print("proxy: needs root")
        return
    holder = subprocess.Popen(_NAMESPACE)
    try:
        _wait_for_namespace(holder.pid)
        print("| services | compile | first programming | one change | bare nft | first / bare |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: |")
        for count in SIZES:
            compiling, first, change, limit = measure(count, holder.pid)
            cells = (f"{each * 1000:.0f} ms" for each in (compiling, first, change, limit))
            print(f"| {count:,} | {' | '.join(cells)} | {first / limit:.1f} |", flush=True)
    finally:
        holder.kill()
        holder.wait()


def _wait_for_namespace(pid: int) -> None:
    """Until the child has left our namespace, so that nothing is ever programmed in it."""
    deadline = time.monotonic() + 10
    while os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):  # noqa: PTH115
        if time.monotonic() > deadline:
            raise TimeoutError("no network namespace after 10 s")
        time.sleep(0.01)


if __name__ == "__main__":
    main()
