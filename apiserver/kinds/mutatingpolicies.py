"""MutatingAdmissionPolicies and their bindings (KEP-3962). admission/mutatingpolicies.py carries them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apimachinery import field
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.cel.expressions import MUTATION_RETURNS, compiles, match_conditions, policy_variables
from apiserver.cel.literals import as_maps
from apiserver.kinds import common
from apiserver.kinds.common import column, spec_of
from apiserver.kinds.policies import (
    GROUP,
    binding_causes,
    constraint_causes,
    default_binding,
    default_policy,
    param_kind_causes,
    param_kind_cell,
    param_ref_cell,
    variable_causes,
)

PATCH_TYPES = ("ApplyConfiguration", "JSONPatch")
REINVOCATION = ("IfNeeded", "Never")
# patchType -> the member that carries it.
MEMBERS = {"ApplyConfiguration": "applyConfiguration", "JSONPatch": "jsonPatch"}


def _validate(policy: Object) -> Iterator[Cause]:
    spec = spec_of(policy)
    yield from common.one_of("spec.failurePolicy", spec.get("failurePolicy"), ("Fail", "Ignore"))
    yield from param_kind_causes(spec.get("paramKind"))
    yield from constraint_causes(spec.get("matchConstraints"))
    if not spec.get("reinvocationPolicy"):
        yield field.required("spec.reinvocationPolicy")
    yield from common.one_of("spec.reinvocationPolicy", spec.get("reinvocationPolicy"), REINVOCATION)
    names = policy_variables(params=bool(spec.get("paramKind")))
    before = tuple(name for name in names if name != "variables")
    yield from match_conditions(spec.get("matchConditions") or (), "spec.matchConditions", before)
    yield from variable_causes(spec.get("variables") or (), names)
    if not spec.get("mutations"):
        yield field.required("spec.mutations", "mutations must contain at least one item")
    for at, mutation in enumerate(spec.get("mutations") or ()):
        yield from _mutation(mutation, f"spec.mutations[{at}]", names)


def _mutation(mutation: Mapping[str, Any], path: str, names: tuple[str, ...]) -> Iterator[Cause]:
    kind = mutation.get("patchType", "")
    if kind not in PATCH_TYPES:
        yield field.not_supported(f"{path}.patchType", kind, PATCH_TYPES)
        return
    for other, member in MEMBERS.items():
        if other == kind and not mutation.get(member):
            yield field.required(f"{path}.{member}", f"must be specified when patchType is {kind}")
        elif other == kind:
            text = mutation[member].get("expression", "")
            where = f"{path}.{member}.expression"
            yield from compiles(text, where, names, MUTATION_RETURNS[kind], form=as_maps)
        elif mutation.get(member):
            yield field.forbidden(f"{path}.{member}", f"must not be specified when patchType is {kind}")


def _validate_binding(binding: Object) -> Iterator[Cause]:
    yield from binding_causes(spec_of(binding))


def _count(policy: Object) -> int:
    return len(spec_of(policy).get("mutations") or ())


KINDS = (
    Kind(
        group=GROUP,
        version="v1beta1",
        kind="MutatingAdmissionPolicy",
        resource="mutatingadmissionpolicies",
        namespaced=False,
        storage_prefix="mutatingadmissionpolicies",
        singular="mutatingadmissionpolicy",
        categories=("api-extensions",),
        columns=(
            common.NAME,
            column("Mutations", _count, "integer"),
            column("ParamKind", param_kind_cell),
            common.AGE,
        ),
        strategy=Strategy(
            default=default_policy,
            validate=_validate,
            validate_update=common.revalidate(_validate),
        ),
    ),
    Kind(
        group=GROUP,
        version="v1beta1",
        kind="MutatingAdmissionPolicyBinding",
        resource="mutatingadmissionpolicybindings",
        namespaced=False,
        storage_prefix="mutatingadmissionpolicybindings",
        singular="mutatingadmissionpolicybinding",
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
