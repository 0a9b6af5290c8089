"""How the tables of the bootstrap policy are written.

`rule("get list watch", "", "pods nodes")` is verbs, API groups ("" is core; several separated by commas),
resources.
"""

from __future__ import annotations

from apiserver.auth.rules import Rule

RBAC_GROUP = "rbac.authorization.k8s.io"

READ = "get list watch"
WRITE = "create delete deletecollection patch update"
FULL = f"{READ} {WRITE}"


def rule(verbs: str, groups: str = "", resources: str = "", names: str = "") -> Rule:
    return Rule(
        tuple(verbs.split()), tuple(groups.split(",")), tuple(resources.split()), tuple(names.split())
    )


def url(verbs: str, *paths: str) -> Rule:
    return Rule(tuple(verbs.split()), paths=paths)


EVENTS = rule("create patch update", ",events.k8s.io", "events")
