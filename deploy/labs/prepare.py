"""`hardway lab NN`: bare hosts, and on them what the labs before NN leave behind.

It is the bring-up's own `Raise`, with three things as a reader has them: hosts start without daemons, files
are put on running hosts, and daemons are services that the host's `systemctl` starts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deploy import configs, doctor, hosts, systemd
from deploy.control import Refused
from deploy.goals import Goal, Missed, pursue
from deploy.hosts import HostPlan
from deploy.labs import commandlines
from deploy.steps import CLUSTER_DNS, HOSTS, WORKERS
from deploy.systemd import systemctl
from deploy.topology import Host
from deploy.units import Unit
from deploy.up import Images, Raise, UpError
from pki.layout import Inventory

# What a machine has when one gets it; the rest is the reader's work.
GIVEN = ("/etc/hostname", "/etc/resolv.conf")


@dataclass
class Prepare(Raise):
    """One run of `hardway lab`; `steps` are those before the lab."""

    def plan(self, host: Host, inventory: Inventory, machine: configs.Machine) -> HostPlan:
        """A bare host."""
        full = super().plan(host, inventory, machine)
        rendered = configs.files_for(self.topology, host, machine)
        given = {path: (rendered[path].encode(), 0o644) for path in GIVEN}
        return replace(full, units=(), files=given)

    def raise_bare(self, images: Images) -> list[str]:
        """Raise every host that is down; the archives of the images are there as well afterwards. Returns
        the names of those that were down. Raises UpError."""
        down = [host for host in self.topology.hosts if not self.control(host).is_up()]
        self.preflight(down)
        if down:
            self.raise_hosts(down, Inventory(self.state.root / "pki", self.topology.cluster_names()))
        building = [Goal(one.name, one.work.lacking) for one in (images.basic, images.dns)]
        missed = pursue(building, timeout=self.timeout, on_reached=lambda goal: self.report.step(goal.name))
        if missed:
            raise UpError(f"{missed[0].goal.name}: {missed[0].lacking}")
        return [host.name for host in down]

    def install(self, inventory: Inventory) -> None:
        """Put the steps' files on the hosts, and start their daemons as services."""
        machine = doctor.machine()
        for host in self.topology.hosts:
            root = self.root(host)
            hosts.write_files(root, self.files(host, inventory, machine))
        for host in self.topology.hosts:
            units = self.units(host)
            for unit in units:
                self._install_service(host, unit)
            if units:
                self.report.step(f"{host.name}: {', '.join(unit.name for unit in units)}")

    def _install_service(self, host: Host, unit: Unit) -> None:
        file = f"{systemd.DIRECTORY}/{unit.name}.service"
        root = self.root(host)
        service = (systemd.HERE / f"{unit.name}.service").read_bytes()
        hosts.write_files(root, {file: (service, 0o644)})
        link = root / systemd.WANTS.lstrip("/") / f"{unit.name}.service"
        link.parent.mkdir(exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(file)
        control = self.control(host)
        try:
            control.call("reload")
            state = self.states(host).get(unit.name)
            if state and state["state"] == "running":
                running = commandlines.running(root, int(state["pid"]))
                if commandlines.difference(commandlines.wanted(unit), running):
                    systemctl.stop(control, unit.name)
            control.call("start", unit=unit.name)
        except Refused as error:
            raise UpError(str(error)) from error

    def states(self, host: Host) -> Mapping[str, Mapping[str, Any]]:
        """What the host's supervisor says of each unit it knows. Raises HostDown."""
        units: Mapping[str, Mapping[str, Any]] = self.control(host).call("status")["units"]
        return units

    def run(self) -> Sequence[Missed]:
        """Take the steps; what it returns was not reached in time. Raises UpError, and errors of the
        parts."""
        self.state.root.mkdir(parents=True, exist_ok=True)
        self.state.images.mkdir(exist_ok=True)
        if not self.steps:
            return ()
        if self.steps == (HOSTS,):
            inventory = Inventory(self.state.root / "pki", self.topology.cluster_names())
        else:
            inventory = self.certificates()  # first: a host that is raised is planned with them
        images = self.build_images()
        try:
            self.raise_bare(images)
            if WORKERS in self.steps or CLUSTER_DNS in self.steps:
                self.raised_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            self.install(inventory)
            goals = list(self.goals(inventory, images))
            return pursue(goals, timeout=self.timeout, on_reached=lambda goal: self.report.step(goal.name))
        finally:
            for building in (images.basic, images.dns):
                building.work.abandon()
