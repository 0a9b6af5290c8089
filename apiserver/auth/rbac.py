"""The RBAC authorizer, over the watch cache: bindings indexed by subject, roles parsed once, both rebuilt
on change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from apimachinery.scheme import Scheme
from apiserver.auth.authorize import Attributes, Decision
from apiserver.auth.rules import Rule, rules_of
from apiserver.auth.user import SERVICE_ACCOUNT_PREFIX, User
from apiserver.storage.cacher import Cacher

GROUP, VERSION = "rbac.authorization.k8s.io", "v1"
RESOURCES = ("clusterroles", "roles", "clusterrolebindings", "rolebindings")


class Grant(NamedTuple):
    """A binding as seen from its subject; namespace "" is the whole cluster."""

    namespace: str
    role_kind: str
    role_name: str
    binding: str


class Index:
    """Everything RBAC knows at one moment."""

    def __init__(self) -> None:
        self.roles: dict[tuple[str, str, str], list[Rule]] = {}
        self.grants: dict[str, list[Grant]] = {}

    def add_role(self, kind: str, role: Mapping[str, Any]) -> None:
        fields = role["metadata"]
        self.roles[(kind, fields.get("namespace", ""), fields["name"])] = rules_of(role)

    def add_binding(self, binding: Mapping[str, Any]) -> None:
        fields, ref = binding["metadata"], binding.get("roleRef") or {}
        grant = Grant(fields.get("namespace", ""), ref.get("kind", ""), ref.get("name", ""), fields["name"])
        for subject in binding.get("subjects") or ():
            self.grants.setdefault(subject_key(subject, grant.namespace), []).append(grant)

    def rules(self, user: User, namespace: str) -> Iterator[tuple[Grant, Rule]]:
        """All rules the user has in a namespace ("": cluster-wide ones only)."""
        for key in (f"User:{user.name}", *(f"Group:{group}" for group in user.groups)):
            for grant in self.grants.get(key, ()):
                if grant.namespace and grant.namespace != namespace:
                    continue
                scope = "" if grant.role_kind == "ClusterRole" else grant.namespace
                for rule in self.roles.get((grant.role_kind, scope, grant.role_name), ()):
                    yield grant, rule


def subject_key(subject: Mapping[str, Any], binding_namespace: str) -> str:
    kind, name = subject.get("kind"), subject.get("name", "")
    if kind == "ServiceAccount":
        return f"User:{SERVICE_ACCOUNT_PREFIX}{subject.get('namespace') or binding_namespace}:{name}"
    return f"{kind}:{name}"


class RBAC:
    """Allows what some role bound to the user allows; never denies."""

    def __init__(self, cacher: Cacher, scheme: Scheme) -> None:
        kinds = [scheme.resource(GROUP, VERSION, resource) for resource in RESOURCES]
        self._caches = [cacher.of(kind) for kind in kinds if kind is not None]
        self._seen: tuple[int, ...] = ()
        self._index = Index()

    @property
    def index(self) -> Index:
        seen = tuple(cache.changes for cache in self._caches)
        if seen != self._seen:
            self._index, self._seen = self._build(), seen
        return self._index

    def _build(self) -> Index:
        index = Index()
        cluster_roles, roles, *bindings = self._caches
        for kind, cache in (("ClusterRole", cluster_roles), ("Role", roles)):
            for entry in cache.scan():
                index.add_role(kind, entry.decoded())
        for cache in bindings:
            for entry in cache.scan():
                index.add_binding(entry.decoded())
        return index

    def authorize(self, wanted: Attributes) -> tuple[Decision, str]:
        namespace = wanted.namespace if wanted.is_resource else ""
        for grant, rule in self.index.rules(wanted.user, namespace):
            if rule.allows(wanted):
                return (
                    Decision.ALLOW,
                    f'RBAC: allowed by binding "{grant.binding}" of {grant.role_kind} "{grant.role_name}"',
                )
        return Decision.NO_OPINION, ""

    def rules_for(self, user: User, namespace: str) -> list[Rule]:
        return [rule for _, rule in self.index.rules(user, namespace)]

    def role_rules(self, kind: str, namespace: str, name: str) -> list[Rule] | None:
        """The rules of one role; None when there is no such role."""
        return self.index.roles.get((kind, "" if kind == "ClusterRole" else namespace, name))
