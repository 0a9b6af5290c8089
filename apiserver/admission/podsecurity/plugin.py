"""The PodSecurity plugin: pods are refused, and workloads and namespaces warned about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apimachinery import errors
from apimachinery.field import quote
from apiserver.admission.base import Plugin, forbid
from apiserver.admission.podsecurity.policy import PREFIX, PRIVILEGED, Policy, Standard, policy_of, violations
from apiserver.registry.call import Call

Object = dict[str, Any]

# Where workloads keep their pod template.
TEMPLATES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("", "podtemplates"): ("template",),
    ("", "replicationcontrollers"): ("spec", "template"),
    ("apps", "deployments"): ("spec", "template"),
    ("apps", "replicasets"): ("spec", "template"),
    ("apps", "statefulsets"): ("spec", "template"),
    ("apps", "daemonsets"): ("spec", "template"),
    ("batch", "jobs"): ("spec", "template"),
    ("batch", "cronjobs"): ("spec", "jobTemplate", "spec", "template"),
}
MAX_PODS = 3000  # of a namespace that are looked at when its labels change


class PodSecurity(Plugin):
    def handles(self, call: Call) -> bool:
        if call.obj is None:
            return False
        if call.is_for("", "pods"):
            return call.subresource in ("", "ephemeralcontainers")
        where = (call.kind.group, call.kind.resource)
        return not call.subresource and (where in TEMPLATES or where == ("", "namespaces"))

    async def validate(self, call: Call) -> None:
        assert call.obj is not None
        if call.is_for("", "namespaces"):
            self._namespace(call)
            return
        found = await self.context.current("", "namespaces", "", call.namespace)
        policy = policy_of(((found or {}).get("metadata") or {}).get("labels") or {})
        if call.is_for("", "pods"):
            if call.old is None or _matters(call.obj, call.old):
                self._pod(call, policy)
            return
        template: Any = call.obj
        for name in TEMPLATES[(call.kind.group, call.kind.resource)]:
            template = (template or {}).get(name)
        if template:
            self._tell(call, policy, template.get("metadata") or {}, template.get("spec") or {})

    def _pod(self, call: Call, policy: Policy) -> None:
        assert call.obj is not None
        metadata, spec = call.obj["metadata"], call.obj["spec"]
        wrong = violations(policy.enforce, metadata, spec)
        if policy.enforce.level != PRIVILEGED:
            call.annotations[f"{PREFIX}enforce-policy"] = str(policy.enforce)
        self._audit(call, policy, metadata, spec)
        if wrong:
            raise forbid(call, f"violates PodSecurity {quote(str(policy.enforce))}: {wrong}")
        self._warn(call, policy, metadata, spec)

    def _tell(self, call: Call, policy: Policy, metadata: Object, spec: Object) -> None:
        self._audit(call, policy, metadata, spec)
        self._warn(call, policy, metadata, spec)

    @staticmethod
    def _audit(call: Call, policy: Policy, metadata: Object, spec: Object) -> None:
        if wrong := violations(policy.audit, metadata, spec):
            text = f"would violate PodSecurity {quote(str(policy.audit))}: {wrong}"
            call.annotations[f"{PREFIX}audit-violations"] = text

    @staticmethod
    def _warn(call: Call, policy: Policy, metadata: Object, spec: Object) -> None:
        if wrong := violations(policy.warn, metadata, spec):
            text = f"would violate PodSecurity {quote(str(policy.warn))}: {wrong}"
            if text not in call.warnings:
                call.warnings.append(text)

    def _namespace(self, call: Call) -> None:
        """Labels that mean nothing are refused; pods that a new level would refuse are warned about."""
        assert call.obj is not None
        new = policy_of(call.obj["metadata"].get("labels") or {})
        old = (
            policy_of(call.old["metadata"].get("labels") or {})
            if call.old
            else Policy(Standard(), Standard(), Standard())
        )
        if new.wrong and (call.old is None or new.wrong != old.wrong):
            raise errors.invalid("", "Namespace", call.name, list(new.wrong))
        if call.old is None or new.enforce in (old.enforce, Standard()) or new.enforce.level == PRIVILEGED:
            return
        call.warnings += self._existing(call.name, new.enforce)

    def _existing(self, namespace: str, standard: Standard) -> list[str]:
        kind = self.context.scheme.resource("", "v1", "pods")
        assert kind is not None
        by_text: dict[str, list[str]] = {}
        for count, entry in enumerate(self.context.cacher.of(kind).scan(f"{namespace}/")):
            if count >= MAX_PODS:
                break
            pod = entry.decoded()
            if wrong := violations(standard, pod["metadata"], pod["spec"]):
                reasons = ", ".join(part.partition(" (")[0] for part in _split(wrong))
                by_text.setdefault(reasons, []).append(entry.name)
        if not by_text:
            return []
        head = f"existing pods in namespace {quote(namespace)} violate the new PodSecurity enforce level "
        head += quote(str(standard))
        return [head, *(f"{_pods(names)}: {text}" for text, names in sorted(by_text.items()))]


def _split(wrong: str) -> list[str]:
    """The parts of a violation text: reasons end at the bracket that closes their detail."""
    out, depth, start = [], 0, 0
    for at, char in enumerate(wrong):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "," and not depth:
            out.append(wrong[start:at].strip())
            start = at + 1
    return [*out, wrong[start:].strip()]


def _pods(names: list[str]) -> str:
    more = len(names) - 1
    return f"{names[0]} (and {more} other pod{'' if more == 1 else 's'})" if more else names[0]


def _matters(new: Object, old: Object) -> bool:
    """Whether an update changes what the standards look at."""
    key = "annotations"
    return bool(new["spec"] != old["spec"] or new["metadata"].get(key) != old["metadata"].get(key))


__all__ = ["PodSecurity"]
