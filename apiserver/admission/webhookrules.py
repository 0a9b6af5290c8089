"""Which webhooks a request is for, and what they are told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apimachinery import selectors
from apiserver.registry.call import Call

Object = dict[str, Any]
GROUP = "admissionregistration.k8s.io"


def operation_of(call: Call) -> str:
    if call.obj is None:
        return "DELETE"
    return "CREATE" if call.old is None else "UPDATE"


def wants(hook: Mapping[str, Any], call: Call, namespace_labels: Mapping[str, str]) -> bool:
    """Whether a webhook's rules and selectors take in this call. Configurations of webhooks are never sent:
    one
    that refuses everything could not be taken away again.
    """
    if call.kind.group == GROUP:
        return False
    if not any(matches(rule, call) for rule in hook.get("rules") or ()):
        return False
    if call.kind.namespaced or call.is_for("", "namespaces"):
        selector = selectors.label_selector_from(hook.get("namespaceSelector") or {})
        if not selector.matches(namespace_labels):
            return False
    selector = selectors.label_selector_from(hook.get("objectSelector") or {})
    found = [obj for obj in (call.obj, call.old) if obj is not None]
    return any(selector.matches(obj["metadata"].get("labels") or {}) for obj in found)


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


def review(call: Call, uid: str) -> Object:
    """The `admission.k8s.io/v1` AdmissionReview of a call."""
    kind, operation = call.kind, operation_of(call)
    gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    gvr = {"group": kind.group, "version": kind.version, "resource": kind.resource}
    request: Object = {
        "uid": uid,
        "kind": gvk,
        "resource": gvr,
        "requestKind": gvk,
        "requestResource": gvr,
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
