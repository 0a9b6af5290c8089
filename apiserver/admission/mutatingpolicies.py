"""MutatingAdmissionPolicy (KEP-3962): what its expressions give is merged into the object, as server-side
apply would, or applied as a JSON patch; in the order of the policies' names, before the webhooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apimachinery import errors
from apimachinery.errors import StatusError
from apimachinery.managedfields import atomic, walk
from apimachinery.patch import json as json_patch
from apiserver.admission.bindings import BoundPolicies, Unconfigured
from apiserver.admission.expressions import Facts, met
from apiserver.admission.matching import Matcher, converted
from apiserver.cel.expressions import MUTATION_RETURNS, policy_variables
from apiserver.cel.literals import as_maps
from apiserver.cel.runtime import Failed
from apiserver.registry.call import Call
from apiserver.registry.patching import clone

Object = dict[str, Any]
# What identifies an object is not for a policy to change.
FIXED = ("name", "namespace", "uid")


class MutatingAdmissionPolicy(BoundPolicies):
    version = "v1beta1"
    policies = "mutatingadmissionpolicies"
    bindings = "mutatingadmissionpolicybindings"

    async def mutate(self, call: Call) -> None:
        """In turn; a policy that wants it has a second go when others have changed the object after it."""
        if call.obj is None:
            return
        bindings = self._bindings()
        bound = [(policy, each) for name, policy in self._policies(bindings) for each in bindings[name]]
        left = [
            (policy, binding, clone(call.obj))
            for policy, binding in bound
            if await self._carry_out(call, policy, binding)
            and policy["spec"].get("reinvocationPolicy") == "IfNeeded"
        ]
        for policy, binding, made in left:
            if made != call.obj:
                await self._carry_out(call, policy, binding)

    async def _carry_out(self, call: Call, policy: Object, binding: Object) -> bool:
        """Mutate as one binding says; whether it was for this call."""
        matcher = Matcher(self.context, call)
        resources = binding["spec"].get("matchResources")
        if resources is not None and not await matcher.match_within(resources):
            return False
        seen = await matcher.match(policy["spec"].get("matchConstraints") or {})
        if seen is None or seen.obj is None:
            return False
        try:
            for params in self._params(policy["spec"], binding["spec"].get("paramRef"), call):
                seen.obj = self._mutated(seen, policy["spec"], params)
        except (Failed, Unconfigured, StatusError) as error:
            if policy["spec"].get("failurePolicy") == "Ignore":
                return True
            raise _refusal(call, policy, binding, str(error)) from error
        call.obj = await converted(seen.obj, seen.kind, call.kind)
        assert call.obj is not None
        call.kind.strategy.default(call.obj)
        return True

    def _mutated(self, seen: Call, spec: Object, params: Object | None) -> Object:
        """The object after all mutations of one policy. Raises Failed, and StatusError for a patch that
        cannot be applied.
        """
        context, names = self.context, policy_variables(params=bool(spec.get("paramKind")))
        namespace = context.cached("", "namespaces", "", seen.namespace) if seen.namespace else None
        before = tuple(name for name in names if name != "variables")
        facts = Facts(seen, context.authorizer, namespace)
        facts.with_params(params)
        assert seen.obj is not None
        if not met(spec.get("matchConditions") or (), facts, before):
            return seen.obj
        for mutation in spec.get("mutations") or ():
            facts = Facts(seen, context.authorizer, namespace)  # each sees what those before it did
            facts.with_params(params)
            facts.set_variables(spec.get("variables") or (), names)
            seen.obj = self._one(seen, mutation, facts, names)
        return seen.obj

    def _one(self, seen: Call, mutation: Object, facts: Facts, names: tuple[str, ...]) -> Object:
        assert seen.obj is not None
        patch_type = mutation["patchType"]
        member = "applyConfiguration" if patch_type == "ApplyConfiguration" else "jsonPatch"
        text = mutation[member]["expression"]
        try:
            given = facts.evaluate(as_maps(text), names, MUTATION_RETURNS[patch_type])
        except Failed as error:
            raise Failed(f"expression '{text}' resulted in error: {error}") from None
        if patch_type == "JSONPatch":
            out = json_patch.apply(seen.obj, given)
        else:
            out = self._applied(seen, given)
        _check_fixed(seen.obj, out)
        return out

    def _applied(self, seen: Call, config: Any) -> Object:
        """Merged by the kind's types; lists and maps that are one value are not for a policy to replace."""
        if not isinstance(config, dict):
            raise Failed("the expression did not give an object")
        kind = self.context.registry.ownership.type_of(seen.kind)
        if path := atomic.first(kind, config):
            raise Failed(f"error applying patch: may not mutate atomic arrays, maps or structs: {path}")
        try:
            walk.fields_of(kind, config)
        except walk.Untypable as error:
            raise Failed(f"error applying patch: {error}") from None
        merged: Object = walk.merge(kind, seen.obj, config)
        return merged


def _check_fixed(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    same = all(new.get(name) == old.get(name) for name in ("kind", "apiVersion"))
    before, after = old["metadata"], new.get("metadata")
    if not same or not isinstance(after, dict) or any(after.get(name) != before.get(name) for name in FIXED):
        raise Failed("a mutation must not change what identifies the object")


def _refusal(call: Call, policy: Object, binding: Object, why: str) -> StatusError:
    names = f"'{policy['metadata']['name']}' with binding '{binding['metadata']['name']}'"
    error = errors.forbidden(
        call.kind.group, call.kind.resource, call.name, f"policy {names} denied request: {why}"
    )
    error.status["reason"], error.status["code"] = "Invalid", 422
    return StatusError(error.status)
