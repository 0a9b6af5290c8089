"""What policies of both sorts share: finding what is bound to a call, and the parameters of a binding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apimachinery import selectors
from apimachinery.scheme import Kind
from apiserver.admission.base import Plugin
from apiserver.admission.webhookrules import GROUP
from apiserver.registry.call import Call

Object = dict[str, Any]


POLICY_RESOURCES = frozenset(
    f"{sort}admissionpolic{ending}" for sort in ("mutating", "validating") for ending in ("ies", "ybindings")
)


class Unconfigured(Exception):
    """A policy or binding that cannot be carried out, with the reason."""


class BoundPolicies(Plugin):
    """`policies` and `bindings` are resources of `version`. A policy without a binding does nothing."""

    version = "v1"
    policies = ""
    bindings = ""

    def handles(self, call: Call) -> bool:
        """Policies are not asked about policies: one that refuses everything could not be taken away."""
        kind = self._kind(self.bindings)
        if call.kind.group == GROUP and call.kind.resource in POLICY_RESOURCES:
            return False
        return kind is not None and bool(self.context.cacher.of(kind).entries)

    def _kind(self, resource: str) -> Kind | None:
        return self.context.scheme.resource(GROUP, self.version, resource)

    def _bindings(self) -> dict[str, list[Object]]:
        """By the name of their policy."""
        kind = self._kind(self.bindings)
        assert kind is not None
        out: dict[str, list[Object]] = {}
        for entry in self.context.cacher.of(kind).scan():
            binding = entry.decoded()
            out.setdefault(binding["spec"]["policyName"], []).append(binding)
        return out

    def _policies(self, names: dict[str, list[Object]]) -> Iterator[tuple[str, Object]]:
        kind = self._kind(self.policies)
        assert kind is not None
        for name in sorted(names):
            entry = self.context.cacher.of(kind).get(name)
            if entry is not None:
                yield name, entry.decoded()

    def _params(self, spec: Object, ref: Object | None, call: Call) -> list[Object | None]:
        """The parameters of a binding; one None when it takes none. Raises Unconfigured."""
        wanted = spec.get("paramKind")
        if not wanted or not ref:
            return [None]
        group, _, version = wanted["apiVersion"].rpartition("/")
        kind = self.context.scheme.kind(group, version, wanted["kind"])
        if kind is None:
            raise Unconfigured(
                f"failed to find resource referenced by paramKind: '{wanted['apiVersion']}, "
                f"Kind={wanted['kind']}'"
            )
        namespace = (ref.get("namespace") or call.namespace) if kind.namespaced else ""
        if kind.namespaced and not namespace:
            raise Unconfigured(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
            )
        found = list(self._found(kind, namespace, ref))
        if not found and ref.get("parameterNotFoundAction") == "Deny":
            raise Unconfigured("no params found for policy binding with `Deny` parameterNotFoundAction")
        return [*found]

    def _found(self, kind: Kind, namespace: str, ref: Object) -> Iterator[Object]:
        cache = self.context.cacher.of(kind)
        if ref.get("name"):
            entry = cache.get(f"{namespace}/{ref['name']}" if kind.namespaced else ref["name"])
            if entry is not None:
                yield entry.decoded()
            return
        selector = selectors.label_selector_from(ref.get("selector") or {})
        for entry in cache.scan(f"{namespace}/" if kind.namespaced else ""):
            if selector.matches(entry.labels):
                yield entry.decoded()
