"""`hardway up`: from nothing, or from whatever a crash left, to a cluster that serves.

The order is forced by forking: everything warm is imported, then the hosts are forked, and only then does
this process talk to anybody. Each step starts only what is missing, so that `up` after any crash is the same
`up`.
"""

from __future__ import annotations

import abc
import base64
import contextlib
import gc
import importlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from deploy import addons, cgroups, configs, doctor, hosts, namespaces, network, probes, runtimes, steps
from deploy.api import Api, APIError, Unreachable, tls_context
from deploy.control import Control, HostDown, Refused
from deploy.goals import Goal, Missed, Reporter, pursue
from deploy.hosts import HostPlan
from deploy.images import catalogue
from deploy.images.catalogue import Archive
from deploy.state import State
from deploy.steps import CLUSTER_DNS, CONTROL_PLANE, STEPS, STORE, WORKERS, Step
from deploy.topology import API_PORT, Host, Topology
from deploy.units import CLOUD_CONFIG, METRICS_PORT, OUTSIDE_FD_VARIABLE, Unit, packages_of, units_for
from pki import kubeconfig, layout
from pki.layout import Inventory

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_TIMEOUT = 90.0
# Numeric libraries start a thread a core when they are imported; a parent that forks must have one thread.
SINGLE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class UpError(Exception):
    """The cluster cannot be raised; the message says what is missing."""


