"""Validation of pod specs and pod templates (`pkg/apis/core/validation`)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apimachinery import field, meta, quantity, selectors
from apimachinery.errors import Cause
from apiserver.kinds import common
from apiserver.kinds.volumerules import validate_volumes

Spec = Mapping[str, Any]

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
MESSAGE_POLICIES = ("FallbackToLogsOnError", "File")
PROTOCOLS = ("SCTP", "TCP", "UDP")
RESTART_POLICIES = ("Always", "Never", "OnFailure")
DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_INT32_MAX = 2**31 - 1
_PORT_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ENV_NAME = re.compile(r"[ -<>-~]+")  # printable ASCII except `=`
_ENV_NAME_TEXT = (
    "a valid environment variable name must consist only of printable ASCII characters other than '='"
)


def validate_template(template: Spec, path: str) -> Iterator[Cause]:
    """A template's labels, annotations and spec; a template has no ephemeral containers."""
    metadata = template.get("metadata") or {}
    yield from meta.validate_labels(metadata.get("labels") or {}, f"{path}.labels")
    yield from meta.validate_annotations(metadata.get("annotations") or {}, f"{path}.annotations")
    spec = template.get("spec") or {}
    if spec.get("ephemeralContainers"):
        detail = "ephemeral containers not allowed in pod template"
        yield field.forbidden(f"{path}.spec.ephemeralContainers", detail)
    yield from validate_pod_spec(spec, f"{path}.spec")


def validate_pod_spec(spec: Spec, path: str) -> Iterator[Cause]:
    volumes = spec.get("volumes") or ()
    yield from validate_volumes(volumes, f"{path}.volumes")
    names = {volume.get("name") for volume in volumes}
    yield from _container_lists(spec, names, path)
    yield from common.one_of(f"{path}.restartPolicy", spec.get("restartPolicy"), RESTART_POLICIES)
    yield from common.one_of(f"{path}.dnsPolicy", spec.get("dnsPolicy"), DNS_POLICIES)
    yield from _dns_config(spec, path)
    yield from meta.validate_labels(spec.get("nodeSelector") or {}, f"{path}.nodeSelector")
    if spec.get("hostNetwork"):
        yield from _host_network_ports(spec, path)
    yield from _scalars(spec, path)
    yield from _tolerations(spec.get("tolerations") or (), f"{path}.tolerations")
    yield from _affinity(spec.get("affinity") or {}, f"{path}.affinity")
    yield from _topology_spread(
        spec.get("topologySpreadConstraints") or (), f"{path}.topologySpreadConstraints"
    )
    for at, alias in enumerate(spec.get("hostAliases") or ()):
        yield from valid_ip(f"{path}.hostAliases[{at}].ip", alias.get("ip", ""))
    for at, secret in enumerate(spec.get("imagePullSecrets") or ()):
        if not secret.get("name"):
            yield field.required(f"{path}.imagePullSecrets[{at}].name")
    yield from _security(spec.get("securityContext") or {}, f"{path}.securityContext")


def _scalars(spec: Spec, path: str) -> Iterator[Cause]:
    yield from common.non_negative(
        f"{path}.terminationGracePeriodSeconds", spec.get("terminationGracePeriodSeconds")
    )
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= _INT32_MAX:
        detail = f"must be between 1 and {_INT32_MAX}, inclusive"
        yield field.invalid(f"{path}.activeDeadlineSeconds", deadline, detail)
    for name in ("serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"):
        if value := spec.get(name):
            yield from common.subdomain(f"{path}.{name}", value)
    for name in ("hostname", "subdomain"):
        if value := spec.get(name):
            yield from common.label(f"{path}.{name}", value)
    if not spec.get("schedulerName"):
        yield field.required(f"{path}.schedulerName")
    if spec.get("overhead"):
        yield from common.resource_list(f"{path}.overhead", spec["overhead"])


def _container_lists(spec: Spec, volumes: set[Any], path: str) -> Iterator[Cause]:
    containers = spec.get("containers") or ()
    if not containers:
        yield field.required(f"{path}.containers")
    seen: set[str] = set()
    used_host_ports: set[tuple[Any, ...]] = set()
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for at, container in enumerate(spec.get(kind) or ()):
            here = f"{path}.{kind}[{at}]"
            yield from _container(container, volumes, here, kind)
            name = container.get("name", "")
            if name and name in seen:
                yield field.duplicate(f"{here}.name", name)
            seen.add(name)
            if kind == "containers":
                yield from _host_port_conflicts(container, used_host_ports, here)


