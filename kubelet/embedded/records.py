"""What the runtime remembers of sandboxes and containers: a directory each, so that a kubelet that starts
anew finds everything. Everything here blocks, briefly.

    <root>/sandboxes/<id>/    config.pb  about.json  network.json  started.json  lock  stopped
    <root>/containers/<id>/   config.pb  about.json  spec.json  started.json  exited.json  lock  layer/

Who lives is told by the lock (`detach.held`), never by a process number.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubelet.cri.pb import api_pb2 as pb
from kubelet.embedded import detach

CONFIG = "config.pb"
ABOUT = "about.json"
NETWORK = "network.json"
STOPPED = "stopped"
LAYER = "layer"


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return found


class Record:
    """What a sandbox and a container have in common."""

    def __init__(self, directory: Path, about: dict[str, Any]) -> None:
        self.directory = directory
        self.id = directory.name
        self.about = about
        self._started: dict[str, Any] = {}

    @property
    def alive(self) -> bool:
        """Whether its keeper lives."""
        return detach.held(str(self.directory))

    @property
    def started(self) -> dict[str, Any]:
        """What its keeper wrote when it began; empty before."""
        if not self._started:
            self._started = _read(self.directory / detach.STARTED)
        return self._started

    @property
    def pid(self) -> int:
        """Its first process, 0 before it has one."""
        return int(self.started.get("pid", 0))

    @property
    def created_at(self) -> int:
        return int(self.about["created_at"])

    def write(self, name: str, document: dict[str, Any]) -> None:
        detach.write_whole(str(self.directory / name), document)

    def read(self, name: str) -> dict[str, Any]:
        return _read(self.directory / name)

    def forget(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


class Sandbox(Record):
    """A pod's namespaces."""

    def __init__(self, directory: Path, about: dict[str, Any], config: pb.PodSandboxConfig) -> None:
        super().__init__(directory, about)
        self.config = config
        self._stopped = (directory / STOPPED).exists()

    @property
    def ready(self) -> bool:
        return not self._stopped and self.alive

    def stop(self) -> None:
        self._stopped = True
        (self.directory / STOPPED).touch()

    @property
    def host_network(self) -> bool:
        return bool(self.config.linux.security_context.namespace_options.network == pb.NODE)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended. `at` is in nanoseconds."""

    code: int
    reason: str
    message: str
    at: int


class Container(Record):
    """One container."""

    def __init__(self, directory: Path, about: dict[str, Any], config: pb.ContainerConfig) -> None:
        super().__init__(directory, about)
        self.config = config
        self._ended: Ended | None = None

    @property
    def sandbox(self) -> str:
        return str(self.about["sandbox"])

    @property
    def log(self) -> str:
        return str(self.about["log"])

    @property
    def started_at(self) -> int:
        return int(self.started.get("at", 0))

    @property
    def ended(self) -> Ended | None:
        """How it ended; a shim that died without a word took the container along (255, Unknown)."""
        if self._ended is None:
            alive = self.alive  # before the file is read: the shim writes it, then lets go of the lock
            found = self.read(detach.EXITED)
            if found:
                self._ended = Ended(found["code"], found["reason"], found["message"], found["at"])
            elif self.started and not alive:
                self._ended = Ended(255, "Unknown", "", self.started_at)
        return self._ended

    @property
    def state(self) -> pb.ContainerState:
        if self.ended is not None:
            return pb.CONTAINER_EXITED
        return pb.CONTAINER_RUNNING if self.started else pb.CONTAINER_CREATED


class Records:
    """All of them, in memory and on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sandboxes: dict[str, Sandbox] = {}
        self.containers: dict[str, Container] = {}

    def load(self) -> None:
        """Find what an earlier life left. A directory that was not finished is removed."""
        for directory in self._directories("sandboxes"):
            about = _read(directory / ABOUT)
            if about:
                config = pb.PodSandboxConfig.FromString((directory / CONFIG).read_bytes())
                self.sandboxes[directory.name] = Sandbox(directory, about, config)
        for directory in self._directories("containers"):
            about = _read(directory / ABOUT)
            if about:
                made = pb.ContainerConfig.FromString((directory / CONFIG).read_bytes())
                self.containers[directory.name] = Container(directory, about, made)

    def _directories(self, kind: str) -> list[Path]:
        folder = self.root / kind
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = sorted(folder.iterdir())
        for directory in found:
            if not (directory / ABOUT).exists():
                shutil.rmtree(directory, ignore_errors=True)
        return [directory for directory in found if directory.exists()]

    def add_sandbox(self, name: str, config: pb.PodSandboxConfig, about: dict[str, Any]) -> Sandbox:
        """Write a new sandbox down; `about.json` comes last and makes it whole."""
        directory = self._add("sandboxes", name, config.SerializeToString(), about)
        self.sandboxes[name] = Sandbox(directory, about, config)
        return self.sandboxes[name]

    def add_container(self, name: str, config: pb.ContainerConfig, about: dict[str, Any]) -> Container:
        """Write a new container down."""
        directory = self._add("containers", name, config.SerializeToString(), about)
        self.containers[name] = Container(directory, about, config)
        return self.containers[name]

    def _add(self, kind: str, name: str, config: bytes, about: dict[str, Any]) -> Path:
        directory = self.root / kind / name
        directory.mkdir(mode=0o700, parents=True)
        (directory / LAYER).mkdir()
        (directory / CONFIG).write_bytes(config)
        detach.write_whole(str(directory / ABOUT), about)
        return directory

    def of_sandbox(self, sandbox: str) -> list[Container]:
        return [container for container in self.containers.values() if container.sandbox == sandbox]
