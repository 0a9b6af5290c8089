"""Which kernel parameters a pod may set: those that are safe (namespaced and isolated), and those that the
node's owner allows by name or prefix. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SAFE = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)


def forbidden_sysctl(spec: Mapping[str, Any], allowed: Iterable[str]) -> str:
    """The first sysctl that this pod may not set, empty when there is none. `net.core.*` allows a prefix."""
    for sysctl in (spec.get("securityContext") or {}).get("sysctls") or []:
        name = str(sysctl["name"]).replace("/", ".")
        if name in SAFE and not (name.startswith("net.") and spec.get("hostNetwork")):
            continue
        if not any(name == rule or (rule.endswith("*") and name.startswith(rule[:-1])) for rule in allowed):
            return name
    return ""
