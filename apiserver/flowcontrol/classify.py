"""Which FlowSchema a request belongs to, and which flow within it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apiserver.auth.user import SERVICE_ACCOUNT_PREFIX, User
from apiserver.rest.info import RequestInfo

Object = dict[str, Any]
EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class Schema:
    """A FlowSchema that refers to a level that exists."""

    name: str
    uid: str
    level: str
    level_uid: str
    precedence: int
    distinguisher: str  # "ByUser", "ByNamespace" or ""
    rules: Sequence[Mapping[str, Any]]

    def matches(self, user: User, info: RequestInfo) -> bool:
        return any(_rule(rule, user, info) for rule in self.rules)

    def flow(self, user: User, info: RequestInfo) -> int:
        """The hash of a request's flow."""
        by = {"ByUser": user.name, "ByNamespace": info.namespace}.get(self.distinguisher, "")
        digest = hashlib.blake2b(f"{self.name}\0{by}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big")


def schemas(flow_schemas: Iterable[Object], levels: Mapping[str, str]) -> list[Schema]:
    """In the order they are asked. `levels`: uid by name; a schema of a level that is not there is left
    out.
    """
    out = []
    for item in flow_schemas:
        spec = item["spec"]
        level = (spec.get("priorityLevelConfiguration") or {}).get("name", "")
        if level in levels:
            out.append(
                Schema(
                    item["metadata"]["name"],
                    item["metadata"].get("uid", ""),
                    level,
                    levels[level],
                    spec.get("matchingPrecedence", 1000),
                    (spec.get("distinguisherMethod") or {}).get("type", ""),
                    spec.get("rules") or (),
                )
            )
    return sorted(out, key=lambda schema: (schema.precedence, schema.name))


def _rule(rule: Mapping[str, Any], user: User, info: RequestInfo) -> bool:
    if not any(_subject(subject, user) for subject in rule.get("subjects") or ()):
        return False
    if info.is_resource:
        return any(_resource(item, info) for item in rule.get("resourceRules") or ())
    return any(_path(item, info) for item in rule.get("nonResourceRules") or ())


def _subject(subject: Mapping[str, Any], user: User) -> bool:
    kind = subject.get("kind")
    if kind == "User":
        return subject["user"]["name"] in (EVERYTHING, user.name)
    if kind == "Group":
        return subject["group"]["name"] == EVERYTHING or subject["group"]["name"] in user.groups
    account = subject["serviceAccount"]
    if account["name"] == EVERYTHING:
        return user.name.startswith(f"{SERVICE_ACCOUNT_PREFIX}{account['namespace']}:")
    return user.name == f"{SERVICE_ACCOUNT_PREFIX}{account['namespace']}:{account['name']}"


def _resource(rule: Mapping[str, Any], info: RequestInfo) -> bool:
    name = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
    if not (
        _in(info.verb, rule, "verbs") and _in(info.group, rule, "apiGroups") and _in(name, rule, "resources")
    ):
        return False
    if not info.namespace:
        return bool(rule.get("clusterScope"))
    return _in(info.namespace, rule, "namespaces")


def _path(rule: Mapping[str, Any], info: RequestInfo) -> bool:
    if not _in(info.verb, rule, "verbs"):
        return False
    for url in rule.get("nonResourceURLs") or ():
        if url in (EVERYTHING, info.path):
            return True
        if url.endswith("/*") and info.path.startswith(url[:-1]):
            return True
    return False


def _in(value: str, rule: Mapping[str, Any], name: str) -> bool:
    allowed = rule.get(name) or ()
    return value in allowed or EVERYTHING in allowed