@dataclass
class Background:
    """Work in a forked child while this process does something else."""

    name: str
    action: Callable[[], None]
    pid: int = 0
    error: str | None = None
    _read: int = -1

    def start(self) -> Background:
        """Fork; return self."""
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 0
            try:
                self.action()
            except BaseException as error:
                code = 1
                os.write(write, f"{type(error).__name__}: {error}".encode()[:4000])
            os._exit(code)
        os.close(write)
        return self

    def lacking(self) -> str | None:
        """None when it has succeeded, else that it runs, or for ever how it failed."""
        if self.pid == 0:
            return self.error
        done, status = os.waitpid(self.pid, os.WNOHANG)
        if done == 0:
            return f"{self.name} is not finished"
        self.pid = 0
        with os.fdopen(self._read, "rb") as pipe:
            text = pipe.read().decode(errors="replace")
        if status != 0:
            self.error = f"{self.name}: {text or 'died'}"
        return self.error

    def abandon(self) -> None:
        """Kill it if it still runs."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


@dataclass
class Raise:
    """One run of `up`: all the steps of `deploy.steps`, or some of them."""

    topology: Topology
    state: State
    report: Reporter
    timeout: float = DEFAULT_TIMEOUT
    steps: Sequence[Step] = STEPS
    groups: cgroups.Hierarchies = field(default_factory=cgroups.find)
    raised_at: str = ""
    dns_image: str = ""

    def control(self, host: Host) -> Control:
        """The command line into a host."""
        return Control(host.name, self.state.socket(host.name))

    def root(self, host: Host) -> Path:
        """The file tree of a host that is up, seen from here. Raises HostDown."""
        return Path(f"/proc/{self.control(host).pid()}/root")

    # -- before anything is forked
    # -----------------------------------------------------------------------------

    def preflight(self, down: Sequence[Host]) -> None:
        """Stop here, naming everything that is missing, rather than halfway."""
        cluster_up = not any(host.role == "balancer" for host in down)
        findings = list(doctor.examine(self.topology, self.state.root, cluster_up=cluster_up))
        fatal = [finding for finding in findings if not finding.ok and finding.fatal]
        if fatal:
            raise UpError("this machine cannot carry the lab yet:\n" + doctor.render(fatal))
        for finding in findings:
            if not finding.ok:
                self.report.step(f"warning: {finding.name}: {finding.detail} -> {finding.remedy}")

    def certificates(self) -> Inventory:
        """The PKI, made or renewed."""
        parts = [step.makes for step in self.steps if step.makes is not None]
        inventory = layout.generate(self.state.root, self.topology.cluster_names(), parts=parts)
        count = len(layout.leaves(inventory.names)) + len(layout.AUTHORITIES)
        self.report.step(f"certificates: {count}, {len(inventory.changed)} files made or renewed")
        return inventory

    def files(
        self, host: Host, inventory: Inventory, machine: configs.Machine
    ) -> dict[str, tuple[bytes, int]]:
        """All files of a host with their modes."""
        rendered = configs.files_for(
            self.topology, host, machine, cgroup_root=self.state.host_cgroup(host.name)
        )
        files = {
            path: (text.encode(), 0o644)
            for path, text in rendered.items()
            if steps.of_file(path) in self.steps
        }
        for path, source in inventory.host_files(host.name).items():
            if steps.of_file(path) in self.steps:
                files[path] = (source.read_bytes(), source.stat().st_mode & 0o777)
        return files

    def units(self, host: Host) -> tuple[Unit, ...]:
        """The units of a host."""
        units = units_for(self.topology, host, cgroup_root=self.state.host_cgroup(host.name))
        return tuple(unit for unit in units if steps.of_unit(unit.name) in self.steps)

    def listen_outside(self) -> socket.socket:
        """The one socket of the cluster in the machine's own network."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(self.topology.outside)
        except OSError as error:
            address, port = self.topology.outside
            raise UpError(f"cannot listen on {address}:{port}: {error}") from error
        sock.listen(1024)
        return sock

    def plan(self, host: Host, inventory: Inventory, machine: configs.Machine) -> HostPlan:
        """Everything `host` starts with."""
        units = self.units(host)
        sockets: dict[str, socket.socket] = {}
        if host.role == "balancer":
            outside = self.listen_outside()
            sockets[OUTSIDE_FD_VARIABLE] = outside
            descriptor = outside.fileno()
            environment = {OUTSIDE_FD_VARIABLE: str(descriptor)}
            units = tuple(replace(unit, environment=environment, inherits=(descriptor,)) for unit in units)
        return HostPlan(host=host, units=units, files=self.files(host, inventory, machine), sockets=sockets)

    def warm(self, units: Iterable[Unit]) -> None:
        """Import every daemon once, so that all processes forked from here share the memory."""
        os.environ.update({name: value for name, value in SINGLE_THREAD.items() if name not in os.environ})
        started = time.monotonic()
        names = packages_of(units)
        for name in names:
            try:
                importlib.import_module(f"{name}.app")
            except Exception as error:
                self.report.step(f"warning: {name} cannot be imported: {type(error).__name__}: {error}")
        threads = doctor.single_threaded()
        if threads != 1:
            raise UpError(
                f"importing the daemons started {threads - 1} threads: forking now would not be safe"
            )
        gc.collect()
        gc.freeze()
        self.report.step(f"imported {len(names)} daemons in {time.monotonic() - started:.2f} s")

    # -- hosts
    # -------------------------------------------------------------------------------------------------

    def tell_the_cloud(self, up: Iterable[Host]) -> None:
        """On controllers that were up already: the machines of the topology as it is now."""
        files = {CLOUD_CONFIG: (configs.cloud_config(self.topology).encode(), 0o644)}
        for host in up:
            if host.role == "controller":
                with contextlib.suppress(HostDown):
                    hosts.write_files(self.root(host), files)

    def refuse_bare(self, up: Iterable[Host]) -> None:
        """Hosts that were raised for the labs have no warm daemons to be started. Raises UpError."""
        for host in up:
            has = self.control(host).call("status")["units"]
            lacking = [unit.name for unit in self.units(host) if unit.name not in has]
            if lacking:
                raise UpError(
                    f"{host.name} was raised for the labs and has no {lacking[0]} yet: go on with "
                    "`hardway lab`, or `hardway down` first (what was made by hand stays)"
                )

    def start_stopped_units(self, up: Iterable[Host]) -> None:
        """On hosts that were up already: start what was stopped."""
        for host in up:
            with contextlib.suppress(HostDown, Refused):
                control = self.control(host)
                for name, unit in control.call("status")["units"].items():
                    if unit["state"] == "stopped":
                        control.call("start", unit=name)
                        self.report.step(f"{host.name}: {name} started again")

    def raise_hosts(self, down: Sequence[Host], inventory: Inventory) -> None:
        """Fork the hosts that are not up, on the network that they share."""
        self.state.run.mkdir(parents=True, exist_ok=True)
        self.state.run.chmod(0o700)
        if network.open_router(self.state.router_netns, self.topology.network):
            self.report.step("lab network: bridge and router")
        runtimes.remember(self.state, self.topology)
        machine = doctor.machine()
        plans = [self.plan(host, inventory, machine) for host in down]
        names: list[str] = []
        try:
            hosts.raise_hosts(self.state, self.topology, plans, self.groups, on_up=names.append)
        finally:
            for plan in plans:
                for sock in plan.sockets.values():
                    sock.close()
        self.report.step(f"hosts up: {', '.join(names)}")

    # -- what is waited for
    # ------------------------------------------------------------------------------------

    def goals(self, inventory: Inventory, images: Images) -> Iterator[Goal]:
        """What the steps must bring about, step by step; all of it makes the cluster usable."""
        for step in self.steps:
            yield from self.goals_of(step, inventory, images)

    def goals_of(self, step: Step, inventory: Inventory, images: Images) -> Iterator[Goal]:
        """What one step must bring about."""
        if step is STORE:
            yield from self._store_goals()
        if step not in (CONTROL_PLANE, WORKERS, CLUSTER_DNS):
            return
        api = Api.from_kubeconfig(inventory.admin_kubeconfig)
        if step is CONTROL_PLANE:
            yield from self._control_plane_goals(api, inventory)
        elif step is WORKERS:
            for host in self.topology.by_role("worker"):
                yield from self._worker_goals(api, host, self.image_goal(host, images.basic))
        else:
            yield from self._dns_goals(api, images.dns)

    def _store_goals(self) -> Iterator[Goal]:
        for host in self.topology.by_role("controller"):
            namespace = f"/proc/{self.control(host).pid()}/ns/net"
            healthy = partial(probes.etcd_lacking, namespace)
            yield Goal(f"{host.name}: etcd member healthy", healthy, (self.state.log(host.name, "etcdlite"),))

    def _control_plane_goals(self, api: Api, inventory: Inventory) -> Iterator[Goal]:
        context = tls_context(kubeconfig.load(inventory.admin_kubeconfig))
        for host in self.topology.by_role("controller"):
            router = self.state.router_netns
            ready = partial(probes.lacking, router, host.address, API_PORT, "/readyz", context)
            yield Goal(f"{host.name}: apiserver ready", ready, (self.state.log(host.name, "apiserver"),))
        balancer = self.topology.by_role("balancer")[0]
        front = partial(_lacking, partial(api.get, "/readyz"))
        haproxy = (self.state.log(balancer.name, "haproxy"),)
        yield Goal(f"API answers on {self.topology.outside_server}", front, haproxy)
        for name in CONTROL_PLANE.addons:
            yield Goal(f"add-on {name} applied", partial(self.apply_addon, api, name, []), acts=True)

    def _dns_goals(self, api: Api, image: Building) -> Iterator[Goal]:
        workers = self.topology.by_role("worker")
        imports = [self.image_goal(host, image) for host in workers]
        for probe in imports:
            yield Goal(f"{probe.host.name}: {image.name} imported", probe, probe.logs, acts=True)
        for name in CLUSTER_DNS.addons:
            yield Goal(f"add-on {name} applied", partial(self.apply_addon, api, name, imports), acts=True)
        logs = tuple(
            self.state.log(host.name, unit)
            for host in self.topology.by_role("controller")
            for unit in ("controllers", "scheduler")
        )
        yield Goal("cluster DNS ready", partial(deployment_lacking, api, "kube-system", "clusterdns"), logs)
        for host in workers:
            # Through this host's kube-proxy to a DNS pod: the Deployment's status may be older than a crash.
            network_plan = self.topology.network
            name = f"kubernetes.default.svc.{network_plan.cluster_domain}"
            namespace = f"/proc/{self.control(host).pid()}/ns/net"
            answers = partial(probes.dns_lacking, namespace, network_plan.cluster_dns, name)
            kubeproxy = (self.state.log(host.name, "kubeproxy"),)
            yield Goal(f"{host.name}: cluster DNS answers", answers, kubeproxy)

    def image_goal(self, host: Host, building: Building) -> ImageGoal:
        """How images come to a worker: containerd imports them, the embedded runtime finds the archives."""
        kind = ImageArchive if self.topology.runtime == "embedded" else ImageImport
        return kind(self, host, building)

    def _worker_goals(self, api: Api, host: Host, basic: ImageGoal) -> Iterator[Goal]:
        kubelet = self.state.log(host.name, "kubelet")
        yield Goal(f"{host.name}: {basic.building.name} imported", basic, basic.logs, acts=True)
        if host.pod_cidr is None:
            configured = partial(self.configure_pods, api, host)
            yield Goal(f"{host.name}: pods' network configured", configured, (kubelet,), acts=True)
        ready = partial(node_lacking, api, host.name, self.raised_at)
        yield Goal(f"{host.name}: node Ready", ready, (kubelet, *basic.logs))

    def configure_pods(self, api: Api, host: Host) -> str | None:
        """Write the node's CNI configuration once the controller-manager has given it a range: what the
        operator does by hand in the hard way. It stays with the host."""
        try:
            cidr = api.get(f"/api/v1/nodes/{host.name}").get("spec", {}).get("podCIDR")
            if not cidr:
                return "the node has no podCIDR yet"
            root = self.root(host)
            hosts.write_files(root, {configs.CNI_CONF: (configs.cni_conflist(cidr).encode(), 0o644)})
        except (Unreachable, APIError, HostDown, OSError) as error:
            return str(error)
        return None

    def apply_addon(self, api: Api, name: str, needed: Sequence[ImageGoal]) -> str | None:
        """Apply one add-on, once its images are there: a pod whose image is not backs off for ten seconds."""
        if not all(one.done for one in needed):
            return "its image is not imported yet"
        return _lacking(lambda: [api.apply(obj) for obj in self.addon(name)])

    def addon(self, name: str) -> list[dict[str, Any]]:
        """The objects of an add-on, as this cluster needs them."""
        values = {
            "CLUSTER_DNS": self.topology.network.cluster_dns,
            "CLUSTER_DOMAIN": self.topology.network.cluster_domain,
            "DNS_IMAGE": self.dns_image,
            **self.metrics_values(),
        }
        return addons.load(name, values)

    def metrics_values(self) -> dict[str, str]:
        """Where metrics-servers listen, and whose signature is on their certificates."""
        authority = (self.state.root / "pki" / "ca.pem").read_bytes()
        return {
            "METRICS_PORT": str(METRICS_PORT),
            "CLUSTER_CA": base64.b64encode(authority).decode(),
        }

    def not_isolated(self) -> dict[str, list[str]]:
        """What runtimes do not isolate, in the words of the nodes themselves: sentence -> nodes."""
        said: dict[str, list[str]] = {}
        api = Api.from_kubeconfig(self.state.root / "pki" / "admin.kubeconfig")
        with contextlib.suppress(Unreachable, APIError):
            for node in api.get("/api/v1/nodes")["items"]:
                text = (node["metadata"].get("annotations") or {}).get(runtimes.NOT_ISOLATED) or ""
                for sentence in filter(None, text.split("; ")):
                    said.setdefault(sentence, []).append(node["metadata"]["name"])
        return said

    def run(self) -> Sequence[Missed]:
        """Raise the cluster; what it returns was not reached in time. Raises UpError, and errors of the
        parts."""
        down = [host for host in self.topology.hosts if not self.control(host).is_up()]
        self.refuse_bare(host for host in self.topology.hosts if host not in down)
        self.preflight(down)
        self.state.root.mkdir(parents=True, exist_ok=True)
        self.state.images.mkdir(exist_ok=True)
        inventory = self.certificates()
        images = self.build_images()
        if any(host.role == "worker" for host in down):
            self.raised_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if down:
            self.warm(unit for host in down for unit in self.units(host))
            self.raise_hosts(down, inventory)
        up = [host for host in self.topology.hosts if host not in down]
        self.tell_the_cloud(up)
        self.start_stopped_units(up)
        goals = list(self.goals(inventory, images))
        try:
            return pursue(goals, timeout=self.timeout, on_reached=lambda goal: self.report.step(goal.name))
        finally:
            for building in (images.basic, images.dns):
                building.work.abandon()

    def build_images(self) -> Images:
        """Start making the archives that are absent. Cluster DNS takes longer, and nothing else waits for
        it."""
        directory = self.state.images
        # Named once: the sources may change while the cluster comes up.
        archive = catalogue.dns(directory, ROOT)
        self.dns_image = archive.references[0]
        basic = Background("building basic images", lambda: catalogue.build_basic(directory))
        dns = Background("building the image of cluster DNS", lambda: catalogue.build_dns(archive, ROOT))
        return Images(
            Building("basic images", basic.start(), catalogue.basic(directory)),
            Building("image of cluster DNS", dns.start(), archive),
        )


