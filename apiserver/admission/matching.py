"""Whether `matchResources` of a policy take a call in, and as what: by `matchPolicy: Equivalent` a rule for
one version of a resource also means its other versions, and what is judged is converted to that version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from apimachinery import selectors
from apimachinery.scheme import Kind
from apiserver.admission.base import Context
from apiserver.admission.webhookrules import matches
from apiserver.registry.call import Call
from apiserver.registry.patching import clone

Object = dict[str, Any]
Rules = Sequence[Mapping[str, Any]]


class Matcher:
    """Of one call."""

    def __init__(self, context: Context, call: Call) -> None:
        self._context = context
        self._call = call
        self._namespace_labels = namespace_labels(context, call)

    async def match(self, resources: Mapping[str, Any]) -> Call | None:
        """The call as the rules name it; None when they do not take it in."""
        if not self._selected(resources) or self._excluded(resources):
            return None
        exact = resources.get("matchPolicy") == "Exact"
        return await as_matched(self._context, self._call, resources.get("resourceRules") or (), exact=exact)

    async def match_within(self, resources: Mapping[str, Any]) -> bool:
        """The same for a binding, whose rules may be left out."""
        if not resources.get("resourceRules"):
            return self._selected(resources) and not self._excluded(resources)
        return await self.match(resources) is not None

    def _selected(self, resources: Mapping[str, Any]) -> bool:
        return selected(resources, self._call, self._namespace_labels)

    def _excluded(self, resources: Mapping[str, Any]) -> bool:
        return any(_rule(rule, self._call) for rule in resources.get("excludeResourceRules") or ())


def selected(given: Mapping[str, Any], call: Call, labels: Mapping[str, str]) -> bool:
    """Whether `namespaceSelector` and `objectSelector` take a call in."""
    within = call.kind.namespaced or call.is_for("", "namespaces")
    if within and not selectors.label_selector_from(given.get("namespaceSelector") or {}).matches(labels):
        return False
    selector = selectors.label_selector_from(given.get("objectSelector") or {})
    found = [obj for obj in (call.obj, call.old) if obj is not None]
    return any(selector.matches(obj["metadata"].get("labels") or {}) for obj in found)


def namespace_labels(context: Context, call: Call) -> Mapping[str, str]:
    if call.is_for("", "namespaces"):
        obj: Object = call.obj or call.old or {"metadata": {}}
    else:
        found = context.cached("", "namespaces", "", call.namespace) if call.namespace else None
        obj = found or {"metadata": {}}
    return obj["metadata"].get("labels") or {}


async def as_matched(context: Context, call: Call, rules: Rules, *, exact: bool) -> Call | None:
    """The call in the version that a rule names: its own if one does, else (unless `exact`) another that
    shares its storage.
    """
    if any(_rule(rule, call) for rule in rules):
        return call
    if exact:
        return None
    for kind in equivalents(context, call.kind):
        other = replace(call, kind=kind)
        if any(_rule(rule, other) for rule in rules):
            other.obj = await converted(call.obj, call.kind, kind)
            other.old = await converted(call.old, call.kind, kind)
            return other
    return None


def _rule(rule: Mapping[str, Any], call: Call) -> bool:
    names = rule.get("resourceNames") or ()
    return matches(rule, call) and (not names or call.name in names)


def equivalents(context: Context, kind: Kind) -> Iterator[Kind]:
    """Other forms of the same stored objects."""
    for other in context.scheme:
        if other.storage_prefix == kind.storage_prefix and other is not kind:
            yield other


async def converted(obj: Object | None, source: Kind, target: Kind) -> Object | None:
    """A copy of an object in another form of its kind. Raises StatusError when a converter fails."""
    if obj is None or source is target:
        return obj
    out = clone(obj)
    if source.converter is not None:
        out = (await source.converter.convert([out], target.api_version))[0]
    elif source.to_storage is not None:
        out = source.to_storage(out)
    if target.from_storage is not None:
        out = target.from_storage(out)
    return {**out, "kind": target.kind, "apiVersion": target.api_version}
