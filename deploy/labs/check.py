"""`hardway lab check NN`: does the reader's work stand? Each finding is a sentence that names what is wrong.

What a step puts on hosts comes from the bring-up's own plan (`Raise.files`, `Raise.units`); what it brings
about are the bring-up's goals, of which those that would do the work themselves are replaced by looking.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import configs, doctor, systemd
from deploy.api import Api, APIError, Unreachable, collection_path
from deploy.control import HostDown
from deploy.goals import pursue
from deploy.images import catalogue
from deploy.labs import commandlines
from deploy.labs.prepare import Prepare
from deploy.steps import WORKERS, Step
from deploy.topology import Host
from deploy.units import Unit
from deploy.up import ROOT, Background, Building, ImageImport, Images
from pki import encryption, kubeconfig, layout
from pki.ca import utc_now
from pki.layout import Inventory, Part
from pki.status import rows

# A daemon that was started a moment ago may still be on its way.
PATIENCE = 60.0


def text_difference(expected: bytes, found: bytes) -> str:
    """Where two texts part, in words."""
    ours, theirs = expected.decode().splitlines(), found.decode(errors="replace").splitlines()
    for number, (wanted, line) in enumerate(zip(ours, theirs, strict=False), 1):
        if wanted != line:
            return f"line {number} is {line.strip()!r}, must be {wanted.strip()!r}"
    if len(theirs) < len(ours):
        return f"ends before line {len(theirs) + 1}, which must be {ours[len(theirs)].strip()!r}"
    if len(theirs) > len(ours):
        return f"line {len(ours) + 1} is too much: {theirs[len(ours)].strip()!r}"
    return "differs in blanks or line ends"


def lacks(wanted: object, found: object, path: str = "") -> str | None:
    """What of an object as it was applied is not so in the object as it is stored, or None."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        whys = (lacks(value, found.get(key), f"{path}.{key}") for key, value in wanted.items())
        return next((why for why in whys if why), None)
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        whys = (lacks(a, b, f"{path}[]") for a, b in zip(wanted, found, strict=True))
        return next((why for why in whys if why), None)
    return None if wanted == found else f"{path.lstrip('.')} is {found!r}, must be {wanted!r}"


