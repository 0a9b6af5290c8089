"""From CRI's words to what `process.become` does: command, environment, identity, namespaces, mounts.

Pure but for `Accounts.of`, which reads the image's own users and groups.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from componentbase import linux
from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.port import RuntimeFailure

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# capabilities(7), in the order of their numbers.
# fmt: off
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
    "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM",
    "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)
# fmt: on
# What containerd gives, without MKNOD: no control group would keep a container from the machine's disks.
DEFAULT_CAPABILITIES = frozenset(
    {
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    }
)
PROPAGATION = {
    pb.PROPAGATION_PRIVATE: linux.MS_PRIVATE,
    pb.PROPAGATION_HOST_TO_CONTAINER: linux.MS_SLAVE,
}


@dataclass(frozen=True, slots=True)
class Accounts:
    """The image's own users and groups, as text."""

    passwd: str = ""
    group: str = ""

    @classmethod
    def of(cls, tree: Path) -> Accounts:
        """Read those of an unpacked image; links out of the tree are not followed."""
        texts = {}
        for name in ("passwd", "group"):
            path = tree / "etc" / name
            plain = path.is_file() and not path.is_symlink()
            texts[name] = path.read_text(errors="replace") if plain else ""
        return cls(**texts)

    def user(self, name: str) -> Sequence[str] | None:
        """The fields of a user by name or number: name, password, uid, gid, comment, home, shell."""
        for line in self.passwd.splitlines():
            fields = line.split(":")
            if len(fields) >= 7 and name in (fields[0], fields[2]):
                return fields
        return None

    def groups_of(self, name: str) -> list[int]:
        """The further groups that list the user as a member."""
        rows = [line.split(":") for line in self.group.splitlines()]
        return [int(row[2]) for row in rows if len(row) >= 4 and name in row[3].split(",")]

    def gid(self, name: str) -> int:
        """A group's number. Raises `RuntimeFailure`."""
        rows = [line.split(":") for line in self.group.splitlines()]
        found = next((int(row[2]) for row in rows if len(row) >= 3 and row[0] == name), None)
        if found is None:
            raise RuntimeFailure(f"no group {name} in the image's /etc/group")
        return found


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def identity(
    context: pb.LinuxContainerSecurityContext, settings: Mapping[str, Any], accounts: Accounts
) -> Identity:
    """Who the container runs as: as CRI says, else as the image says, else root. Raises `RuntimeFailure`."""
    of_image, _, image_group = str(settings.get("User") or "").partition(":")
    name = of_image or "0"
    if context.HasField("run_as_user"):
        name, image_group = str(context.run_as_user.value), ""
    elif context.run_as_username:
        name = context.run_as_username
    row = accounts.user(name)
    if row is None and not name.isdigit():
        raise RuntimeFailure(f"no user {name} in the image's /etc/passwd")
    uid = int(row[2]) if row else int(name)
    gid = int(row[3]) if row else 0
    if image_group:
        gid = int(image_group) if image_group.isdigit() else accounts.gid(image_group)
    if context.HasField("run_as_group"):
        gid = context.run_as_group.value
    listed = accounts.groups_of(row[0]) if row else []
    groups = tuple(dict.fromkeys([gid, *listed, *context.supplemental_groups]))
    return Identity(uid, gid, groups, row[5] if row and row[5] else "/")


def capabilities(context: pb.LinuxContainerSecurityContext) -> list[int] | None:
    """The numbers of the capabilities that are kept; None: all. Raises `RuntimeFailure` for an unknown
    name."""
    if context.privileged:
        return None
    kept = set(DEFAULT_CAPABILITIES)
    asked = context.capabilities

    def names(given: Sequence[str]) -> set[str]:
        plain = {name.upper().removeprefix("CAP_") for name in given}
        unknown = plain - set(CAPABILITIES) - {"ALL"}
        if unknown:
            raise RuntimeFailure(f'unknown capability "CAP_{min(unknown)}"')
        return set(CAPABILITIES) if "ALL" in plain else plain

    add, drop = names(asked.add_capabilities), names(asked.drop_capabilities)
    if "ALL" in {name.upper() for name in asked.drop_capabilities}:
        kept = add
    else:
        kept = (kept | add) - drop
    return sorted(CAPABILITIES.index(name) for name in kept)


def command(config: pb.ContainerConfig, settings: Mapping[str, Any]) -> list[str]:
    """What is run: the pod's command replaces entrypoint and arguments of the image, its args only the
    latter."""
    entrypoint = list(config.command) or list(settings.get("Entrypoint") or [])
    arguments = list(config.args)
    if not arguments and not config.command:
        arguments = list(settings.get("Cmd") or [])
    if not [*entrypoint, *arguments]:
        raise RuntimeFailure("no command specified")
    return [*entrypoint, *arguments]


