"""RBAC rules as values: does a rule allow a request, do some rules cover others. Pure (rbac/v1 semantics)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from apiserver.auth.authorize import Attributes

ALL = "*"


class Rule(NamedTuple):
    """One PolicyRule."""

    verbs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    def allows(self, wanted: Attributes) -> bool:
        if ALL not in self.verbs and wanted.verb not in self.verbs:
            return False
        if not wanted.is_resource:
            return any(_path_matches(path, wanted.path) for path in self.paths)
        if ALL not in self.groups and wanted.group not in self.groups:
            return False
        if not self._allows_resource(wanted.resource, wanted.subresource):
            return False
        return not self.names or wanted.name in self.names

    def _allows_resource(self, resource: str, subresource: str) -> bool:
        full = f"{resource}/{subresource}" if subresource else resource
        return (
            ALL in self.resources
            or full in self.resources
            or bool(subresource and f"*/{subresource}" in self.resources)
        )

    def covers(self, other: Rule) -> bool:
        """Whether everything `other` (a rule of one verb, group, resource) allows is allowed here too."""
        return (
            _has_all(self.verbs, other.verbs)
            and _has_all(self.groups, other.groups)
            and all(self._allows_resource(*_split(resource)) for resource in other.resources)
            and all(any(_path_matches(mine, path) for mine in self.paths) for path in other.paths)
            and (not self.names or bool(other.names and set(other.names) <= set(self.names)))
        )

    def pieces(self) -> Iterable[Rule]:
        """The rule as rules of one verb and one resource, group and name each."""
        for verb in self.verbs:
            for path in self.paths:
                yield Rule((verb,), paths=(path,))
            for group in self.groups:
                for resource in self.resources:
                    for name in self.names or ("",):
                        yield Rule((verb,), (group,), (resource,), (name,) if name else ())

    def as_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {"verbs": list(self.verbs)}
        pairs = (
            ("apiGroups", self.groups),
            ("resources", self.resources),
            ("resourceNames", self.names),
            ("nonResourceURLs", self.paths),
        )
        out.update({key: list(values) for key, values in pairs if values})
        return out


def from_dict(rule: Mapping[str, Any]) -> Rule:
    keys = ("verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs")
    return Rule(*(tuple(rule.get(key) or ()) for key in keys))


def rules_of(role: Mapping[str, Any]) -> list[Rule]:
    return [from_dict(rule) for rule in role.get("rules") or ()]


def uncovered(wanted: Sequence[Rule], held: Sequence[Rule]) -> list[Rule]:
    """The pieces of `wanted` that no rule of `held` covers (the escalation check)."""
    return [piece for rule in wanted for piece in rule.pieces() if not any(own.covers(piece) for own in held)]


def _has_all(mine: Sequence[str], others: Sequence[str]) -> bool:
    return ALL in mine or set(others) <= set(mine)


def _split(resource: str) -> tuple[str, str]:
    name, _, subresource = resource.partition("/")
    return name, subresource


def _path_matches(pattern: str, path: str) -> bool:
    return pattern in (ALL, path) or (pattern.endswith("*") and path.startswith(pattern[:-1]))