def _host_port_conflicts(container: Spec, used: set[tuple[Any, ...]], path: str) -> Iterator[Cause]:
    for at, port in enumerate(container.get("ports") or ()):
        if number := port.get("hostPort"):
            key = (port.get("protocol"), port.get("hostIP", ""), number)
            if key in used:
                shown = f"{key[0]}/{key[1]}/{number}"
                yield field.duplicate(f"{path}.ports[{at}].hostPort", shown)
            used.add(key)


def _container(container: Spec, volumes: set[Any], path: str, kind: str) -> Iterator[Cause]:
    name, image = container.get("name", ""), container.get("image", "")
    if name:
        yield from common.label(f"{path}.name", name)
    else:
        yield field.required(f"{path}.name")
    if not image:
        yield field.required(f"{path}.image")
    elif image != image.strip():
        yield field.invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
    yield from _ports(container.get("ports") or (), f"{path}.ports")
    yield from _env(container.get("env") or (), f"{path}.env")
    yield from _env_from(container.get("envFrom") or (), f"{path}.envFrom")
    yield from _mounts(container.get("volumeMounts") or (), volumes, f"{path}.volumeMounts")
    yield from common.one_of(f"{path}.imagePullPolicy", container.get("imagePullPolicy"), PULL_POLICIES)
    policy = container.get("terminationMessagePolicy")
    yield from common.one_of(f"{path}.terminationMessagePolicy", policy, MESSAGE_POLICIES)
    yield from validate_resources(container.get("resources") or {}, f"{path}.resources")
    yield from _probes(container, path, kind)
    if kind == "initContainers" and container.get("restartPolicy") not in (None, "Always"):
        yield field.not_supported(f"{path}.restartPolicy", container["restartPolicy"], ("Always",))


def _ports(ports: Sequence[Spec], path: str) -> Iterator[Cause]:
    names: set[str] = set()
    for at, port in enumerate(ports):
        here = f"{path}[{at}]"
        if name := port.get("name"):
            for problem in port_name(name):
                yield field.invalid(f"{here}.name", name, problem)
            if name in names:
                yield field.duplicate(f"{here}.name", name)
            names.add(name)
        if not port.get("containerPort"):
            yield field.required(f"{here}.containerPort")
        else:
            yield from common.port_number(f"{here}.containerPort", port["containerPort"])
        if port.get("hostPort"):
            yield from common.port_number(f"{here}.hostPort", port["hostPort"])
        yield from common.one_of(f"{here}.protocol", port.get("protocol"), PROTOCOLS)


def port_name(name: str) -> list[str]:
    """What is wrong with a port's name (an IANA service name)."""
    found: list[str] = []
    if len(name) > 15:
        found.append("must be no more than 15 characters")
    if not re.fullmatch(r"[-a-z0-9]+", name):
        found.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", name):
        found.append("must contain at least one letter (a-z)")
    if "--" in name:
        found.append("must not contain consecutive hyphens")
    if name.startswith("-") or name.endswith("-"):
        found.append("must not begin or end with a hyphen")
    return found


def _env(variables: Sequence[Spec], path: str) -> Iterator[Cause]:
    for at, variable in enumerate(variables):
        here = f"{path}[{at}]"
        name = variable.get("name", "")
        if not name:
            yield field.required(f"{here}.name")
        elif not _ENV_NAME.fullmatch(name):
            yield field.invalid(f"{here}.name", name, _ENV_NAME_TEXT)
        source = variable.get("valueFrom")
        if source is None:
            continue
        if variable.get("value"):
            detail = "may not be specified when `value` is not empty"
            yield field.invalid(f"{here}.valueFrom", "", detail)
        given = [key for key in source if source[key] is not None]
        if not given:
            detail = (
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
            )
            yield field.invalid(f"{here}.valueFrom", "", detail)
        elif len(given) > 1:
            yield field.invalid(
                f"{here}.valueFrom", "", "may not have more than one field specified at a time"
            )
        yield from _env_source(source, f"{here}.valueFrom")


