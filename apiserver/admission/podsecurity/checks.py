"""The checks of the Pod Security Standards (k8s.io/pod-security-admission/policy). Pure.

A check gives what a pod spec does that it forbids, as one text, or "". Those of the baseline come first,
then those of `restricted`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from apimachinery.field import quote

Object = Mapping[str, Any]
Run = Callable[[Object, Object], str]  # pod metadata and spec


class Check(NamedTuple):
    """From the minor version `since` until the next of the same id. `overrides` are ids of baseline checks
    that are not asked beside it.
    """

    id: str
    level: str
    since: int
    reason: str
    run: Run
    overrides: tuple[str, ...] = ()


# -- what a pod consists of ---------------------------------------------------------------------------------


def containers(spec: Object) -> Iterator[Mapping[str, Any]]:
    for name in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(name) or ()


def security(owner: Object) -> Mapping[str, Any]:
    return owner.get("securityContext") or {}


def names(found: Sequence[str], noun: str = "container") -> str:
    """`container "a"` or `containers "a", "b"`."""
    return f"{noun}{'' if len(found) == 1 else 's'} {', '.join(quote(name) for name in found)}"


def those(spec: Object, wrong: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    return [item.get("name", "") for item in containers(spec) if wrong(item)]


def told(found: Sequence[str], what: str, noun: str = "container") -> str:
    return f"{names(found, noun)} {what}" if found else ""


def values(found: Sequence[str]) -> str:
    """Different values, in order, quoted."""
    return ", ".join(quote(value) for value in sorted(set(found)))


def joined(parts: Sequence[str], by: str = "; ") -> str:
    return by.join(part for part in parts if part)


def is_windows(spec: Object) -> bool:
    return (spec.get("os") or {}).get("name") == "windows"


# -- baseline -----------------------------------------------------------------------------------------------

CAPABILITIES = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)
APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
SYSCTLS = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
]
SYSCTLS_27 = [*SYSCTLS, "net.ipv4.ip_local_reserved_ports"]
SYSCTLS_29 = [
    *SYSCTLS_27,
    *("net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout"),
    *("net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes"),
]
SYSCTLS_32 = [*SYSCTLS_29, "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"]
SELINUX = ("", "container_t", "container_init_t", "container_kvm_t")


def _privileged(_: Object, spec: Object) -> str:
    found = those(spec, lambda item: bool(security(item).get("privileged")))
    return told(found, "must not set securityContext.privileged=true")


def _host_namespaces(_: Object, spec: Object) -> str:
    return ", ".join(f"{name}=true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name))


def _host_paths(_: Object, spec: Object) -> str:
    found = [item.get("name", "") for item in spec.get("volumes") or () if item.get("hostPath") is not None]
    return names(found, "volume") if found else ""


def _host_ports(_: Object, spec: Object) -> str:
    ports: list[int] = []
    found = []
    for item in containers(spec):
        used = [port["hostPort"] for port in item.get("ports") or () if port.get("hostPort")]
        ports += used
        found += [item.get("name", "")] if used else []
    if not found:
        return ""
    shown = ", ".join(str(port) for port in sorted(set(ports)))
    verb, noun = ("uses" if len(found) == 1 else "use"), ("hostPort" if len(set(ports)) == 1 else "hostPorts")
    return f"{names(found)} {verb} {noun} {shown}"


def _added(item: Object) -> list[str]:
    return (security(item).get("capabilities") or {}).get("add") or []


def _capabilities(_: Object, spec: Object) -> str:
    return _forbidden_capabilities(spec, CAPABILITIES)


def _forbidden_capabilities(spec: Object, allowed: frozenset[str]) -> str:
    wrong = [name for item in containers(spec) for name in _added(item) if name not in allowed]
    found = those(spec, lambda item: any(name not in allowed for name in _added(item)))
    return told(found, f"must not include {values(wrong)} in securityContext.capabilities.add")


def _apparmor(metadata: Object, spec: Object) -> str:
    def bad(owner: Object) -> str:
        kind = (security(owner).get("appArmorProfile") or {}).get("type", "")
        return kind if kind not in ("", "RuntimeDefault", "Localhost") else ""

    parts = []
    if bad(spec):
        parts.append(f"pod must not set AppArmor profile type to {quote(bad(spec))}")
    found = those(spec, lambda item: bool(bad(item)))
    wrong = [bad(item) for item in containers(spec) if bad(item)]
    parts.append(told(found, f"must not set AppArmor profile type to {values(wrong)}"))
    annotations = [
        f"{key}={quote(value)}"
        for key, value in sorted((metadata.get("annotations") or {}).items())
        if key.startswith(APPARMOR)
        and value not in ("", "runtime/default")
        and not value.startswith("localhost/")
    ]
    if annotations:
        parts.append(f"annotation{'' if len(annotations) == 1 else 's'} {', '.join(annotations)}")
    return joined(parts)


def _selinux(allowed: tuple[str, ...]) -> Run:
    def run(_: Object, spec: Object) -> str:
        def wrong(owner: Object) -> list[str]:
            given = security(owner).get("seLinuxOptions") or {}
            out = [f"type {quote(given['type'])}"] if given.get("type", "") not in allowed else []
            return out + [f"{name} may not be set" for name in ("user", "role") if given.get(name)]

        setters = [*(["pod"] if wrong(spec) else [])]
        found = those(spec, lambda item: bool(wrong(item)))
        setters += [names(found)] if found else []
        bad = [text for owner in (spec, *containers(spec)) for text in wrong(owner)]
        shown = "; ".join(dict.fromkeys(bad))
        return f"{' and '.join(setters)} set forbidden securityContext.seLinuxOptions: {shown}" if bad else ""

    return run


def _proc_mount(_: Object, spec: Object) -> str:
    def wrong(item: Object) -> str:
        given = security(item).get("procMount") or "Default"
        return "" if given == "Default" else str(given)

    found = those(spec, lambda item: bool(wrong(item)))
    bad = values([wrong(item) for item in containers(spec) if wrong(item)])
    return told(found, f"must not set securityContext.procMount to {bad}")


def _seccomp_type(owner: Object) -> str:
    return str((security(owner).get("seccompProfile") or {}).get("type") or "")


def _seccomp_baseline(_: Object, spec: Object) -> str:
    what = 'must not set securityContext.seccompProfile.type to "Unconfined"'
    parts = [f"pod {what}"] if _seccomp_type(spec) == "Unconfined" else []
    parts.append(told(those(spec, lambda item: _seccomp_type(item) == "Unconfined"), what))
    return joined(parts)


def _sysctls(allowed: Sequence[str]) -> Run:
    def run(_: Object, spec: Object) -> str:
        given = [item.get("name", "") for item in security(spec).get("sysctls") or ()]
        return ", ".join(name for name in given if name not in allowed)

    return run


def _host_process(_: Object, spec: Object) -> str:
    def wrong(owner: Object) -> bool:
        return bool((security(owner).get("windowsOptions") or {}).get("hostProcess"))

    what = "must not set securityContext.windowsOptions.hostProcess=true"
    return joined([f"pod {what}" if wrong(spec) else "", told(those(spec, wrong), what)])


def _probe_hosts(_: Object, spec: Object) -> str:
    def hosts(item: Object) -> list[str]:
        lifecycle = item.get("lifecycle") or {}
        handlers = [item.get(name) for name in ("livenessProbe", "readinessProbe", "startupProbe")]
        handlers += [lifecycle.get(name) for name in ("postStart", "preStop")]
        actions = [(each or {}).get(name) or {} for each in handlers for name in ("httpGet", "tcpSocket")]
        return [action["host"] for action in actions if action.get("host")]

    found = those(spec, lambda item: bool(hosts(item)))
    bad = [host for item in containers(spec) for host in hosts(item)]
    verb = "uses" if len(found) == 1 else "use"
    return told(found, f"{verb} probe or lifecycle host {values(bad)}")


# -- restricted ---------------------------------------------------------------------------------------------

VOLUMES = frozenset(
    [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ]
)


def _escalation(*, windows_free: bool) -> Run:
    def run(_: Object, spec: Object) -> str:
        if windows_free and is_windows(spec):
            return ""
        found = those(spec, lambda item: security(item).get("allowPrivilegeEscalation") is not False)
        return told(found, "must set securityContext.allowPrivilegeEscalation=false")

    return run


def _drop_all(*, windows_free: bool) -> Run:
    def run(_: Object, spec: Object) -> str:
        if windows_free and is_windows(spec):
            return ""

        def keeps(item: Object) -> bool:
            return "ALL" not in ((security(item).get("capabilities") or {}).get("drop") or ())

        missing = told(those(spec, keeps), 'must set securityContext.capabilities.drop=["ALL"]')
        return joined([missing, _forbidden_capabilities(spec, frozenset({"NET_BIND_SERVICE"}))])

    return run


def _volume_types(_: Object, spec: Object) -> str:
    found, kinds = [], []
    for item in spec.get("volumes") or ():
        kind = next((key for key in item if key != "name"), "unknown")
        if kind not in VOLUMES:
            found.append(item.get("name", ""))
            kinds.append(kind)
    if not found:
        return ""
    verb, plural = ("uses", "") if len(found) == 1 else ("use", "s" if len(set(kinds)) > 1 else "")
    return f"{names(found, 'volume')} {verb} restricted volume type{plural} {values(kinds)}"


def _non_root(_: Object, spec: Object) -> str:
    pod = security(spec).get("runAsNonRoot")
    parts = ["pod must not set securityContext.runAsNonRoot=false"] if pod is False else []
    explicit = those(spec, lambda item: security(item).get("runAsNonRoot") is False)
    parts.append(told(explicit, "must not set securityContext.runAsNonRoot=false"))
    if pod is None:
        implicit = those(spec, lambda item: security(item).get("runAsNonRoot") is None)
        if implicit:
            parts.append(f"pod or {names(implicit)} must set securityContext.runAsNonRoot=true")
    return joined(parts)


def _root_user(_: Object, spec: Object) -> str:
    parts = ["pod must not set runAsUser=0"] if security(spec).get("runAsUser") == 0 else []
    found = those(spec, lambda item: security(item).get("runAsUser") == 0)
    return joined([*parts, told(found, "must not set runAsUser=0")])


def _seccomp_restricted(*, windows_free: bool) -> Run:
    def run(_: Object, spec: Object) -> str:
        if windows_free and is_windows(spec):
            return ""
        allowed, pod = ("RuntimeDefault", "Localhost"), _seccomp_type(spec)
        parts = []
        if pod and pod not in allowed:
            parts.append(f"pod must not set securityContext.seccompProfile.type to {quote(pod)}")
        bad = [_seccomp_type(item) for item in containers(spec) if _seccomp_type(item) not in ("", *allowed)]
        explicit = those(spec, lambda item: _seccomp_type(item) not in ("", *allowed))
        parts.append(told(explicit, f"must not set securityContext.seccompProfile.type to {values(bad)}"))
        implicit = [] if pod else those(spec, lambda item: not _seccomp_type(item))
        if implicit:
            wanted = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
            parts.append(f"pod or {names(implicit)} {wanted}")
        return joined(parts)

    return run


BASELINE, RESTRICTED = "baseline", "restricted"
CHECKS: tuple[Check, ...] = (
    Check("appArmorProfile", BASELINE, 0, "forbidden AppArmor profile", _apparmor),
    Check("capabilities_baseline", BASELINE, 0, "non-default capabilities", _capabilities),
    Check("hostNamespaces", BASELINE, 0, "host namespaces", _host_namespaces),
    Check("hostPathVolumes", BASELINE, 0, "hostPath volumes", _host_paths),
    Check("hostPorts", BASELINE, 0, "hostPort", _host_ports),
    Check("hostProbesAndHostLifecycle", BASELINE, 34, "probe or lifecycle host", _probe_hosts),
    Check("privileged", BASELINE, 0, "privileged", _privileged),
    Check("procMount", BASELINE, 0, "procMount", _proc_mount),
    Check("seLinuxOptions", BASELINE, 0, "seLinuxOptions", _selinux(SELINUX)),
    Check("seLinuxOptions", BASELINE, 31, "seLinuxOptions", _selinux((*SELINUX, "container_engine_t"))),
    Check("seccompProfile_baseline", BASELINE, 19, "seccompProfile", _seccomp_baseline),
    Check("sysctls", BASELINE, 0, "forbidden sysctls", _sysctls(SYSCTLS)),
    Check("sysctls", BASELINE, 27, "forbidden sysctls", _sysctls(SYSCTLS_27)),
    Check("sysctls", BASELINE, 29, "forbidden sysctls", _sysctls(SYSCTLS_29)),
    Check("sysctls", BASELINE, 32, "forbidden sysctls", _sysctls(SYSCTLS_32)),
    Check("windowsHostProcess", BASELINE, 0, "hostProcess", _host_process),
    Check(
        "allowPrivilegeEscalation",
        RESTRICTED,
        8,
        "allowPrivilegeEscalation != false",
        _escalation(windows_free=False),
    ),
    Check(
        "allowPrivilegeEscalation",
        RESTRICTED,
        25,
        "allowPrivilegeEscalation != false",
        _escalation(windows_free=True),
    ),
    Check(
        "capabilities_restricted",
        RESTRICTED,
        22,
        "unrestricted capabilities",
        _drop_all(windows_free=False),
        ("capabilities_baseline",),
    ),
    Check(
        "capabilities_restricted",
        RESTRICTED,
        25,
        "unrestricted capabilities",
        _drop_all(windows_free=True),
        ("capabilities_baseline",),
    ),
    Check("restrictedVolumes", RESTRICTED, 0, "restricted volume types", _volume_types, ("hostPathVolumes",)),
    Check("runAsNonRoot", RESTRICTED, 0, "runAsNonRoot != true", _non_root),
    Check("runAsUser", RESTRICTED, 23, "runAsUser=0", _root_user),
    Check(
        "seccompProfile_restricted",
        RESTRICTED,
        19,
        "seccompProfile",
        _seccomp_restricted(windows_free=False),
        ("seccompProfile_baseline",),
    ),
    Check(
        "seccompProfile_restricted",
        RESTRICTED,
        25,
        "seccompProfile",
        _seccomp_restricted(windows_free=True),
        ("seccompProfile_baseline",),
    ),
)
