"""ValidatingAdmissionPolicies and their bindings (KEP-3488). admission/policies.py carries them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apimachinery import field, meta, selectors
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.cel.expressions import ANY, compiles, match_conditions, policy_variables
from apiserver.kinds import common
from apiserver.kinds.common import column, spec_of
from apiserver.kinds.webhooks import rule_causes

GROUP = "admissionregistration.k8s.io"
REASONS = ("Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized")
ACTIONS = ("Audit", "Deny", "Warn")
NOT_FOUND_ACTIONS = ("Allow", "Deny")
UNSET = "<unset>"


def _default_match(match: Object | None) -> None:
    if match is None:
        return
    match.setdefault("matchPolicy", "Equivalent")
    match.setdefault("namespaceSelector", {})
    match.setdefault("objectSelector", {})
    for name in ("resourceRules", "excludeResourceRules"):
        for rule in match.get(name) or ():
            rule.setdefault("scope", "*")


def default_policy(policy: Object) -> None:
    spec = common.spec_for(policy)
    spec.setdefault("failurePolicy", "Fail")
    _default_match(spec.get("matchConstraints"))


def default_binding(binding: Object) -> None:
    _default_match(common.spec_for(binding).get("matchResources"))


def _match(match: Mapping[str, Any], path: str) -> Iterator[Cause]:
    yield from common.one_of(f"{path}.matchPolicy", match.get("matchPolicy"), ("Equivalent", "Exact"))
    for name in ("namespaceSelector", "objectSelector"):
        yield from selectors.validate_label_selector(match.get(name) or {}, f"{path}.{name}")
    for name in ("resourceRules", "excludeResourceRules"):
        for at, rule in enumerate(match.get(name) or ()):
            yield from rule_causes(rule, f"{path}.{name}[{at}]")


# -- policies -----------------------------------------------------------------------------------------------


def _validate_policy(policy: Object) -> Iterator[Cause]:
    spec = spec_of(policy)
    yield from common.one_of("spec.failurePolicy", spec.get("failurePolicy"), ("Fail", "Ignore"))
    yield from param_kind_causes(spec.get("paramKind"))
    yield from constraint_causes(spec.get("matchConstraints"))
    names = policy_variables(params=bool(spec.get("paramKind")))
    before = tuple(name for name in names if name != "variables")
    yield from match_conditions(spec.get("matchConditions") or (), "spec.matchConditions", before)
    yield from variable_causes(spec.get("variables") or (), names)
    validations, annotations = spec.get("validations") or (), spec.get("auditAnnotations") or ()
    if not validations and not annotations:
        detail = "validations or auditAnnotations must contain at least one item"
        yield field.required("spec.validations", detail)
        yield field.required("spec.auditAnnotations", detail)
    for at, validation in enumerate(validations):
        yield from _validation(validation, f"spec.validations[{at}]", names)
    yield from _annotations(annotations, names)


def constraint_causes(match: Mapping[str, Any] | None) -> Iterator[Cause]:
    """The rules of `matchConstraints`."""
    if match is None:
        yield field.required("spec.matchConstraints")
        return
    yield from _match(match, "spec.matchConstraints")
    if not match.get("resourceRules"):
        yield field.required("spec.matchConstraints.resourceRules")


def param_kind_causes(kind: Mapping[str, Any] | None) -> Iterator[Cause]:
    if kind is None:
        return
    if not kind.get("apiVersion"):
        yield field.required("spec.paramKind.apiVersion")
    if not kind.get("kind"):
        yield field.required("spec.paramKind.kind")


def variable_causes(given: Any, names: tuple[str, ...]) -> Iterator[Cause]:
    yield from common.unique("spec.variables", "name", given)
    for at, variable in enumerate(given):
        name = variable.get("name", "")
        if not name.isidentifier():
            yield field.invalid(f"spec.variables[{at}].name", name, "name is not a valid CEL identifier")
        yield from compiles(variable.get("expression", ""), f"spec.variables[{at}].expression", names, ANY)


def _validation(validation: Mapping[str, Any], path: str, names: tuple[str, ...]) -> Iterator[Cause]:
    message = validation.get("message") or ""
    if message and not message.strip():
        yield field.invalid(f"{path}.message", message, "message must be non-empty if specified")
    if "\n" in message.strip():
        yield field.invalid(f"{path}.message", message, "message must not contain line breaks")
    yield from compiles(validation.get("expression", ""), f"{path}.expression", names)
    if validation.get("messageExpression"):
        where = f"{path}.messageExpression"
        yield from compiles(validation["messageExpression"], where, names, ("STRING",))
    if validation.get("reason"):
        yield from common.one_of(f"{path}.reason", validation["reason"], REASONS)


def _annotations(given: Any, names: tuple[str, ...]) -> Iterator[Cause]:
    yield from common.unique("spec.auditAnnotations", "key", given)
    for at, annotation in enumerate(given):
        path, key = f"spec.auditAnnotations[{at}]", annotation.get("key", "")
        for problem in meta.qualified_name(key):
            yield field.invalid(f"{path}.key", key, problem)
        yield from compiles(
            annotation.get("valueExpression", ""), f"{path}.valueExpression", names, ("STRING", "NULL")
        )


# -- bindings -----------------------------------------------------------------------------------------------


def binding_causes(spec: Mapping[str, Any]) -> Iterator[Cause]:
    """What bindings of both sorts of policies must be."""
    if not spec.get("policyName"):
        yield field.required("spec.policyName")
    else:
        yield from common.subdomain("spec.policyName", spec["policyName"])
    yield from _param_ref(spec.get("paramRef"))
    if spec.get("matchResources") is not None:
        yield from _match(spec["matchResources"], "spec.matchResources")


def _validate_binding(binding: Object) -> Iterator[Cause]:
    spec = spec_of(binding)
    yield from binding_causes(spec)
    actions = spec.get("validationActions") or []
    if not actions:
        yield field.required("spec.validationActions")
    for at, action in enumerate(actions):
        yield from common.one_of(f"spec.validationActions[{at}]", action, ACTIONS)
        if action in actions[:at]:
            yield field.duplicate(f"spec.validationActions[{at}]", action)
    if "Deny" in actions and "Warn" in actions:
        detail = "must not contain both Deny and Warn (repeating the same validation failure information in "
        yield field.invalid("spec.validationActions", actions, f"{detail}the API response and headers)")


def _param_ref(ref: Mapping[str, Any] | None) -> Iterator[Cause]:
    if ref is None:
        return
    path = "spec.paramRef"
    named, selected = bool(ref.get("name")), ref.get("selector") is not None
    if named and selected:
        yield field.forbidden(f"{path}.name", "name and selector are mutually exclusive")
    if not named and not selected:
        yield field.required(path, "one of name or selector must be specified")
    if selected:
        yield from selectors.validate_label_selector(ref["selector"], f"{path}.selector")
    yield from common.one_of(
        f"{path}.parameterNotFoundAction", ref.get("parameterNotFoundAction"), NOT_FOUND_ACTIONS
    )


# -- columns ------------------------------------------------------------------------------------------------


def param_kind_cell(policy: Object) -> str:
    kind = spec_of(policy).get("paramKind")
    return f"{kind.get('apiVersion', '')}/{kind.get('kind', '')}" if kind else UNSET


def param_ref_cell(binding: Object) -> str:
    ref = spec_of(binding).get("paramRef")
    if not ref:
        return UNSET
    if ref.get("selector") is not None:
        return common.selector_text(ref["selector"])
    return f"{ref['namespace']}/{ref['name']}" if ref.get("namespace") else str(ref.get("name", ""))


def _count(policy: Object) -> int:
    return len(spec_of(policy).get("validations") or ())


KINDS = (
    Kind(
        group=GROUP,
        version="v1",
        kind="ValidatingAdmissionPolicy",
        resource="validatingadmissionpolicies",
        namespaced=False,
        storage_prefix="validatingadmissionpolicies",
        singular="validatingadmissionpolicy",
        categories=("api-extensions",),
        subresources=("status",),
        columns=(
            common.NAME,
            column("Validations", _count, "integer"),
            column("ParamKind", param_kind_cell),
            common.AGE,
        ),
        strategy=Strategy(
            default=default_policy,
            prepare_create=common.drop_status,
            prepare_update=common.keep_status,
            validate=_validate_policy,
            validate_update=common.revalidate(_validate_policy),
            status_prepare_update=common.keep_spec,
        ),
    ),
    Kind(
        group=GROUP,
        version="v1",
        kind="ValidatingAdmissionPolicyBinding",
        resource="validatingadmissionpolicybindings",
        namespaced=False,
        storage_prefix="validatingadmissionpolicybindings",
        singular="validatingadmissionpolicybinding",
        categories=("api-extensions",),
        columns=(
            common.NAME,
            column("PolicyName", common.text("spec", "policyName")),
            column("ParamRef", param_ref_cell),
            common.AGE,
        ),
        strategy=Strategy(
            default=default_binding,
            validate=_validate_binding,
            validate_update=common.revalidate(_validate_binding),
        ),
    ),
)
