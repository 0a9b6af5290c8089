"""Roles and their bindings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from apimachinery import field, selectors
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apimachinery.table import CREATED_AT
from apiserver.kinds import common
from apiserver.kinds.common import column

GROUP = "rbac.authorization.k8s.io"


# -- roles --------------------------------------------------------------------------------------------------


def _default_role(role: Object) -> None:
    role.setdefault("rules", [])


def _rule(rule: Mapping[str, Any], path: str, *, namespaced: bool) -> Iterator[Cause]:
    if not rule.get("verbs"):
        yield field.required(f"{path}.verbs", "verbs must contain at least one value")
    urls = rule.get("nonResourceURLs") or []
    if urls:
        if namespaced:
            detail = "namespaced rules cannot apply to non-resource URLs"
            yield field.invalid(f"{path}.nonResourceURLs", urls, detail)
        if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
            detail = "rules cannot apply to both regular resources and non-resource URLs"
            yield field.invalid(f"{path}.nonResourceURLs", urls, detail)
        return
    if not rule.get("apiGroups"):
        yield field.required(f"{path}.apiGroups", "resource rules must supply at least one api group")
    if not rule.get("resources"):
        yield field.required(f"{path}.resources", "resource rules must supply at least one resource")


def _validate_role(role: Object) -> Iterator[Cause]:
    for at, rule in enumerate(role.get("rules") or ()):
        yield from _rule(rule, f"rules[{at}]", namespaced=True)


def _validate_cluster_role(role: Object) -> Iterator[Cause]:
    for at, rule in enumerate(role.get("rules") or ()):
        yield from _rule(rule, f"rules[{at}]", namespaced=False)
    aggregation = role.get("aggregationRule")
    if aggregation is None:
        return
    path = "aggregationRule.clusterRoleSelectors"
    found = aggregation.get("clusterRoleSelectors") or ()
    if not found:
        yield field.required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil")
    for at, selector in enumerate(found):
        yield from selectors.validate_label_selector(selector, f"{path}[{at}]")


# -- bindings -----------------------------------------------------------------------------------------------


def _default_binding(binding: Object) -> None:
    reference = binding.setdefault("roleRef", {})
    if not reference.get("apiGroup"):
        reference["apiGroup"] = GROUP
    for subject in binding.get("subjects") or ():
        if not subject.get("apiGroup") and subject.get("kind") in ("User", "Group"):
            subject["apiGroup"] = GROUP


def _subject(subject: Mapping[str, Any], path: str) -> Iterator[Cause]:
    kind, group = subject.get("kind", ""), subject.get("apiGroup", "")
    if not subject.get("name"):
        yield field.required(f"{path}.name")
    if kind == "ServiceAccount":
        if name := subject.get("name"):
            yield from common.subdomain(f"{path}.name", name)
        if group:
            yield field.not_supported(f"{path}.apiGroup", group, ("",))
        if not subject.get("namespace"):
            yield field.required(f"{path}.namespace")
    elif kind in ("User", "Group"):
        if group != GROUP:
            yield field.not_supported(f"{path}.apiGroup", group, (GROUP,))
    else:
        yield field.not_supported(f"{path}.kind", kind, ("ServiceAccount", "User", "Group"))


def _binding_rules(kinds: tuple[str, ...]) -> Callable[[Object], Iterator[Cause]]:
    def validate(binding: Object) -> Iterator[Cause]:
        reference = binding.get("roleRef") or {}
        if reference.get("apiGroup") != GROUP:
            yield field.not_supported("roleRef.apiGroup", reference.get("apiGroup", ""), (GROUP,))
        if reference.get("kind") not in kinds:
            yield field.not_supported("roleRef.kind", reference.get("kind", ""), kinds)
        if not reference.get("name"):
            yield field.required("roleRef.name")
        for at, subject in enumerate(binding.get("subjects") or ()):
            yield from _subject(subject, f"subjects[{at}]")

    return validate


def _binding_update_rules(kinds: tuple[str, ...]) -> Callable[[Object, Object], Iterator[Cause]]:
    validate = _binding_rules(kinds)

    def validate_update(new: Object, old: Object) -> Iterator[Cause]:
        yield from validate(new)
        if new.get("roleRef") != old.get("roleRef"):
            yield field.invalid("roleRef", new.get("roleRef"), "cannot change roleRef")

    return validate_update


def _role_cell(binding: Object) -> str:
    reference = binding.get("roleRef") or {}
    return f"{reference.get('kind', '')}/{reference.get('name', '')}"


def _subjects_cell(kind: str) -> Callable[[Object], str]:
    def cell(binding: Object) -> str:
        found = [subject for subject in binding.get("subjects") or () if subject.get("kind") == kind]
        if kind == "ServiceAccount":
            return ", ".join(f"{item.get('namespace', '')}/{item.get('name', '')}" for item in found)
        return ", ".join(str(item.get("name", "")) for item in found)

    return cell


_BINDING_COLUMNS = (
    common.NAME,
    column("Role", _role_cell),
    common.AGE,
    column("Users", _subjects_cell("User"), wide=True),
    column("Groups", _subjects_cell("Group"), wide=True),
    column("ServiceAccounts", _subjects_cell("ServiceAccount"), wide=True),
)


def _role_kind(kind: str, resource: str, *, namespaced: bool) -> Kind:
    validate = _validate_role if namespaced else _validate_cluster_role
    return Kind(
        group=GROUP,
        version="v1",
        kind=kind,
        resource=resource,
        namespaced=namespaced,
        storage_prefix=resource,
        singular=kind.lower(),
        columns=(common.NAME, CREATED_AT),
        strategy=Strategy(
            default=_default_role,
            validate=validate,
            validate_update=common.revalidate(validate),
            has_generation=False,
            allow_create_on_update=True,
        ),
        name_rule="path-segment",
    )


def _binding_kind(kind: str, resource: str, *, namespaced: bool) -> Kind:
    kinds = ("Role", "ClusterRole") if namespaced else ("ClusterRole",)
    return Kind(
        group=GROUP,
        version="v1",
        kind=kind,
        resource=resource,
        namespaced=namespaced,
        storage_prefix=resource,
        singular=kind.lower(),
        columns=_BINDING_COLUMNS,
        strategy=Strategy(
            default=_default_binding,
            validate=_binding_rules(kinds),
            validate_update=_binding_update_rules(kinds),
            has_generation=False,
            allow_create_on_update=True,
        ),
        name_rule="path-segment",
    )


KINDS = (
    _role_kind("ClusterRole", "clusterroles", namespaced=False),
    _binding_kind("ClusterRoleBinding", "clusterrolebindings", namespaced=False),
    _role_kind("Role", "roles", namespaced=True),
    _binding_kind("RoleBinding", "rolebindings", namespaced=True),
)
