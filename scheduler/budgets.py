"""PodDisruptionBudgets as preemption sees them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scheduler.podinfo import PodInfo, Selector, compile_selector

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Budget:
    """How many more of the selected pods may be disrupted; `disrupted` are on their way out and counted
    already.
    """

    namespace: str
    selector: Selector
    allowed: int
    disrupted: frozenset[str]

    def concerns(self, pod: PodInfo) -> bool:
        if pod.namespace != self.namespace or not pod.labels or not self.selector.requirements:
            return False  # a budget without a selector protects nothing
        return pod.name not in self.disrupted and self.selector.matches(pod.labels)


def compile_budget(budget: Object) -> Budget:
    """Take out of a policy/v1 PodDisruptionBudget what preemption asks of it."""
    spec, status = budget.get("spec") or {}, budget.get("status") or {}
    return Budget(
        budget["metadata"]["namespace"],
        compile_selector(spec.get("selector")),
        int(status.get("disruptionsAllowed") or 0),
        frozenset(status.get("disruptedPods") or ()),
    )


def split_by_violation(
    pods: Iterable[PodInfo], budgets: Iterable[Budget]
) -> tuple[list[PodInfo], list[PodInfo]]:
    """Pods whose eviction would break a budget, and the others; each pod spends from what is left, in
    order.
    """
    budgets = tuple(budgets)
    left = [budget.allowed for budget in budgets]
    violating: list[PodInfo] = []
    harmless: list[PodInfo] = []
    for pod in pods:
        broken = False
        for index, budget in enumerate(budgets):
            if budget.concerns(pod):
                left[index] -= 1
                broken = broken or left[index] < 0
        (violating if broken else harmless).append(pod)
    return violating, harmless
