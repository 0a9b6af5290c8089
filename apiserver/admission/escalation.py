"""RBAC's escalation check: nobody grants more than they hold, unless they may `escalate` (roles) or `bind`
(bindings).
"""

from __future__ import annotations

from typing import Any

from apiserver.admission.base import Plugin, forbid
from apiserver.auth.authorize import Attributes
from apiserver.auth.rules import Rule, rules_of, uncovered
from apiserver.auth.user import MASTERS
from apiserver.registry.call import Call

GROUP = "rbac.authorization.k8s.io"
ROLES, BINDINGS = ("roles", "clusterroles"), ("rolebindings", "clusterrolebindings")


class EscalationCheck(Plugin):
    """Always on: not a plugin one can disable."""

    def handles(self, call: Call) -> bool:
        return call.kind.group == GROUP and call.obj is not None and MASTERS not in call.user.groups

    async def validate(self, call: Call) -> None:
        assert call.obj is not None
        if call.kind.resource in ROLES:
            if call.old is not None and rules_of(call.old) == rules_of(call.obj):
                return
            self._check(call, "escalate", call.kind.resource, call.name, rules_of(call.obj))
        elif call.kind.resource in BINDINGS:
            ref = call.obj.get("roleRef") or {}
            resource = "clusterroles" if ref.get("kind") == "ClusterRole" else "roles"
            if (
                call.old is not None
                and call.old.get("subjects") == call.obj.get("subjects")
                and call.old.get("roleRef") == ref
            ):
                return
            rules = self.context.rbac.role_rules(ref.get("kind", ""), call.namespace, ref.get("name", ""))
            self._check(call, "bind", resource, ref.get("name", ""), rules)

    def _check(self, call: Call, verb: str, resource: str, name: str, rules: list[Rule] | None) -> None:
        """`rules` None: the role does not exist, which only a holder of the verb may bind to."""
        may = Attributes(call.user, verb, GROUP, resource, call.namespace, name)
        if self.context.authorizer.allows(may):
            return
        if rules is None:
            raise forbid(call, f'{resource}.{GROUP} "{name}" not found')
        missing = uncovered(rules, self.context.rbac.rules_for(call.user, call.namespace))
        if missing:
            raise forbid(call, _words(call, missing))


def _words(call: Call, missing: list[Rule]) -> str:
    listed = "\n".join(_shown(rule.as_dict()) for rule in missing)
    groups = " ".join(f'"{group}"' for group in call.user.groups)
    return (
        f'user "{call.user.name}" (groups=[{groups}]) is attempting to grant RBAC permissions not '
        f"currently held:\n{listed}"
    )


def _shown(rule: dict[str, Any]) -> str:
    names = (
        ("apiGroups", "APIGroups"),
        ("resources", "Resources"),
        ("resourceNames", "ResourceNames"),
        ("nonResourceURLs", "NonResourceURLs"),
        ("verbs", "Verbs"),
    )
    parts = [
        f"{title}:[{', '.join(f'{chr(34)}{value}{chr(34)}' for value in rule[key])}]"
        for key, title in names
        if key in rule
    ]
    return "{" + ", ".join(parts) + "}"