_FIELD_PATHS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['[^']+'\]")


def _env_source(source: Spec, path: str) -> Iterator[Cause]:
    for kind in ("configMapKeyRef", "secretKeyRef"):
        if (reference := source.get(kind)) is not None and not reference.get("key"):
            yield field.required(f"{path}.{kind}.key")
    if (reference := source.get("fieldRef")) is not None:
        where = reference.get("fieldPath", "")
        if not where:
            yield field.required(f"{path}.fieldRef.fieldPath")
        elif where not in _FIELD_PATHS and not _SUBSCRIPT.fullmatch(where):
            yield field.not_supported(f"{path}.fieldRef.fieldPath", where, _FIELD_PATHS)
    if (reference := source.get("resourceFieldRef")) is not None and not reference.get("resource"):
        yield field.required(f"{path}.resourceFieldRef.resource")


def _env_from(sources: Sequence[Spec], path: str) -> Iterator[Cause]:
    for at, source in enumerate(sources):
        here = f"{path}[{at}]"
        given = [name for name in ("configMapRef", "secretRef") if source.get(name) is not None]
        if not given:
            yield field.invalid(here, "", "must specify one of: `configMapRef` or `secretRef`")
        elif len(given) > 1:
            yield field.invalid(here, "", "may not have more than one field specified at a time")
        for name in given:
            if not source[name].get("name"):
                yield field.required(f"{here}.{name}.name")


def _mounts(mounts: Sequence[Spec], volumes: set[Any], path: str) -> Iterator[Cause]:
    seen: set[str] = set()
    for at, mount in enumerate(mounts):
        here = f"{path}[{at}]"
        name, where = mount.get("name", ""), mount.get("mountPath", "")
        if not name:
            yield field.required(f"{here}.name")
        elif name not in volumes:
            yield field.not_found(f"{here}.name", name)
        if not where:
            yield field.required(f"{here}.mountPath")
        elif where in seen:
            yield field.invalid(f"{here}.mountPath", where, "must be unique")
        seen.add(where)
        sub_path = mount.get("subPath", "")
        if sub_path.startswith("/"):
            yield field.invalid(f"{here}.subPath", sub_path, "must be a relative path")
        if ".." in sub_path.split("/"):
            yield field.invalid(f"{here}.subPath", sub_path, "must not contain '..'")
        if sub_path and mount.get("subPathExpr"):
            yield field.invalid(
                f"{here}.subPathExpr", mount["subPathExpr"], "subPathExpr and subPath are mutually exclusive"
            )


