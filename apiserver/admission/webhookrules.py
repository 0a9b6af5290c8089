"""Which webhooks a request is for, and what they are told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apimachinery.scheme import Kind
from apiserver.registry.call import Call

Object = dict[str, Any]
GROUP = "admissionregistration.k8s.io"


def operation_of(call: Call) -> str:
    if call.obj is None:
        return "DELETE"
    return "CREATE" if call.old is None else "UPDATE"


def matches(rule: Mapping[str, Any], call: Call) -> bool:
    kind = call.kind
    if rule.get("scope", "*") not in ("*", "Namespaced" if kind.namespaced else "Cluster"):
        return False
    given = (
        ("operations", operation_of(call)),
        ("apiGroups", kind.group),
        ("apiVersions", kind.version),
    )
    if not all(value in (rule.get(name) or ()) or "*" in (rule.get(name) or ()) for name, value in given):
        return False
    return any(_resource(text, kind.resource, call.subresource) for text in rule.get("resources") or ())


def _resource(text: str, resource: str, subresource: str) -> bool:
    """`pods`, `pods/status`, `pods/*`, `*/scale`, `*` (no subresource) or `*/*`."""
    name, slash, below = text.partition("/")
    if name not in ("*", resource):
        return False
    return below in ("*", subresource) if slash else not subresource


def _names(kind: Kind) -> tuple[Object, Object]:
    gv = {"group": kind.group, "version": kind.version}
    return {**gv, "kind": kind.kind}, {**gv, "resource": kind.resource}


def review(call: Call, uid: str, original: Kind | None = None) -> Object:
    """The `admission.k8s.io/v1` AdmissionReview of a call; `original` is the kind that was asked for, when
    the call was converted to another version.
    """
    kind, operation = call.kind, operation_of(call)
    asked = original or kind
    gvk, gvr = _names(kind)
    request_gvk, request_gvr = _names(asked)
    request: Object = {
        "uid": uid,
        "kind": gvk,
        "resource": gvr,
        "requestKind": request_gvk,
        "requestResource": request_gvr,
        "name": call.name,
        "operation": operation,
        "userInfo": call.user.as_dict(),
        "object": call.obj,
        "oldObject": call.old,
        "dryRun": call.dry_run,
        "options": {"kind": f"{operation.title()}Options", "apiVersion": "meta.k8s.io/v1"},
    }
    if call.subresource:
        request["subResource"] = request["requestSubResource"] = call.subresource
    if kind.namespaced:
        request["namespace"] = call.namespace
    elif call.is_for("", "namespaces"):
        request["namespace"] = call.name
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