@dataclass
class Check(Prepare):
    """Looks at one step."""

    def findings(self, step: Step) -> Iterator[str]:
        """Everything wrong with a step's work, the causes before what they cause."""
        self.steps = (step,)
        inventory = Inventory(self.state.root / "pki", self.topology.cluster_names())
        if step.makes is not None:
            yield from self._pki(step.makes, inventory)
        for host in self.topology.hosts:
            try:
                root = self.root(host)
                yield from self._files(host, root, inventory)
                yield from self._units(host, root)
            except HostDown as error:
                yield f"{error}: `hardway lab hosts` raises it"

    def _pki(self, part: Part, inventory: Inventory) -> Iterator[str]:
        if part is Part.CERTIFICATES:
            for row in rows(inventory, utc_now()):
                if row.problem:
                    yield f"{row.file}: {row.problem}"
        elif part is Part.ENCRYPTION:
            path = inventory.path("encryption-config.yaml")
            if flaw := encryption.flaw(path):
                yield f"{path} {flaw}"
        else:
            for file, stem, user, server in layout.kubeconfigs(inventory.names):
                if flaw := kubeconfig_flaw(inventory, file, stem, user, server):
                    yield f"{inventory.path(file)}: {flaw}"

    def _files(self, host: Host, root: Path, inventory: Inventory) -> Iterator[str]:
        try:
            files = self.files(host, inventory, doctor.machine())
        except FileNotFoundError as error:
            yield f"{error.filename} is absent"
            return
        for path, (content, mode) in files.items():
            if flaw := self._file_flaw(root / path.lstrip("/"), content, mode, inventory, host, path):
                yield f"{host.name}: {path} {flaw}"

    def _file_flaw(
        self, file: Path, content: bytes, mode: int, inventory: Inventory, host: Host, path: str
    ) -> str | None:
        try:
            found = file.read_bytes()
        except FileNotFoundError:
            return "is absent"
        source = inventory.host_files(host.name).get(path)
        if found != content:
            # What comes from the PKI may hold a key: it is never shown.
            return f"is not the file {source}" if source else text_difference(content, found)
        actual = stat.S_IMODE(file.stat().st_mode)
        if mode == 0o600 and actual & 0o077:
            return f"has mode {actual:o} and holds a key: it must be 600"
        return None

    def _units(self, host: Host, root: Path) -> Iterator[str]:
        units = self.units(host)
        states = self.states(host) if units else {}
        for unit in units:
            yield from self._unit(host, root, unit, states.get(unit.name))

    def _unit(self, host: Host, root: Path, unit: Unit, state: Mapping[str, Any] | None) -> Iterator[str]:
        file = root / systemd.DIRECTORY.lstrip("/") / f"{unit.name}.service"
        name = f"{host.name}: {unit.name}.service"
        if not file.exists():
            yield f"{name} is not in {systemd.DIRECTORY}"
            return
        if state is None or state["state"] != "running":
            why = (
                f" ({state['last_exit']}; see /var/log/{unit.name}.log)"
                if state and state["last_exit"]
                else ""
            )
            yield f"{name} does not run{why}: systemctl start {unit.name}"
            return
        link = root / systemd.WANTS.lstrip("/") / f"{unit.name}.service"
        if not link.is_symlink():
            yield f"{name} is not enabled, so it stays away when its host is raised again"
        running = commandlines.running(root, int(state["pid"]))
        if difference := commandlines.difference(commandlines.wanted(unit), running):
            yield f"{host.name}: {unit.name} {difference}"

    # -- what it brings about
    # ------------------------------------------------------------------------------------

    def results(self, step: Step) -> Iterator[str]:
        """What the step was to bring about and has not, looked for during a while."""
        inventory = Inventory(self.state.root / "pki", self.topology.cluster_names())
        directory = self.state.images
        dns = catalogue.dns(directory, ROOT)
        self.dns_image = dns.references[0]
        images = Images(
            Building("basic images", Background("", lambda: None), catalogue.basic(directory)),
            Building("image of cluster DNS", Background("", lambda: None), dns),
        )
        if step.addons or step is WORKERS:
            api = Api.from_kubeconfig(inventory.admin_kubeconfig)
            yield from self._addons(api, step)
            if step is WORKERS:
                yield from self._pod_networks(api)
                yield from self._images(images.basic)
        goals = [goal for goal in self.goals_of(step, inventory, images) if not goal.acts]
        for missed in pursue(goals, timeout=PATIENCE, on_reached=lambda goal: None):
            yield f"{missed.goal.name}: not so, {missed.lacking}"

    def _addons(self, api: Api, step: Step) -> Iterator[str]:
        for obj in (obj for name in step.addons for obj in self.addon(name)):
            kind, metadata = obj["kind"], obj["metadata"]
            path = f"{collection_path(kind, metadata.get('namespace'))}/{metadata['name']}"
            try:
                found = api.get(path)
            except (Unreachable, APIError) as error:
                yield f"{kind} {metadata['name']} cannot be read: {error}"
                continue
            wanted = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}
            if why := lacks(wanted, found):
                yield f"{kind} {metadata['name']}: {why}"

    def _pod_networks(self, api: Api) -> Iterator[str]:
        for host in self.topology.by_role("worker"):
            try:
                cidr = api.get(f"/api/v1/nodes/{host.name}").get("spec", {}).get("podCIDR")
            except (Unreachable, APIError) as error:
                yield f"node {host.name} cannot be read: {error}"
                continue
            file = self.root(host) / configs.CNI_CONF.lstrip("/")
            if not cidr:
                yield f"node {host.name} has no podCIDR"
            elif not file.exists():
                yield f"{host.name}: {configs.CNI_CONF} is absent"
            elif file.read_text() != (text := configs.cni_conflist(cidr)):
                yield f"{host.name}: {configs.CNI_CONF} {text_difference(text.encode(), file.read_bytes())}"

    def _images(self, building: Building) -> Iterator[str]:
        for host in self.topology.by_role("worker"):
            present = ImageImport(self, host, building).present()
            if isinstance(present, str):
                yield f"{host.name}: {present}"
            elif missing := [name for name in building.archive.references if name not in present]:
                yield f"{host.name}: image {missing[0]} is not imported"


def kubeconfig_flaw(inventory: Inventory, file: str, stem: str, user: str, server: str) -> str | None:
    """What a kubeconfig says that it must not, or None. Shows nothing that is secret."""
    path = inventory.path(file)
    try:
        found = kubeconfig.load(path)
        expected = kubeconfig.build(
            inventory.names.name,
            server,
            inventory.path("ca.pem").read_bytes(),
            inventory.path(f"{stem}.pem").read_bytes(),
            inventory.path(f"{stem}-key.pem").read_bytes(),
            user=user,
        )
    except FileNotFoundError as error:
        return "is absent" if error.filename == str(path) else f"{error.filename} is absent"
    except kubeconfig.KubeconfigError as error:
        return str(error)
    wanted = kubeconfig.parse(expected, path.parent)
    for field, what in (
        ("server", f"server is {found.server}, must be {wanted.server}"),
        ("ca_pem", "its certificate authority is not ca.pem"),
        ("cert_pem", f"its client certificate is not {stem}.pem"),
        ("key_pem", f"its client key is not {stem}-key.pem"),
    ):
        if getattr(found, field) != getattr(wanted, field):
            return what
    return None if path.read_bytes() == kubeconfig.dump(expected) else "names or order are not as in the lab"