@dataclass(frozen=True)
class Building:
    """An archive that is being made."""

    name: str
    work: Background
    archive: Archive


@dataclass(frozen=True)
class Images:
    """All archives of a lab: sandbox and examples, and cluster DNS."""

    basic: Building
    dns: Building


def _lacking(action: Callable[[], object]) -> str | None:
    try:
        action()
    except (Unreachable, APIError) as error:
        return str(error)
    return None


def node_lacking(api: Api, name: str, since: str) -> str | None:
    """Why the node is not Ready, or None.

    The condition alone would be believed for 40 s after a crash: the kubelet must also have renewed its
    lease at or after `since` (RFC 3339, Z), so that the answer is of this life of the host.
    """
    try:
        node = api.get(f"/api/v1/nodes/{name}")
        lease = api.get(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}")
    except (Unreachable, APIError) as error:
        return str(error)
    if lease.get("spec", {}).get("renewTime", "") < since:
        return "its kubelet has not renewed its lease yet"
    for condition in node.get("status", {}).get("conditions") or []:
        if condition["type"] == "Ready":
            return None if condition["status"] == "True" else str(condition.get("message", "not Ready"))
    return "it has registered but reports no condition yet"


def deployment_lacking(api: Api, namespace: str, name: str) -> str | None:
    """Why the Deployment has fewer ready replicas than it wants, or None."""
    try:
        deployment = api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
    except (Unreachable, APIError) as error:
        return str(error)
    status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    observed = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    ready, updated = status.get("readyReplicas", 0), status.get("updatedReplicas", 0)
    if observed and ready >= wanted and updated >= wanted:
        return None
    return f"{ready} of {wanted} replicas ready, {updated} up to date"