def environment(
    config: pb.ContainerConfig, settings: Mapping[str, Any], hostname: str, home: str
) -> list[str]:
    """The image's variables, then the pod's."""
    held = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, "HOME": home}
    if config.tty:
        held["TERM"] = "xterm"
    for entry in settings.get("Env") or []:
        name, _, value = str(entry).partition("=")
        held[name] = value
    held.update({entry.key: entry.value for entry in config.envs})
    return [f"{name}={value}" for name, value in held.items()]


def spaces(option: pb.NamespaceOption, holder: int, target: int) -> dict[str, str | None]:
    """The namespaces of a container: its pod's (kept by process `holder`), its own, or the host's."""
    if option.userns_options.mode == pb.POD and option.HasField("userns_options"):
        raise RuntimeFailure("user namespaces of pods are not supported by the embedded runtime")
    network = None if option.network == pb.NODE else f"/proc/{holder}/ns/net"
    processes = {
        pb.CONTAINER: "",
        pb.POD: f"/proc/{holder}/ns/pid",
        pb.NODE: None,
        pb.TARGET: f"/proc/{target}/ns/pid",
    }
    return {
        "net": network,
        "uts": network and f"/proc/{holder}/ns/uts",
        "ipc": None if option.ipc == pb.NODE else f"/proc/{holder}/ns/ipc",
        "pid": processes[option.pid],
    }


def sandbox_spaces(option: pb.NamespaceOption) -> dict[str, str | None]:
    """The namespaces that a pod's holder makes."""
    network = None if option.network == pb.NODE else ""
    return {
        "net": network,
        "uts": network,
        "ipc": None if option.ipc == pb.NODE else "",
        "pid": "" if option.pid == pb.POD else None,
    }


def mounts(config: pb.ContainerConfig, own: Mapping[str, Path]) -> list[dict[str, Any]]:
    """What is mounted, outermost first; `own` are the runtime's files, where the pod has none of its own.

    Raises `RuntimeFailure` for what is not supported.
    """
    out = []
    taken = {mount.container_path.rstrip("/") for mount in config.mounts}
    for mount in config.mounts:
        if mount.HasField("image"):
            raise RuntimeFailure(
                f"mount {mount.container_path}: image volumes are not supported by the embedded runtime"
            )
        if mount.propagation not in PROPAGATION:
            raise RuntimeFailure(
                f"mount {mount.container_path}: Bidirectional propagation is not supported by the embedded "
                "runtime"
            )
        flags = PROPAGATION[mount.propagation]
        out.append(_mount(mount.host_path, mount.container_path, mount.readonly, flags))
    out += [
        _mount(str(source), target, False, linux.MS_PRIVATE)
        for target, source in own.items()
        if target not in taken
    ]
    return sorted(out, key=lambda each: str(each["target"]).count("/"))


def _mount(source: str, target: str, readonly: bool, propagation: int) -> dict[str, Any]:
    return {"source": source, "target": target, "readonly": readonly, "propagation": propagation}


def tree(image: Path, layer: Path, context: pb.LinuxContainerSecurityContext | None = None) -> dict[str, Any]:
    """The part `root` of a specification, without mounts."""
    context = context or pb.LinuxContainerSecurityContext()
    return {
        "image": str(image),
        "upper": str(layer / "upper"),
        "work": str(layer / "work"),
        "merged": str(layer / "merged"),
        "mounts": [],
        "masked": list(context.masked_paths),
        "readonly_paths": list(context.readonly_paths),
        "readonly": context.readonly_rootfs,
        "own_processes": context.namespace_options.pid != pb.NODE,
        "all_devices": context.privileged,
    }


def resolver(config: pb.DNSConfig, of_host: str) -> str:
    """The pod's resolv.conf; the host's where the pod says nothing."""
    if not (config.servers or config.searches or config.options):
        return of_host
    lines = [f"search {' '.join(config.searches)}"] if config.searches else []
    lines += [f"nameserver {server}" for server in config.servers]
    lines += [f"options {' '.join(config.options)}"] if config.options else []
    return "\n".join(lines) + "\n"


def stop_signal(settings: Mapping[str, Any]) -> int:
    """What asks the container to end (image-spec, StopSignal)."""
    text = str(settings.get("StopSignal") or "SIGTERM")
    if text.isdigit():
        return int(text)
    name = text if text.startswith("SIG") else f"SIG{text}"
    return int(signal.Signals[name]) if name in signal.Signals.__members__ else int(signal.SIGTERM)
