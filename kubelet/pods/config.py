"""What the runtime is asked to make: a pod's sandbox and its containers in CRI terms. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from kubelet.cri.pb import api_pb2 as pb
from kubelet.pods import observed, resources
from kubelet.pods.environment import ConfigError
from kubelet.pods.expand import expand

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
MESSAGE_PATH = "/dev/termination-log"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What every pod of this node is configured from."""

    name: str
    ips: tuple[str, ...]
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    host_dns: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] = ((), (), ())
    """Servers, searches and options of the machine's own resolver."""
    cgroup_root: str = "/"
    log_root: str = "/var/log/pods"
    memory_capacity: int = 0


def dns(pod: Mapping[str, Any], node: NodeFacts) -> pb.DNSConfig:
    """The resolver of a pod by its dnsPolicy, with its dnsConfig laid over it."""
    spec = pod["spec"]
    policy = spec.get("dnsPolicy", "ClusterFirst")
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    servers, searches, options = (list(part) for part in node.host_dns)
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet") and node.cluster_dns:
        namespace = pod["metadata"].get("namespace", "default")
        domain = node.cluster_domain
        servers = list(node.cluster_dns)
        searches = [f"{namespace}.svc.{domain}", f"svc.{domain}", domain, *searches]
        options = ["ndots:5"]
    elif policy == "None":
        servers, searches, options = [], [], []
    extra = spec.get("dnsConfig") or {}
    servers += [server for server in extra.get("nameservers", []) if server not in servers]
    searches += [search for search in extra.get("searches", []) if search not in searches]
    named = dict(option.partition(":")[::2] for option in options)
    named.update({option["name"]: option.get("value", "") or "" for option in extra.get("options", [])})
    options = [f"{name}:{value}" if value else name for name, value in named.items()]
    return pb.DNSConfig(servers=servers[:3], searches=searches[:32], options=options)


def hostname(pod: Mapping[str, Any], node: NodeFacts) -> str:
    """What `hostname` says inside the pod."""
    spec = pod["spec"]
    if spec.get("hostNetwork"):
        return node.name
    return str(spec.get("hostname") or pod["metadata"]["name"])[:63].rstrip("-.")


def hosts_file(pod: Mapping[str, Any], node: NodeFacts, pod_ips: Sequence[str], host_file: str) -> str:
    """The /etc/hosts of a pod's containers."""
    spec = pod["spec"]
    if spec.get("hostNetwork"):
        lines = ["# Kubernetes-managed hosts file (host network).", host_file.rstrip("\n")]
    else:
        lines = [
            "# Kubernetes-managed hosts file.",
            "127.0.0.1\tlocalhost",
            "::1\tlocalhost ip6-localhost ip6-loopback",
            "fe00::0\tip6-localnet",
            "fe00::0\tip6-mcastprefix",
            "fe00::1\tip6-allnodes",
            "fe00::2\tip6-allrouters",
        ]
        name = hostname(pod, node)
        if spec.get("subdomain"):
            namespace = pod["metadata"].get("namespace", "default")
            name = f"{name}.{spec['subdomain']}.{namespace}.svc.{node.cluster_domain}\t{name}"
        lines += [f"{ip}\t{name}" for ip in pod_ips]
    aliases = spec.get("hostAliases") or []
    if aliases:
        lines += ["", "# Entries added by HostAliases."]
        lines += ["\t".join([alias["ip"], *alias.get("hostnames", [])]) for alias in aliases]
    return "\n".join(lines) + "\n"


def log_directory(pod: Mapping[str, Any], root: str) -> str:
    """Where the pod's containers log: `<root>/<namespace>_<name>_<uid>`."""
    metadata = pod["metadata"]
    return f"{root}/{metadata.get('namespace', 'default')}_{metadata['name']}_{metadata['uid']}"


def labels_of(pod: Mapping[str, Any]) -> dict[str, str]:
    """The marks by which sandbox and containers are known to belong to this pod."""
    metadata = pod["metadata"]
    return {
        observed.POD_NAME: metadata["name"],
        observed.POD_NAMESPACE: metadata.get("namespace", "default"),
        observed.POD_UID: metadata["uid"],
    }


