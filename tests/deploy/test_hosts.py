"""Real hosts on the real kernel (root): what they see, how they live, and that ending them leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy import cgroups, doctor, down, hosts, namespaces, network, packages, probes
from deploy.control import Control, HostDown
from deploy.hosts import HostPlan
from deploy.state import State
from deploy.topology import TOPOLOGIES, Topology, load
from deploy.units import Unit
from deploy.up import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.serial,  # compares the machine before and after
    pytest.mark.skipif(
        os.geteuid() != 0 or not packages.PACKAGES[0].present(), reason="needs root and iproute2"
    ),
]
LAB = load(TOPOLOGIES / "lab.yaml")
DEADLINE = 15.0

# A tiny server: says its host's name and how often this host has started it, from a file in /var/lib.
SERVER = """
import pathlib, socket, sys
count = pathlib.Path("/var/lib/count")
number = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(number))
print("started", number, flush=True)
server = socket.create_server(("0.0.0.0", 80))
while True:
    connection, _ = server.accept()
    connection.sendall(f"{socket.gethostname()} {number}".encode())
    connection.close()
"""


def eventually(check: Callable[[], Any]) -> Any:
    """The first true answer of `check`, asked until a deadline."""
    deadline, last = time.monotonic() + DEADLINE, None
    while time.monotonic() < deadline:
        try:
            if last := check():
                return last
        except (OSError, HostDown) as error:
            last = error
        time.sleep(0.02)
    raise AssertionError(f"did not come true: {last!r}")


@dataclass
class Lab:
    """Two hosts with one unit each."""

    state: State
    topology: Topology
    names: tuple[str, ...] = ("controller-0", "worker-0")

    def plan(self, name: str) -> HostPlan:
        unit = Unit(name="server", program=sys.executable, arguments=("-c", SERVER), grace=0.5)
        files = {"/etc/hostname": (f"{name}\n".encode(), 0o644), "/etc/secret": (b"s", 0o600)}
        return HostPlan(host=self.topology.host(name), units=(unit,), files=files)

    def up(self, *names: str) -> None:
        self.state.run.mkdir(parents=True, exist_ok=True)
        self.state.images.mkdir(parents=True, exist_ok=True)
        network.open_router(self.state.router_netns, self.topology.network)
        plans = [self.plan(name) for name in names]
        hosts.raise_hosts(self.state, self.topology, plans, cgroups.find())

    def control(self, name: str) -> Control:
        return Control(name, self.state.socket(name))

    def unit(self, name: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.control(name).call("status")["units"]["server"]
        return answer

    def ask(self, asker: str, address: str) -> str:
        """What the server at `address` says to a client on the host `asker`."""
        with probes.dial(f"/proc/{self.control(asker).pid()}/ns/net", address, 80) as connection:
            return connection.recv(100).decode()

    def inside(self, name: str, *command: str) -> str:
        pid = self.control(name).pid()
        done = subprocess.run(
            list(command),
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=lambda: namespaces.enter(pid, processes=False),
        )
        return done.stdout


def machine() -> dict[str, object]:
    """What of the machine a cluster could leave traces in."""
    groups = cgroups.find()
    netns = Path("/run/netns")
    return {
        "mounts": Path("/proc/self/mounts").read_text(),
        "links": subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout,
        "routes": subprocess.run(
            ["ip", "route", "show", "table", "all"], capture_output=True, text=True, check=True
        ).stdout,
        "netns": sorted(path.name for path in netns.iterdir()) if netns.is_dir() else [],
        "cgroups": [str(root) for root in groups.everywhere if (root / "hardway").exists()],
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
    }


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(State("test", tmp_path / "state"), LAB)
    try:
        yield made
    finally:
        down.end(made.state, made.topology)


def test_two_hosts_talk_and_leave_nothing(lab: Lab) -> None:
    before = machine()
    lab.up(*lab.names)
    assert eventually(lambda: lab.ask("controller-0", "10.240.0.20")) == "worker-0 1"
    assert eventually(lambda: lab.ask("worker-0", "10.240.0.10")) == "controller-0 1"
    during = machine()
    assert during["links"] == before["links"]
    assert during["routes"] == before["routes"]
    pids = [lab.control(name).pid() for name in lab.names]
    ended = down.end(lab.state, lab.topology)
    assert ended == down.Ended(lab.names, ())
    assert machine() == before
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not lab.state.run.exists()


def test_what_a_host_sees(lab: Lab) -> None:
    lab.up("worker-0")
    assert lab.inside("worker-0", "hostname") == "worker-0\n"
    assert lab.inside("worker-0", "cat", "/etc/hostname") == "worker-0\n"
    assert lab.inside("worker-0", "stat", "-c", "%a", "/etc/secret") == "600\n"
    assert lab.inside("worker-0", "cat", "/proc/1/comm") == "hardway-init\n"
    links = lab.inside("worker-0", "ip", "-j", "link")
    assert {link["ifname"] for link in json.loads(links)} == {"lo", "eth0"}
    assert lab.inside("worker-0", "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    # The interpreter that runs this test must be there, wherever it lies.
    path = f"PYTHONPATH={ROOT}"
    assert lab.inside("worker-0", "env", path, sys.executable, "-c", "import yaml, deploy; print(1)") == "1\n"


def test_changes_of_a_host_stay_on_it(lab: Lab) -> None:
    lab.up(*lab.names)
    lab.inside("worker-0", "sh", "-c", "echo x > /etc/hardway-test; echo x > /run/hardway-test")
    assert not Path("/etc/hardway-test").exists()
    assert not Path("/run/hardway-test").exists()
    with pytest.raises(subprocess.CalledProcessError):
        lab.inside("controller-0", "cat", "/etc/hardway-test")


def test_a_killed_unit_is_started_again(lab: Lab) -> None:
    lab.up("worker-0")
    eventually(lambda: lab.ask("worker-0", "127.0.0.1"))
    lab.control("worker-0").call("signal", unit="server", signal=signal.SIGKILL)
    assert eventually(lambda: lab.ask("worker-0", "127.0.0.1") == "worker-0 2")
    unit = lab.unit("worker-0")
    assert (unit["state"], unit["restarts"], unit["last_exit"]) == ("running", 1, "killed by SIGKILL")
    assert (
        "server: died (killed by SIGKILL), starts again in 0.1 s"
        in lab.state.log("worker-0", "supervisor").read_text()
    )
    assert lab.state.log("worker-0", "server").read_text() == "started 1\nstarted 2\n"


def test_stop_start_and_freeze(lab: Lab) -> None:
    lab.up("worker-0")
    control = lab.control("worker-0")
    eventually(lambda: lab.ask("worker-0", "127.0.0.1"))
    control.call("stop", unit="server")
    eventually(lambda: lab.unit("worker-0")["state"] == "stopped")
    with pytest.raises(ConnectionRefusedError):
        lab.ask("worker-0", "127.0.0.1")
    control.call("start", unit="server")
    assert eventually(lambda: lab.ask("worker-0", "127.0.0.1")) == "worker-0 2"
    control.call("signal", unit="server", signal=signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        lab.ask("worker-0", "127.0.0.1")
    control.call("signal", unit="server", signal=signal.SIGCONT)
    assert eventually(lambda: lab.ask("worker-0", "127.0.0.1")) == "worker-0 2"


def test_bad_commands_are_answered(lab: Lab) -> None:
    lab.up("worker-0")
    control = lab.control("worker-0")
    for command, arguments, message in (
        ("stop", {"unit": "nothing"}, "no unit 'nothing' \\(there are server\\)"),
        ("dance", {"unit": "server"}, "unknown command 'dance'"),
        ("signal", {"unit": "server", "signal": "x"}, "bad request"),
    ):
        with pytest.raises(Exception, match=message):
            control.call(command, **arguments)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(os.fspath(lab.state.socket("worker-0")))
        raw.sendall(b"not json\n")
        assert b"bad request" in raw.recv(1000)
    assert lab.unit("worker-0")["state"] == "running"


def test_killing_pid_1_ends_the_host_and_up_brings_it_back_with_its_state(lab: Lab) -> None:
    lab.up(*lab.names)
    eventually(lambda: lab.ask("worker-0", "127.0.0.1"))
    pid = lab.control("worker-0").pid()
    inside = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not lab.control("worker-0").is_up())
    eventually(lambda: not any(Path(f"/proc/{child}").exists() for child in inside))
    lab.up("worker-0")
    assert eventually(lambda: lab.ask("controller-0", "10.240.0.20")) == "worker-0 2"


def test_killing_everything_is_survived(lab: Lab) -> None:
    lab.up(*lab.names)
    eventually(lambda: lab.ask("controller-0", "10.240.0.20"))
    assert cgroups.kill(cgroups.find(), lab.state.cgroup) >= 4
    eventually(lambda: not any(lab.control(name).is_up() for name in lab.names))
    lab.up(*lab.names)
    assert eventually(lambda: lab.ask("controller-0", "10.240.0.20")) == "worker-0 2"


def test_down_finds_processes_whose_sockets_were_lost(lab: Lab) -> None:
    before = machine()
    lab.up("worker-0")
    pid = lab.control("worker-0").pid()
    lab.state.socket("worker-0").unlink()
    assert down.end(lab.state, lab.topology).leftovers == ()
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert machine() == before


def test_a_host_that_cannot_start_says_why(lab: Lab) -> None:
    lab.state.run.mkdir(parents=True)
    lab.state.images.mkdir(parents=True)
    network.open_router(lab.state.router_netns, lab.topology.network)
    base = lab.state.host("worker-0")
    base.mkdir(parents=True)
    (base / "etc").symlink_to("/nonexistent")
    with pytest.raises((hosts.HostError, OSError), match=r"worker-0|etc"):
        hosts.raise_hosts(lab.state, lab.topology, [lab.plan("worker-0")], cgroups.find())


def test_doctor_finds_this_machine_fit(tmp_path: Path) -> None:
    findings = {one.name: one for one in doctor.examine(LAB, tmp_path / "state", cluster_up=True)}
    for name in ("python", "root", "cgroups", "namespaces", "overlayfs"):
        assert findings[name].ok, findings[name]
    assert list(tmp_path.iterdir()) == []


def test_doctor_sees_a_taken_port() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        assert not doctor.port_free("127.0.0.1", port)
    assert doctor.port_free("127.0.0.1", port)