def validate_resources(resources: Spec, path: str) -> Iterator[Cause]:
    """Limits and requests: valid names and amounts, no request beyond its limit."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    yield from common.resource_list(f"{path}.limits", limits)
    yield from common.resource_list(f"{path}.requests", requests)
    for name, asked in requests.items():
        limit = limits.get(name)
        if limit is None:
            continue
        if quantity.parse(asked) > quantity.parse(limit):
            detail = f"must be less than or equal to {name} limit of {limit}"
            yield field.invalid(f"{path}.requests", asked, detail)
        elif "/" in name and quantity.parse(asked) != quantity.parse(limit):
            yield field.invalid(f"{path}.requests", asked, f"must be equal to {name} limit of {limit}")


def _probes(container: Spec, path: str, kind: str) -> Iterator[Cause]:
    sidecar = kind == "initContainers" and container.get("restartPolicy") == "Always"
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if probe is None:
            continue
        if kind == "initContainers" and not sidecar:
            detail = "may not be set for init containers without restartPolicy=Always"
            yield field.forbidden(f"{path}.{name}", detail)
            continue
        yield from _handler(probe, f"{path}.{name}", ("exec", "grpc", "httpGet", "tcpSocket"))
        for count in (
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ):
            yield from common.non_negative(f"{path}.{name}.{count}", probe.get(count))
        if name != "readinessProbe" and probe.get("successThreshold", 1) != 1:
            yield field.invalid(f"{path}.{name}.successThreshold", probe["successThreshold"], "must be 1")
    for name, handler in (container.get("lifecycle") or {}).items():
        if isinstance(handler, Mapping):
            yield from _handler(
                handler, f"{path}.lifecycle.{name}", ("exec", "httpGet", "sleep", "tcpSocket")
            )


def _handler(handler: Spec, path: str, kinds: Sequence[str]) -> Iterator[Cause]:
    given = [name for name in kinds if handler.get(name) is not None]
    if not given:
        yield field.required(path, "must specify a handler type")
        return
    for name in given[1:]:
        yield field.forbidden(f"{path}.{name}", "may not specify more than 1 handler type")
    action = handler[given[0]]
    if given[0] == "exec" and not action.get("command"):
        yield field.required(f"{path}.exec.command")
    if given[0] in ("httpGet", "tcpSocket"):
        yield from _port_reference(action.get("port", 0), f"{path}.{given[0]}.port")
    if given[0] == "httpGet":
        yield from common.one_of(f"{path}.httpGet.scheme", action.get("scheme"), ("HTTP", "HTTPS"))
        if not action.get("path"):
            yield field.required(f"{path}.httpGet.path")
    if given[0] == "grpc":
        yield from common.port_number(f"{path}.grpc.port", action.get("port", 0))


def _port_reference(port: int | str, path: str) -> Iterator[Cause]:
    if isinstance(port, int):
        yield from common.port_number(path, port)
    else:
        for problem in port_name(port):
            yield field.invalid(path, port, problem)


def _host_network_ports(spec: Spec, path: str) -> Iterator[Cause]:
    for at, container in enumerate(spec.get("containers") or ()):
        for index, port in enumerate(container.get("ports") or ()):
            if port.get("hostPort") and port["hostPort"] != port.get("containerPort"):
                where = f"{path}.containers[{at}].ports[{index}].hostPort"
                yield field.invalid(
                    where, port["hostPort"], "must match `containerPort` when `hostNetwork` is true"
                )


def _dns_config(spec: Spec, path: str) -> Iterator[Cause]:
    config = spec.get("dnsConfig")
    if spec.get("dnsPolicy") == "None" and not (config or {}).get("nameservers"):
        detail = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        yield field.required(f"{path}.dnsConfig.nameservers" if config else f"{path}.dnsConfig", detail)
    servers = (config or {}).get("nameservers") or ()
    if len(servers) > 3:
        yield field.too_many(f"{path}.dnsConfig.nameservers", len(servers), 3)
    for at, server in enumerate(servers):
        yield from valid_ip(f"{path}.dnsConfig.nameservers[{at}]", server)


def valid_ip(path: str, value: str) -> Iterator[Cause]:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        yield field.invalid(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")


def _tolerations(tolerations: Sequence[Spec], path: str) -> Iterator[Cause]:
    for at, toleration in enumerate(tolerations):
        here = f"{path}[{at}]"
        key, operator = toleration.get("key", ""), toleration.get("operator", "")
        if key:
            for problem in meta.qualified_name(key):
                yield field.invalid(f"{here}.key", key, problem)
        elif operator != "Exists":
            detail = (
                'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            )
            yield field.invalid(f"{here}.operator", operator, detail)
        if toleration.get("tolerationSeconds") is not None and toleration.get("effect") != "NoExecute":
            detail = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            yield field.invalid(f"{here}.effect", toleration.get("effect", ""), detail)
        if operator == "Exists" and toleration.get("value"):
            detail = "value must be empty when `operator` is 'Exists'"
            yield field.invalid(f"{here}.operator", dict(toleration), detail)
        elif operator in ("", "Equal"):
            for problem in meta.label_value(toleration.get("value", "")):
                yield field.invalid(f"{here}.operator", toleration.get("value", ""), problem)
        elif operator != "Exists":
            yield field.not_supported(f"{here}.operator", operator, ("Equal", "Exists"))
        if toleration.get("effect"):
            yield from common.one_of(f"{here}.effect", toleration["effect"], EFFECTS)


def _affinity(affinity: Spec, path: str) -> Iterator[Cause]:
    node = affinity.get("nodeAffinity") or {}
    needed = "requiredDuringSchedulingIgnoredDuringExecution"
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    if (selector := node.get(needed)) is not None:
        yield from validate_node_selector(selector, f"{path}.nodeAffinity.{needed}")
    for at, term in enumerate(node.get(preferred) or ()):
        here = f"{path}.nodeAffinity.{preferred}[{at}]"
        yield from _weight(term, here)
        yield from _node_selector_term(term.get("preference") or {}, f"{here}.preference")
    for kind in ("podAffinity", "podAntiAffinity"):
        terms = affinity.get(kind) or {}
        for at, term in enumerate(terms.get(needed) or ()):
            yield from _pod_affinity_term(term, f"{path}.{kind}.{needed}[{at}]")
        for at, term in enumerate(terms.get(preferred) or ()):
            here = f"{path}.{kind}.{preferred}[{at}]"
            yield from _weight(term, here)
            yield from _pod_affinity_term(term.get("podAffinityTerm") or {}, f"{here}.podAffinityTerm")


def _weight(term: Spec, path: str) -> Iterator[Cause]:
    if not 1 <= term.get("weight", 0) <= 100:
        yield field.invalid(f"{path}.weight", term.get("weight", 0), "must be in the range 1-100")


def validate_node_selector(selector: Spec, path: str) -> Iterator[Cause]:
    terms = selector.get("nodeSelectorTerms") or ()
    if not terms:
        yield field.required(f"{path}.nodeSelectorTerms", "must have at least one node selector term")
    for at, term in enumerate(terms):
        yield from _node_selector_term(term, f"{path}.nodeSelectorTerms[{at}]")


_NODE_OPERATORS = ("DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn")


def _node_selector_term(term: Spec, path: str) -> Iterator[Cause]:
    for at, expression in enumerate(term.get("matchExpressions") or ()):
        here = f"{path}.matchExpressions[{at}]"
        operator, values = expression.get("operator", ""), expression.get("values") or ()
        if operator not in _NODE_OPERATORS:
            yield field.invalid(f"{here}.operator", operator, "not a valid selector operator")
        elif operator in ("In", "NotIn") and not values:
            yield field.required(f"{here}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist") and values:
            detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            yield field.forbidden(f"{here}.values", detail)
        elif operator in ("Gt", "Lt") and len(values) != 1:
            detail = "must be specified single value when `operator` is 'Lt' or 'Gt'"
            yield field.required(f"{here}.values", detail)
        for problem in meta.qualified_name(expression.get("key", "")):
            yield field.invalid(f"{here}.key", expression.get("key", ""), problem)


def _pod_affinity_term(term: Spec, path: str) -> Iterator[Cause]:
    key = term.get("topologyKey", "")
    if not key:
        yield field.required(f"{path}.topologyKey", "can not be empty")
    for problem in meta.qualified_name(key) if key else ():
        yield field.invalid(f"{path}.topologyKey", key, problem)
    if (selector := term.get("labelSelector")) is not None:
        yield from selectors.validate_label_selector(selector, f"{path}.labelSelector")
    for at, namespace in enumerate(term.get("namespaces") or ()):
        yield from common.label(f"{path}.namespace[{at}]", namespace)


def _topology_spread(constraints: Sequence[Spec], path: str) -> Iterator[Cause]:
    seen: set[tuple[str, str]] = set()
    for at, constraint in enumerate(constraints):
        here = f"{path}[{at}]"
        if constraint.get("maxSkew", 0) <= 0:
            yield field.invalid(f"{here}.maxSkew", constraint.get("maxSkew", 0), "must be greater than zero")
        key = constraint.get("topologyKey", "")
        if not key:
            yield field.required(f"{here}.topologyKey", "can not be empty")
        when = constraint.get("whenUnsatisfiable", "")
        if when not in ("DoNotSchedule", "ScheduleAnyway"):
            yield field.not_supported(f"{here}.whenUnsatisfiable", when, ("DoNotSchedule", "ScheduleAnyway"))
        if (key, when) in seen:
            yield field.duplicate(f"{here}.{{topologyKey, whenUnsatisfiable}}", f"{{{key}, {when}}}")
        seen.add((key, when))
        if (selector := constraint.get("labelSelector")) is not None:
            yield from selectors.validate_label_selector(selector, f"{here}.labelSelector")


def _security(context: Spec, path: str) -> Iterator[Cause]:
    for name in ("runAsUser", "runAsGroup", "fsGroup"):
        value = context.get(name)
        if value is not None and not 0 <= value <= _INT32_MAX:
            yield field.invalid(f"{path}.{name}", value, f"must be between 0 and {_INT32_MAX}, inclusive")