def _namespaces(spec: Mapping[str, Any], target: str = "") -> pb.NamespaceOption:
    """`target` is the id of the container whose processes this one shall see (`kubectl debug --target`)."""
    pid = pb.POD if spec.get("shareProcessNamespace") else pb.CONTAINER
    pid = pb.NODE if spec.get("hostPID") else pid
    return pb.NamespaceOption(
        network=pb.NODE if spec.get("hostNetwork") else pb.POD,
        pid=pb.TARGET if target and pid == pb.CONTAINER else pid,
        ipc=pb.NODE if spec.get("hostIPC") else pb.POD,
        target_id=target if pid == pb.CONTAINER else "",
    )


def _seccomp(*contexts: Mapping[str, Any]) -> pb.SecurityProfile:
    """The first profile that is set; none means unconfined, as on a kubelet without `seccompDefault`."""
    for context in contexts:
        profile = context.get("seccompProfile")
        if profile:
            local = profile.get("localhostProfile", "")
            where = f"/var/lib/kubelet/seccomp/{local}" if local else ""
            return pb.SecurityProfile(profile_type=profile["type"], localhost_ref=where)
    return pb.SecurityProfile(profile_type=pb.SecurityProfile.Unconfined)


def _groups(context: Mapping[str, Any]) -> list[int]:
    groups = [int(group) for group in context.get("supplementalGroups", [])]
    if context.get("fsGroup") is not None and int(context["fsGroup"]) not in groups:
        groups.append(int(context["fsGroup"]))
    return groups


def sandbox_config(pod: Mapping[str, Any], node: NodeFacts, attempt: int) -> pb.PodSandboxConfig:
    """The sandbox of a pod; `attempt` makes its name unique after an earlier one ended."""
    metadata, spec = pod["metadata"], pod["spec"]
    context = spec.get("securityContext") or {}
    privileged = any(
        (c.get("securityContext") or {}).get("privileged") for c in resources.every_container(spec)
    )
    security = pb.LinuxSandboxSecurityContext(
        namespace_options=_namespaces(spec),
        privileged=bool(privileged),
        supplemental_groups=_groups(context),
        seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault),
    )
    if context.get("runAsUser") is not None:
        security.run_as_user.value = int(context["runAsUser"])
        if context.get("runAsGroup") is not None:
            security.run_as_group.value = int(context["runAsGroup"])
    mappings = [] if spec.get("hostNetwork") else _port_mappings(spec)
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if len(v) < 4096}
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(
            name=metadata["name"],
            uid=metadata["uid"],
            namespace=metadata.get("namespace", "default"),
            attempt=attempt,
        ),
        hostname="" if spec.get("hostNetwork") else hostname(pod, node),
        log_directory=log_directory(pod, node.log_root),
        dns_config=dns(pod, node),
        port_mappings=mappings,
        labels={**(metadata.get("labels") or {}), **labels_of(pod)},
        annotations=annotations,
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=resources.cgroup_parent(
                node.cgroup_root, metadata["uid"], resources.qos_class(spec)
            ),
            security_context=security,
            sysctls={sysctl["name"]: sysctl["value"] for sysctl in context.get("sysctls", [])},
        ),
    )


def _port_mappings(spec: Mapping[str, Any]) -> list[pb.PortMapping]:
    sidecars = [c for c in spec.get("initContainers", []) if c.get("restartPolicy") == "Always"]
    return [
        pb.PortMapping(
            protocol=port.get("protocol", "TCP"),
            container_port=port["containerPort"],
            host_port=port["hostPort"],
            host_ip=port.get("hostIP", ""),
        )
        for container in [*sidecars, *spec.get("containers", [])]
        for port in container.get("ports", [])
        if port.get("hostPort")
    ]


