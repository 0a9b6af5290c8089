"""The lab's network: one bridge in one outer namespace, one cable to each host.

What is to be done is compiled into the input of `ip -batch` (pure); `run` hands it to the program inside a
namespace. The machine's own namespace is never given anything: both ends of each cable are born inside the
lab.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from componentbase import linux
from deploy.topology import Host, Network

BRIDGE = "lab0"
# A router that sees a packet leave by the interface it came in on would tell the sender so; pods' routes
# depend on that detour, so the hint is switched off. Reverse-path filtering would drop what kube-proxy
# rewrites.
ROUTER_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    # Connections to a load balancer are spread by their ports as well: one client, several nodes.
    "net/ipv4/fib_multipath_hash_policy": "1",
}
HOST_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/default/accept_redirects": "0",
    # A pod that reaches its own node's pod through a Service crosses the bridge; the rules must see it come
    # back.
    "net/bridge/bridge-nf-call-iptables": "1",
}
TIMEOUT = 10.0
NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)


class NetworkError(Exception):
    """The lab's network could not be laid; carries what `ip` said."""


def router_plan(network: Network) -> list[str]:
    """The bridge with the gateway's address."""
    return [
        "link set lo up",
        f"link add {BRIDGE} type bridge",
        f"address add {network.router} dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ]


def cable_plan(host: Host, pid: int) -> list[str]:
    """In the outer namespace: a cable from the bridge to `eth0` of the host whose pid 1 is `pid`."""
    return [
        f"link add {host.name} type veth peer name eth0 netns {pid}",
        f"link set {host.name} master {BRIDGE}",
        f"link set {host.name} up",
    ]


def host_plan(host: Host, network: Network) -> list[str]:
    """In the host: its address and the way out."""
    return [
        "link set lo up",
        f"address add {host.address}/{network.router.network.prefixlen} dev eth0",
        "link set eth0 up",
        f"route add default via {network.router.ip}",
    ]


def run(namespace: str | Path, plan: Sequence[str], *, force: bool = False) -> None:
    """Carry out a plan in the namespace at `namespace`; with `force`, go on after a line that fails.

    Raises NetworkError with the message of `ip`, which names the line.
    """
    arguments = ["nsenter", f"--net={namespace}", "ip", *(["-force"] if force else []), "-batch", "-"]
    done = subprocess.run(
        arguments, input="\n".join(plan) + "\n", text=True, capture_output=True, timeout=TIMEOUT, check=False
    )
    if done.returncode != 0 and not force:
        raise NetworkError(f"ip: {done.stderr.strip()}")


def set_sysctls(values: dict[str, str]) -> None:
    """Write /proc/sys of the current network namespace; one that this kernel lacks is left out."""
    for name, value in values.items():
        path = Path("/proc/sys") / name
        if path.exists():
            path.write_text(value)


def is_namespace(path: Path) -> bool:
    """Is a namespace mounted on this file?"""
    try:
        with path.open("rb") as file:
            return fcntl.ioctl(file, NS_GET_NSTYPE) == linux.CLONE_NEWNET
    except OSError:
        return False


def open_router(path: Path, network: Network) -> bool:
    """Make the outer namespace and pin it on `path`, unless it is there; say whether it was made."""
    if is_namespace(path):
        return False
    path.touch(mode=0o600)
    _pin_fresh(path)
    run(path, router_plan(network))
    return True


def _pin_fresh(path: Path) -> None:
    """Mount a fresh network namespace on `path`; a child makes it, so that this process stays where it is."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ours.close()
            linux.unshare(linux.CLONE_NEWNET)
            set_sysctls(ROUTER_SYSCTLS)
            theirs.sendall(b"made")
            theirs.recv(1)
            code = 0
        except OSError as error:
            theirs.sendall(f"{error}".encode())
        finally:
            os._exit(code)
    theirs.close()
    with ours:
        ours.settimeout(TIMEOUT)
        try:
            said = ours.recv(1000)
            if said != b"made":
                raise NetworkError(f"no network namespace: {said.decode(errors='replace')}")
            linux.mount(f"/proc/{pid}/ns/net", path, flags=linux.MS_BIND)
        finally:
            ours.close()
            os.waitpid(pid, 0)


def close_router(path: Path) -> None:
    """Let go of the outer namespace; the kernel takes the bridge and routes with it."""
    while is_namespace(path):
        linux.unmount(path, linux.MNT_DETACH)
    path.unlink(missing_ok=True)


def connect_host(router: Path, host: Host, network: Network, pid: int) -> None:
    """Plug the host in. The end of a cable to an earlier life of the host is pulled first."""
    run(router, [f"link delete {host.name}"], force=True)
    run(router, cable_plan(host, pid))
    run(f"/proc/{pid}/ns/net", host_plan(host, network))
