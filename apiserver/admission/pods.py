"""Small plugins that fill in a new pod: Priority, DefaultTolerationSeconds, RuntimeClass; and a new node's
taint.
"""

from __future__ import annotations

from typing import Any

from apimachinery.errors import bad_request
from apiserver.admission.base import Plugin, forbid, is_create
from apiserver.registry.call import Call

Object = dict[str, Any]

SYSTEM_CLASSES = {"system-node-critical": 2_000_001_000, "system-cluster-critical": 2_000_000_000}
HIGHEST_USER_PRIORITY = 1_000_000_000
TOLERATION_SECONDS = 300
NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"


class PodPlugin(Plugin):
    def handles(self, call: Call) -> bool:
        return call.is_for("", "pods") and is_create(call)


class Priority(PodPlugin):
    """The number behind spec.priorityClassName, and the preemption policy with it."""

    def handles(self, call: Call) -> bool:
        return super().handles(call) or call.is_for("scheduling.k8s.io", "priorityclasses")

    async def mutate(self, call: Call) -> None:
        if not call.is_for("", "pods") or call.obj is None:
            return
        spec = call.obj["spec"]
        name = spec.get("priorityClassName") or ""
        found = await self._class(call, name) if name else self._default()
        value = int(found.get("value", 0)) if found else 0
        if found and not name:
            spec["priorityClassName"] = found["metadata"]["name"]
        if spec.get("priority") not in (None, value):
            raise forbid(
                call,
                f"the integer value of priority ({spec['priority']}) must not be provided in pod "
                f"spec; priority admission controller computed {value} from the given PriorityClass "
                "name",
            )
        spec["priority"] = value
        policy = (found or {}).get("preemptionPolicy") or "PreemptLowerPriority"
        if spec.get("preemptionPolicy") not in (None, policy):
            raise forbid(
                call,
                f"the string value of PreemptionPolicy ({spec['preemptionPolicy']}) must not be "
                f"provided in pod spec; priority admission controller computed {policy} from the "
                "given PriorityClass name",
            )
        spec["preemptionPolicy"] = policy

    async def validate(self, call: Call) -> None:
        if (
            not call.is_for("scheduling.k8s.io", "priorityclasses")
            or call.obj is None
            or not call.obj.get("globalDefault")
        ):
            return
        current = self._default()
        if current is not None and current["metadata"]["name"] != call.name:
            raise forbid(
                call, f"PriorityClass {current['metadata']['name']} is already marked as globalDefault"
            )

    async def _class(self, call: Call, name: str) -> Object:
        found = await self.context.current("scheduling.k8s.io", "priorityclasses", "", name)
        if found is None and name in SYSTEM_CLASSES:
            return {"metadata": {"name": name}, "value": SYSTEM_CLASSES[name]}
        if found is None:
            raise forbid(call, f"no PriorityClass with name {name} was found")
        return found

    def _default(self) -> Object | None:
        """The class marked globalDefault; of several the one with the lowest value."""
        kind = self.context.scheme.resource("scheduling.k8s.io", "v1", "priorityclasses")
        if kind is None:
            return None
        found = [entry.decoded() for entry in self.context.cacher.of(kind).scan()]
        return min(
            (item for item in found if item.get("globalDefault")),
            key=lambda item: int(item["value"]),
            default=None,
        )


class DefaultTolerationSeconds(PodPlugin):
    """A pod stays 300 s on a node that is not ready or unreachable, unless it says otherwise."""

    def handles(self, call: Call) -> bool:
        return call.is_for("", "pods") and call.obj is not None and not call.subresource

    async def mutate(self, call: Call) -> None:
        assert call.obj is not None
        tolerations = (call.obj.get("spec") or {}).get("tolerations") or []
        for key in (NOT_READY, UNREACHABLE):
            if not any(_tolerates(item, key) for item in tolerations):
                wanted = {
                    "key": key,
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": TOLERATION_SECONDS,
                }
                call.obj["spec"].setdefault("tolerations", []).append(wanted)


def _tolerates(toleration: Object, key: str) -> bool:
    return toleration.get("key", "") in ("", key) and toleration.get("effect", "") in ("", "NoExecute")


class RuntimeClass(PodPlugin):
    """The overhead and node selection of spec.runtimeClassName."""

    async def mutate(self, call: Call) -> None:
        assert call.obj is not None
        spec = call.obj["spec"]
        name = spec.get("runtimeClassName")
        if not name:
            return
        found = await self.context.current("node.k8s.io", "runtimeclasses", "", name)
        if found is None:
            raise forbid(call, f'pod rejected: RuntimeClass "{name}" not found')
        overhead = (found.get("overhead") or {}).get("podFixed")
        if overhead:
            if spec.get("overhead") not in (None, overhead):
                raise forbid(
                    call, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
                )
            spec["overhead"] = overhead
        scheduling = found.get("scheduling") or {}
        for key, value in (scheduling.get("nodeSelector") or {}).items():
            if spec.setdefault("nodeSelector", {}).setdefault(key, value) != value:
                raise bad_request(f"conflict: pod's nodeSelector {key} differs from RuntimeClass {name}'s")
        for toleration in scheduling.get("tolerations") or []:
            if toleration not in spec.setdefault("tolerations", []):
                spec["tolerations"].append(toleration)


class TaintNodesByCondition(Plugin):
    """A new node takes no pods before it has said that it is ready."""

    def handles(self, call: Call) -> bool:
        return call.is_for("", "nodes") and is_create(call)

    async def mutate(self, call: Call) -> None:
        assert call.obj is not None
        spec = call.obj.setdefault("spec", {})
        taints = spec.get("taints") or []
        if not any(taint.get("key") == NOT_READY and taint.get("effect") == "NoSchedule" for taint in taints):
            spec["taints"] = [*taints, {"key": NOT_READY, "effect": "NoSchedule"}]