def security_context(
    pod: Mapping[str, Any], container: Mapping[str, Any], image: pb.Image | None, target: str = ""
) -> pb.LinuxContainerSecurityContext:
    """Identity and confinement of a container: its own context over the pod's; `ConfigError` if root is
    forbidden.
    """
    of_pod = pod["spec"].get("securityContext") or {}
    own = container.get("securityContext") or {}
    merged = {**{k: of_pod[k] for k in ("runAsUser", "runAsGroup", "runAsNonRoot") if k in of_pod}, **own}
    capabilities = own.get("capabilities") or {}
    privileged = bool(own.get("privileged"))
    out = pb.LinuxContainerSecurityContext(
        privileged=privileged,
        namespace_options=_namespaces(pod["spec"], target),
        readonly_rootfs=bool(own.get("readOnlyRootFilesystem")),
        supplemental_groups=_groups(of_pod),
        no_new_privs=own.get("allowPrivilegeEscalation") is False,
        capabilities=pb.Capability(
            add_capabilities=capabilities.get("add", []), drop_capabilities=capabilities.get("drop", [])
        ),
        masked_paths=[] if privileged or own.get("procMount") == "Unmasked" else MASKED_PATHS,
        readonly_paths=[] if privileged or own.get("procMount") == "Unmasked" else READONLY_PATHS,
        seccomp=_seccomp({} if privileged else own, {} if privileged else of_pod),
    )
    if merged.get("runAsUser") is not None:
        out.run_as_user.value = int(merged["runAsUser"])
    elif image is not None and image.HasField("uid"):
        out.run_as_user.value = image.uid.value
    elif image is not None and image.username:
        out.run_as_username = image.username
    if merged.get("runAsGroup") is not None:
        out.run_as_group.value = int(merged["runAsGroup"])
        if not out.HasField("run_as_user") and not out.run_as_username:
            out.run_as_user.value = 0
    if merged.get("runAsNonRoot"):
        _forbid_root(container["name"], out)
    return out


def _forbid_root(name: str, context: pb.LinuxContainerSecurityContext) -> None:
    if context.run_as_username and context.run_as_username != "root":
        raise ConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({context.run_as_username}), "
            f'cannot verify user is non-root (container: "{name}")'
        )
    if not context.HasField("run_as_user"):
        raise ConfigError(f'container has runAsNonRoot and image will run as root (container: "{name}")')
    if context.run_as_user.value == 0:
        raise ConfigError(f'container\'s runAsUser breaks non-root policy (container: "{name}")')


def container_config(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    *,
    attempt: int,
    env: Mapping[str, str],
    mounts: Sequence[pb.Mount],
    image: pb.Image,
    node: NodeFacts,
    target: str = "",
) -> pb.ContainerConfig:
    """One container, as its `attempt`-th incarnation."""
    annotations = {
        observed.HASH: observed.fingerprint(container),
        observed.RESTART_COUNT: str(attempt),
        observed.MESSAGE_PATH: container.get("terminationMessagePath", MESSAGE_PATH),
        observed.MESSAGE_POLICY: container.get("terminationMessagePolicy", "File"),
        observed.POD_GRACE: str(grace_period(pod)),
        observed.RESOURCES: orjson.dumps(container.get("resources") or {}).decode(),
    }
    pre_stop = (container.get("lifecycle") or {}).get("preStop")
    if pre_stop:
        annotations[observed.PRE_STOP] = orjson.dumps(pre_stop).decode()
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=container["name"], attempt=attempt),
        image=pb.ImageSpec(image=image.id, user_specified_image=container["image"]),
        command=[expand(word, env) for word in container.get("command", [])],
        args=[expand(word, env) for word in container.get("args", [])],
        working_dir=container.get("workingDir", ""),
        envs=[pb.KeyValue(key=key, value=value) for key, value in env.items()],
        mounts=mounts,
        labels={**labels_of(pod), observed.CONTAINER_NAME: container["name"]},
        annotations=annotations,
        log_path=f"{container['name']}/{attempt}.log",
        stdin=bool(container.get("stdin")),
        stdin_once=bool(container.get("stdinOnce")),
        tty=bool(container.get("tty")),
        linux=pb.LinuxContainerConfig(
            resources=resources.linux_resources(pod["spec"], container, node.memory_capacity),
            security_context=security_context(pod, container, image, target),
        ),
    )


def grace_period(pod: Mapping[str, Any]) -> int:
    """Seconds between asking a container to end and forcing it."""
    deletion = pod["metadata"].get("deletionGracePeriodSeconds")
    if deletion is not None:
        return int(deletion)
    return int(pod["spec"].get("terminationGracePeriodSeconds", 30))
