"""`hardway status`: what a look at every part of the cluster finds. Every part is asked; silence is shown as
such."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from deploy import namespaces, probes
from deploy.api import Api, APIError, Unreachable, tls_context
from deploy.control import Control, HostDown
from deploy.state import State
from deploy.topology import API_PORT, Host, Topology
from pki import kubeconfig

TIMEOUT = 3.0


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Aligned columns."""
    lines = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


@dataclass(frozen=True)
class Looker:
    """Looks at one cluster."""

    topology: Topology
    state: State

    def _context(self) -> Any:
        return tls_context(kubeconfig.load(self.state.root / "pki" / "admin.kubeconfig"))

    def units(self) -> list[tuple[str, ...]]:
        """A row a unit of every host."""
        rows: list[tuple[str, ...]] = []
        for host in self.topology.hosts:
            try:
                units = Control(host.name, self.state.socket(host.name)).call("status")["units"]
            except HostDown as error:
                rows.append((host.name, host.address, "-", "down", "", "", str(error)))
                continue
            for name, unit in units.items():
                since = f"{unit['seconds']:.0f}s" if unit["state"] == "running" else ""
                row = (unit["state"], since, str(unit["restarts"]), unit["last_exit"])
                rows.append((host.name, host.address, name, *row))
        return rows

    def members(self) -> list[tuple[str, ...]]:
        """A row a member of the store: health, leader, term, revision."""
        rows: list[tuple[str, ...]] = []
        for host in self.topology.by_role("controller"):
            answer = self._member(host)
            if "error" in answer:
                rows.append((host.name, "-", "-", "-", "-", answer["error"]))
                continue
            role = "leader" if answer["leader"] == answer["member"] else "follower"
            rows.append(
                (
                    host.name,
                    f"{answer['member']:x}",
                    role,
                    str(answer["term"]),
                    str(answer["revision"]),
                    f"{answer['size'] // 1024} KiB",
                )
            )
        return rows

    def _member(self, host: Host) -> dict[str, Any]:
        """Ask a member by its own API, from a child: the client's threads must be born inside the lab."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            try:
                answer = self._ask_member(host)
            except BaseException as error:
                answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:160]}
            os.write(write, json.dumps(answer).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            data = pipe.read()
        os.waitpid(pid, 0)
        answer = json.loads(data) if data else {"error": "no answer"}
        assert isinstance(answer, dict)
        return answer

    def _ask_member(self, host: Host) -> dict[str, Any]:
        namespaces.enter_network(self.state.router_netns)
        return asyncio.run(asyncio.wait_for(self._status_of(host), TIMEOUT))

    async def _status_of(self, host: Host) -> dict[str, Any]:
        from etcdlite.client import EtcdClient

        directory = self.state.root / "pki"
        endpoint = f"https://{host.address}:2379"
        client = EtcdClient(
            [endpoint],
            ca=directory / "etcd-ca.pem",
            cert=directory / "etcd-client.pem",
            key=directory / "etcd-client-key.pem",
        )
        async with client:
            status = await client.status(endpoint)
        return {
            "member": status.header.member_id,
            "leader": status.leader,
            "term": status.raftTerm,
            "revision": status.header.revision,
            "size": status.dbSize,
        }

    def apiservers(self) -> list[tuple[str, ...]]:
        """A row an apiserver: is it ready, and if not, why."""
        context = self._context()
        rows: list[tuple[str, ...]] = []
        for host in self.topology.by_role("controller"):
            lacking = probes.lacking(self.state.router_netns, host.address, API_PORT, "/readyz", context)
            rows.append((host.name, f"https://{host.address}:{API_PORT}", lacking or "ready"))
        return rows

    def nodes(self, api: Api) -> list[tuple[str, ...]]:
        """A row a node."""
        rows: list[tuple[str, ...]] = []
        for node in api.get("/api/v1/nodes")["items"]:
            conditions = {c["type"]: c["status"] for c in node.get("status", {}).get("conditions") or []}
            ready = "Ready" if conditions.get("Ready") == "True" else "NotReady"
            rows.append((node["metadata"]["name"], ready, node.get("spec", {}).get("podCIDR", "-")))
        return rows

    def pods(self, api: Api) -> list[tuple[str, ...]]:
        """Pods by namespace and phase."""
        counts: dict[tuple[str, str], int] = {}
        for pod in api.get("/api/v1/pods")["items"]:
            key = (pod["metadata"]["namespace"], pod.get("status", {}).get("phase", "Unknown"))
            counts[key] = counts.get(key, 0) + 1
        return [(namespace, phase, str(count)) for (namespace, phase), count in sorted(counts.items())]

    def report(self) -> str:
        """The whole text."""
        parts = [table(("HOST", "ADDRESS", "UNIT", "STATE", "FOR", "RESTARTS", "LAST EXIT"), self.units())]
        if not self.state.router_netns.exists():
            return parts[0] + f"\n\nCluster {self.topology.name!r} is down."
        parts.append(table(("MEMBER", "ID", "ROLE", "TERM", "REVISION", "SIZE / TROUBLE"), self.members()))
        parts.append(table(("APISERVER", "URL", "STATE"), self.apiservers()))
        api = Api.from_kubeconfig(self.state.root / "pki" / "admin.kubeconfig")
        try:
            parts.append(table(("NODE", "STATE", "PODS' RANGE"), self.nodes(api)))
            parts.append(table(("NAMESPACE", "PODS", "COUNT"), self.pods(api)))
        except (Unreachable, APIError) as error:
            parts.append(f"API at {self.topology.outside_server}: {error}")
        return "\n\n".join(parts)
