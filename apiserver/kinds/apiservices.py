"""APIServices: which server answers for a group version, this one or an extension server behind a Service.

They are acted on by aggregation/.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

from apimachinery import field, meta
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import column, spec_of, status_of

GROUP = "apiregistration.k8s.io"
AVAILABLE = "Available"
MAX_GROUP_PRIORITY, MAX_VERSION_PRIORITY = 20_000, 1_000


def available_condition(service: Object) -> Object | None:
    conditions = status_of(service).get("conditions") or ()
    return next((item for item in conditions if item.get("type") == AVAILABLE), None)


def _default(service: Object) -> None:
    reference = spec_of(service).get("service")
    if reference is not None:
        reference.setdefault("port", 443)


def _prepare_create(service: Object) -> None:
    """Nobody has to find out whether this server itself can be reached."""
    service["status"] = {}
    if spec_of(service).get("service") is None:
        local = {
            "type": AVAILABLE,
            "status": "True",
            "reason": "Local",
            "message": "Local APIServices are always available",
            "lastTransitionTime": service["metadata"].get("creationTimestamp"),
        }
        service["status"]["conditions"] = [local]


def _validate(service: Object) -> Iterator[Cause]:
    spec = spec_of(service)
    group, version = spec.get("group", ""), spec.get("version", "")
    if service["metadata"].get("name") != f"{version}.{group}":
        wanted = field.quote(f"{version}.{group}")
        detail = f'must be `spec.version+"."+spec.group`: {wanted}'
        yield field.invalid("metadata.name", service["metadata"].get("name", ""), detail)
    if not group and version != "v1":
        yield field.required("spec.group", "only v1 may have an empty group and it better be legacy kube")
    if group:
        yield from common.subdomain("spec.group", group)
    for problem in meta.dns1035_label(version):
        yield field.invalid("spec.version", version, problem)
    for name, most in (
        ("groupPriorityMinimum", MAX_GROUP_PRIORITY),
        ("versionPriority", MAX_VERSION_PRIORITY),
    ):
        if not 0 < spec.get(name, 0) <= most:
            yield field.invalid(f"spec.{name}", spec.get(name, 0), f"must be positive and less than {most}")
    yield from _where(spec)


def _where(spec: Object) -> Iterator[Cause]:
    reference, bundle = spec.get("service"), spec.get("caBundle") or ""
    insecure = bool(spec.get("insecureSkipTLSVerify"))
    if reference is None:
        if bundle:
            size = f"{len(base64.b64decode(bundle))} bytes"
            yield field.invalid("spec.caBundle", size, "local APIServices may not have a caBundle")
        if insecure:
            detail = "local APIServices may not have insecureSkipTLSVerify"
            yield field.invalid("spec.insecureSkipTLSVerify", True, detail)
        return
    for name in ("namespace", "name"):
        if not reference.get(name):
            yield field.required(f"spec.service.{name}")
    yield from common.port_number("spec.service.port", reference.get("port", 443))
    if insecure and bundle:
        yield field.invalid("spec.insecureSkipTLSVerify", True, "may not be true if caBundle is present")


def _service_cell(service: Object) -> str:
    reference = spec_of(service).get("service")
    return f"{reference['namespace']}/{reference['name']}" if reference else "Local"


def _available_cell(service: Object) -> str:
    condition = available_condition(service)
    if condition is None:
        return "Unknown"
    if condition["status"] != "True" and condition.get("reason"):
        return f"{condition['status']} ({condition['reason']})"
    return str(condition["status"])


API_SERVICE = Kind(
    group=GROUP,
    version="v1",
    kind="APIService",
    resource="apiservices",
    namespaced=False,
    storage_prefix=f"{GROUP}/apiservices",
    singular="apiservice",
    categories=("api-extensions",),
    subresources=("status",),
    columns=(
        common.NAME,
        column("Service", _service_cell),
        column("Available", _available_cell),
        common.AGE,
    ),
    strategy=Strategy(
        default=_default,
        prepare_create=_prepare_create,
        prepare_update=common.keep_status,
        validate=_validate,
        validate_update=common.revalidate(_validate),
        status_prepare_update=common.keep_spec,
        has_generation=False,
    ),
    name_rule="path-segment",
)

KINDS = (API_SERVICE,)
