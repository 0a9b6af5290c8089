"""What keeps containers apart on this machine, and what does not: said before anybody relies on it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kubelet import cgroups

ALWAYS = (
    "seccomp, AppArmor and SELinux profiles are not applied",
    "devices are not filtered by a control group: only capabilities keep containers from them",
    "shared memory (/dev/shm) is a container's own, not its pod's",
)
NO_LIMITS = "CPU, memory and process limits are not enforced: no control group can be written"
ONE_IDENTITY = (
    "users are not told apart: every container runs as the one user who started the cluster, whatever "
    "runAsUser, runAsGroup and fsGroup say"
)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What this process may do. `limits`: make control groups; `identities`: be more than one user."""

    limits: bool
    identities: bool


def several_identities(uid_map: str) -> bool:
    """Whether the text of /proc/self/uid_map has more users than one (user_namespaces(7))."""
    return sum(int(line.split()[2]) for line in uid_map.splitlines() if line.strip()) > 1


def examine(mount: Path = cgroups.MOUNT) -> Abilities:
    """Ask the kernel."""
    try:
        writable = all(os.access(each, os.W_OK) for each in cgroups.hierarchies(mount))
    except OSError:
        writable = False
    identities = several_identities(Path("/proc/self/uid_map").read_text())
    return Abilities(limits=writable, identities=identities)


def lacking(abilities: Abilities) -> Sequence[str]:
    """What is not isolated, a sentence each."""
    said = list(ALWAYS)
    if not abilities.limits:
        said.insert(0, NO_LIMITS)
    if not abilities.identities:
        said.insert(0, ONE_IDENTITY)
    return said
