"""ValidatingAdmissionPolicy (KEP-3488): policies in CEL, bound to resources and parameters.

For every binding that takes in a call, and every parameter it finds, the policy's validations are evaluated;
the binding says whether a failure denies, warns or is only recorded in the audit log.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from apimachinery import errors
from apimachinery.errors import StatusError
from apiserver.admission.bindings import BoundPolicies, Unconfigured
from apiserver.admission.expressions import Facts, met
from apiserver.admission.matching import Matcher
from apiserver.cel.expressions import policy_variables
from apiserver.cel.runtime import Failed
from apiserver.registry.call import Call

Object = dict[str, Any]

POLICIES, BINDINGS = "validatingadmissionpolicies", "validatingadmissionpolicybindings"
CODES = {"Unauthorized": 401, "Forbidden": 403, "RequestEntityTooLarge": 413, "Invalid": 422}
AUDIT_KEY = "validation.policy.admission.k8s.io/validation_failure"
ANNOTATION_RETURNS = ("STRING", "NULL")


class Finding(NamedTuple):
    """A validation that failed."""

    message: str
    reason: str = ""
    expression: int = 0


class ValidatingAdmissionPolicy(BoundPolicies):
    policies, bindings = POLICIES, BINDINGS

    async def validate(self, call: Call) -> None:
        bindings = self._bindings()
        denied: StatusError | None = None
        matcher = Matcher(self.context, call)
        for name, policy in self._policies(bindings):
            spec = policy["spec"]
            seen = await matcher.match(spec.get("matchConstraints") or {})
            if seen is None:
                continue
            for binding in bindings[name]:
                resources = binding["spec"].get("matchResources")
                if resources is not None and not await matcher.match_within(resources):
                    continue
                refusal = self._judge(call, seen, policy, binding)
                denied = denied or refusal
        if denied is not None:
            raise denied

    def _judge(self, call: Call, seen: Call, policy: Object, binding: Object) -> StatusError | None:
        """Carry a binding out; what it refuses, if it does."""
        findings: list[Finding] = []
        try:
            for params in self._params(policy["spec"], binding["spec"].get("paramRef"), call):
                findings += self._evaluate(call, seen, policy, params)
        except Unconfigured as error:
            if policy["spec"].get("failurePolicy") == "Ignore":
                return None
            return _denial(call, policy, binding, Finding(f"failed to configure binding: {error}"))
        actions = binding["spec"].get("validationActions") or ()
        names = policy["metadata"]["name"], binding["metadata"]["name"]
        if findings and "Audit" in actions:
            _record(call, *names, actions, findings)
        if "Warn" in actions:
            shown = f"Validation failed for ValidatingAdmissionPolicy '{names[0]}' with binding '{names[1]}'"
            texts = [f"{shown}: {finding.message}" for finding in findings]
            call.warnings += [text for text in texts if text not in call.warnings]
        return _denial(call, policy, binding, findings[0]) if findings and "Deny" in actions else None

    def _evaluate(self, call: Call, seen: Call, policy: Object, params: Object | None) -> list[Finding]:
        """The validations that fail. What ends with an error fails too, unless the policy ignores that."""
        spec, context = policy["spec"], self.context
        ignores = spec.get("failurePolicy") == "Ignore"
        names = policy_variables(params=bool(spec.get("paramKind")))
        namespace = context.cached("", "namespaces", "", call.namespace) if call.namespace else None
        facts = Facts(seen, context.authorizer, namespace)
        facts.with_params(params)
        before = tuple(name for name in names if name != "variables")
        try:
            if not met(spec.get("matchConditions") or (), facts, before):
                return []
        except Failed as error:
            return [] if ignores else [Finding(str(error))]
        facts.set_variables(spec.get("variables") or (), names)
        findings = []
        for at, validation in enumerate(spec.get("validations") or ()):
            text = validation["expression"]
            try:
                if facts.evaluate(text, names) is not True:
                    findings.append(_failed(validation, facts, names, at))
            except Failed as error:
                if not ignores:
                    findings.append(Finding(f"expression '{text}' resulted in error: {error}", "", at))
        self._annotate(call, policy, facts, names)
        return findings

    @staticmethod
    def _annotate(call: Call, policy: Object, facts: Facts, names: tuple[str, ...]) -> None:
        for annotation in policy["spec"].get("auditAnnotations") or ():
            try:
                value = facts.evaluate(annotation["valueExpression"], names, ANNOTATION_RETURNS)
            except Failed:
                continue
            if isinstance(value, str) and value:
                call.annotations[f"{policy['metadata']['name']}/{annotation['key']}"] = value


def _failed(validation: Object, facts: Facts, names: tuple[str, ...], at: int) -> Finding:
    """In the words the validation has for it; a message expression that fails gives way to the message."""
    text = (
        validation.get("message") or ""
    ).strip() or f"failed expression: {validation['expression'].strip()}"
    if validation.get("messageExpression"):
        try:
            made = facts.evaluate(validation["messageExpression"], names, ("STRING",))
        except Failed:
            made = ""
        if isinstance(made, str) and made.strip() and "\n" not in made.strip():
            text = made.strip()
    return Finding(text, validation.get("reason") or "", at)


def _denial(call: Call, policy: Object, binding: Object, finding: Finding) -> StatusError:
    names = f"'{policy['metadata']['name']}' with binding '{binding['metadata']['name']}'"
    text = f"ValidatingAdmissionPolicy {names} denied request: {finding.message}"
    error = errors.forbidden(call.kind.group, call.kind.resource, call.name, text)
    reason = finding.reason or "Invalid"
    error.status["reason"], error.status["code"] = reason, CODES[reason]
    error.status["details"]["causes"] = [{"message": text}]
    return StatusError(error.status)


def _record(call: Call, policy: str, binding: str, actions: Any, findings: list[Finding]) -> None:
    """The audit annotation that lists the failures of this call."""
    told = orjson.loads(call.annotations.get(AUDIT_KEY, "[]"))
    told += [
        {
            "message": finding.message,
            "policy": policy,
            "binding": binding,
            "expressionIndex": str(finding.expression),
            "validationActions": list(actions),
        }
        for finding in findings
    ]
    call.annotations[AUDIT_KEY] = orjson.dumps(told).decode()
