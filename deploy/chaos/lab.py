"""The running cluster as chaos sees it: its hosts, who leads what, and the way into each host. Blocking."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from pathlib import Path

from deploy import probes
from deploy.api import Api, APIError, Unreachable
from deploy.chaos.targets import View
from deploy.control import Control, HostDown
from deploy.state import State
from deploy.topology import Topology
from deploy.units import unit_names

METRICS_PORT = 2381
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
# Elected daemons: the unit's name -> its leader-election lease.
ELECTED = {"scheduler": "kube-scheduler", "controllers": "kube-controller-manager"}


@dataclass(frozen=True)
class Lab:
    """One cluster. `topology_file` lets another process (the keeper, the console) load the same one."""

    topology: Topology
    state: State
    topology_file: Path

    @property
    def kubeconfig(self) -> Path:
        return self.state.root / "pki" / "admin.kubeconfig"

    @property
    def folder(self) -> Path:
        """Where chaos keeps what it must remember: active faults, histories, reports."""
        return self.state.root / "chaos"

    def hosts(self, role: str) -> tuple[str, ...]:
        return tuple(host.name for host in self.topology.by_role(role))

    def address(self, host: str) -> str:
        return self.topology.host(host).address

    def units(self, host: str) -> tuple[str, ...]:
        return unit_names(self.topology, self.topology.host(host))

    def control(self, host: str) -> Control:
        """The host's supervisor."""
        return Control(host, self.state.socket(host))

    def pid(self, host: str) -> int:
        """The host's pid 1, as the machine numbers it. Raises HostDown."""
        return self.control(host).pid()

    def network(self, host: str) -> str:
        """The host's network namespace. Raises HostDown."""
        return f"/proc/{self.pid(host)}/ns/net"

    def root(self, host: str) -> Path:
        """The host's file tree. Raises HostDown."""
        return Path(f"/proc/{self.pid(host)}/root")

    def is_up(self, host: str) -> bool:
        return self.control(host).is_up()

    def store_leader(self) -> str | None:
        """The controller whose member says that it leads (when two do, the later term is not knowable here:
        the first)."""
        for host in self.hosts("controller"):
            if self._leads(host):
                return host
        return None

    def _leads(self, host: str) -> bool:
        try:
            _, body = probes.fetch(self.network(host), "127.0.0.1", METRICS_PORT, "/metrics")
        except (OSError, http.client.HTTPException, HostDown):
            return False
        leading = (b"etcd_server_is_leader 1", b"etcd_server_is_leader 1.0")
        return any(line in leading for line in body.splitlines())

    def holder(self, unit: str) -> str | None:
        """The host whose scheduler or controller-manager is the active one; None while it cannot be asked."""
        api = Api.from_kubeconfig(self.kubeconfig)
        try:
            lease = api.get(f"{LEASES}/{ELECTED[unit]}")
        except (Unreachable, APIError):
            return None
        finally:
            api.close()
        identity = str((lease.get("spec") or {}).get("holderIdentity") or "")
        host = identity.split("_")[0]
        return host if host in self.hosts("controller") else None

    def view(self, *, leaders: bool = True) -> View:
        """What target selectors choose from; asking for leaders takes a request each."""
        return View(
            controllers=self.hosts("controller"),
            workers=self.hosts("worker"),
            balancers=self.hosts("balancer"),
            leader=self.store_leader() if leaders else None,
            holders={unit: host for unit in ELECTED if (host := self.holder(unit))} if leaders else {},
        )
