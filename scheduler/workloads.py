"""Services and workload objects, for the default spreading of pods that state no constraints of their own."""

from __future__ import annotations

from typing import Any

from scheduler.podinfo import PodInfo, Requirement, Selector, compile_selector

Object = dict[str, Any]
KINDS = ("ReplicaSet", "StatefulSet", "ReplicationController")


class Workloads:
    """Selectors of services, and of what owns pods (ReplicaSet, StatefulSet, ReplicationController)."""

    def __init__(self) -> None:
        self._services: dict[str, dict[str, dict[str, str]]] = {}  # namespace -> name -> selector
        self._owners: dict[tuple[str, str, str], Selector] = {}  # kind, namespace, name
        self._known: dict[Any, Selector | None] = {}

    def set_service(self, service: Object) -> None:
        meta, selector = service["metadata"], (service.get("spec") or {}).get("selector") or {}
        self._services.setdefault(meta["namespace"], {})[meta["name"]] = selector
        self._known.clear()

    def remove_service(self, service: Object) -> None:
        meta = service["metadata"]
        self._services.get(meta["namespace"], {}).pop(meta["name"], None)
        self._known.clear()

    def set_owner(self, kind: str, owner: Object) -> None:
        meta, selector = owner["metadata"], (owner.get("spec") or {}).get("selector") or {}
        if kind == "ReplicationController":
            selector = {"matchLabels": selector}
        compiled = compile_selector(selector)
        if self._owners.get((kind, meta["namespace"], meta["name"])) != compiled:
            self._owners[kind, meta["namespace"], meta["name"]] = compiled
            self._known.clear()

    def remove_owner(self, kind: str, owner: Object) -> None:
        meta = owner["metadata"]
        self._owners.pop((kind, meta["namespace"], meta["name"]), None)
        self._known.clear()

    def selector_of(self, pod: PodInfo) -> Selector | None:
        """What the pod's services and its owner select together (`helper.DefaultSelector`); None if
        nothing.
        """
        if not self._services and not self._owners:
            return None
        kind = (pod.signature, pod.owner)
        if kind not in self._known:
            if len(self._known) >= 4096:
                self._known.clear()
            self._known[kind] = self._merged(pod)
        return self._known[kind]

    def _merged(self, pod: PodInfo) -> Selector | None:
        exact: dict[str, str] = {}
        for selector in self._services.get(pod.namespace, {}).values():
            if selector and all(pod.labels.get(key) == value for key, value in selector.items()):
                exact |= selector
        requirements = [Requirement(key, "In", (value,)) for key, value in sorted(exact.items())]
        if pod.owner is not None:
            owner = self._owners.get((pod.owner[0], pod.namespace, pod.owner[1]))
            requirements += (owner.requirements or ()) if owner is not None else ()
        return Selector(tuple(dict.fromkeys(requirements))) if requirements else None