@dataclass
class ImageGoal(abc.ABC):
    """Bringing images to one worker: as a goal's probe, called until it returns None."""

    run: Raise
    host: Host
    building: Building
    done: bool = False

    def __call__(self) -> str | None:
        lacking = self._advance()
        self.done = lacking is None
        return lacking

    @property
    def logs(self) -> tuple[Path, ...]:
        """Where to look when it is not reached."""
        return ()

    @abc.abstractmethod
    def _advance(self) -> str | None:
        """Do the next part that can be done; what is still lacking, or None."""


@dataclass
class ImageArchive(ImageGoal):
    """The embedded runtime reads the archives themselves, which every host sees."""

    def _advance(self) -> str | None:
        return self.building.work.lacking()


@dataclass
class ImageImport(ImageGoal):
    """containerd imports an archive by its own tool."""

    _process: subprocess.Popen[str] | None = None

    @property
    def logs(self) -> tuple[Path, ...]:
        return (self.run.state.log(self.host.name, "containerd"),)

    def _advance(self) -> str | None:
        if (lacking := self.building.work.lacking()) is not None:
            return lacking
        if self._process is not None:
            return self._finish(self._process)
        archive = self.building.archive
        try:
            present = self.present()
            if isinstance(present, str):
                return present
            if set(archive.references) <= present:
                return None
            self._process = self._ctr("images", "import", f"{hosts.IMAGES}/{archive.path.name}")
        except HostDown as error:
            return str(error)
        return f"importing {archive.path.name}"

    def _finish(self, process: subprocess.Popen[str]) -> str | None:
        if process.poll() is None:
            return "an import is running"
        output, self._process = process.communicate()[0], None
        if process.returncode != 0:
            return f"ctr import failed ({process.returncode}): {output.strip()[-300:]}"
        return None

    def present(self) -> set[str] | str:
        """The images that containerd knows, or why it cannot be asked."""
        process = self._ctr("images", "list", "-q")
        try:
            output, _ = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return "containerd does not answer"
        return set(output.split()) if process.returncode == 0 else f"containerd: {output.strip()[-200:]}"

    def _ctr(self, *arguments: str) -> subprocess.Popen[str]:
        pid = self.run.control(self.host).pid()
        command = ["ctr", "--connect-timeout", "2s", "-n", "k8s.io", *arguments]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Safe: this process has one thread.
            preexec_fn=lambda: namespaces.enter(pid, processes=False),
        )
