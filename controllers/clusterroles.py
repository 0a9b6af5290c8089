"""Cluster-role aggregation: roles with an `aggregationRule` hold the rules of all roles it selects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from apimachinery import selectors
from controllers import objects as o
from controllers.objects import Object
from controllers.runtime import Context, Controller, ignore_not_found
from kubeclient.resources import CLUSTERROLES


def compute_rules(role: Object, everyone: Iterable[Object]) -> list[Object]:
    """The rules of an aggregated role: those of the roles selected, by name, each rule once. Never its
    own.
    """
    wanted = (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or ()
    matchers = [selectors.label_selector_from(each).matches for each in wanted]
    out: list[Object] = []
    for other in sorted(everyone, key=o.name):
        if o.name(other) == o.name(role) or not any(matches(o.labels(other)) for matches in matchers):
            continue
        out += [rule for rule in other.get("rules") or () if rule not in out]
    return out


class ClusterRoleAggregationController(Controller):
    """Any change of a role may concern any aggregated one; there are few of those."""

    name: ClassVar[str] = "clusterrole-aggregation-controller"
    account: ClassVar[str] = "clusterrole-aggregation-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=ctx.options.concurrent_namespace_syncs)
        self.roles = self.watch(CLUSTERROLES, self._on_role)

    async def sync(self, key: str) -> float | None:
        role = self.roles.store.get(key)
        if role is None or not role.get("aggregationRule") or o.is_terminating(role):
            return None
        rules = compute_rules(role, self.roles.store.list())
        if rules != (role.get("rules") or []):
            await ignore_not_found(self.client.update(CLUSTERROLES, {**role, "rules": rules}))
        return None

    def _on_role(self, _: Object) -> None:
        for role in self.roles.store.list():
            if role.get("aggregationRule"):
                self.enqueue(role)
