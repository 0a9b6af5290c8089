"""Defaults of pod specs and pod templates (`pkg/apis/core/v1/defaults.go`)."""

from __future__ import annotations

from collections.abc import Iterator

from apimachinery.scheme import Object

CONFIG_MODE = 0o644
TOKEN_SECONDS = 3600
GRACE_SECONDS = 30


def default_pod(pod: Object) -> None:
    """A pod's own defaults: those of its spec, and what templates do not get."""
    spec: Object = pod.setdefault("spec", {})
    default_pod_spec(spec)
    spec.setdefault("enableServiceLinks", True)
    for container in containers_of(spec):
        _default_requests(container)
        if spec.get("hostNetwork"):
            for port in container.get("ports", ()):
                port.setdefault("hostPort", port.get("containerPort", 0))


def default_template(template: Object) -> None:
    """A pod template inside a workload."""
    template.setdefault("metadata", {})
    default_pod_spec(template.setdefault("spec", {}))


def containers_of(spec: Object) -> Iterator[Object]:
    """Init containers, then containers, then ephemeral ones."""
    for name in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(name) or ()


def default_pod_spec(spec: Object) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    spec.setdefault("terminationGracePeriodSeconds", GRACE_SECONDS)
    # `serviceAccount` is the old spelling; both are shown.
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for container in containers_of(spec):
        _default_container(container)
    for volume in spec.get("volumes") or ():
        _default_volume(volume)


def _default_container(container: Object) -> None:
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    if "imagePullPolicy" not in container:
        latest = image_tag(container.get("image", "")) == "latest"
        container["imagePullPolicy"] = "Always" if latest else "IfNotPresent"
    for port in container.get("ports", ()):
        port.setdefault("protocol", "TCP")
    for variable in container.get("env", ()):
        if source := variable.get("valueFrom"):
            _default_source(source)
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if (probe := container.get(name)) is not None:
            _default_probe(probe)
    for handler in (container.get("lifecycle") or {}).values():
        if isinstance(handler, dict):
            _default_handler(handler)


def image_tag(image: str) -> str:
    """The tag that an image reference stands for; empty when it is given by digest alone."""
    name, at, _ = image.partition("@")
    _, colon, tag = name.rpartition("/")[2].partition(":")
    if colon:
        return tag
    return "" if at else "latest"


def _default_probe(probe: Object) -> None:
    probe.setdefault("timeoutSeconds", 1)
    probe.setdefault("periodSeconds", 10)
    probe.setdefault("successThreshold", 1)
    probe.setdefault("failureThreshold", 3)
    _default_handler(probe)
    if "grpc" in probe:
        probe["grpc"].setdefault("service", "")


def _default_handler(handler: Object) -> None:
    if (http := handler.get("httpGet")) is not None:
        http.setdefault("path", "/")
        http.setdefault("scheme", "HTTP")


def _default_source(source: Object) -> None:
    if (reference := source.get("fieldRef")) is not None:
        reference.setdefault("apiVersion", "v1")
    if (resource := source.get("resourceFieldRef")) is not None:
        resource.setdefault("divisor", "0")


def _default_requests(container: Object) -> None:
    """What is limited and not requested is requested in full."""
    resources = container.get("resources") or {}
    if limits := resources.get("limits"):
        requests = resources.setdefault("requests", {})
        for name, amount in limits.items():
            requests.setdefault(name, amount)


def _default_volume(volume: Object) -> None:
    if not any(key != "name" for key in volume):
        volume["emptyDir"] = {}
        return
    for name in ("secret", "configMap", "downwardAPI", "projected"):
        if (source := volume.get(name)) is not None:
            source.setdefault("defaultMode", CONFIG_MODE)
    if (host := volume.get("hostPath")) is not None:
        host.setdefault("type", "")
    if (iscsi := volume.get("iscsi")) is not None:
        iscsi.setdefault("iscsiInterface", "default")
    if (ephemeral := volume.get("ephemeral")) is not None:
        claim = ephemeral.setdefault("volumeClaimTemplate", {})
        claim.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
    for item in (volume.get("downwardAPI") or {}).get("items", ()):
        _default_source(item)
    for source in (volume.get("projected") or {}).get("sources", ()):
        if (token := source.get("serviceAccountToken")) is not None:
            token.setdefault("expirationSeconds", TOKEN_SECONDS)
        for item in (source.get("downwardAPI") or {}).get("items", ()):
            _default_source(item)
