"""Does a node satisfy a pod's nodeSelector and required node affinity? Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from controllers import objects as o
from controllers.objects import Object


def matches(pod_spec: Object, node: Object) -> bool:
    """nodeSelector and `requiredDuringSchedulingIgnoredDuringExecution`, both where given."""
    wanted = pod_spec.get("nodeSelector") or {}
    if any(o.labels(node).get(key) != value for key, value in wanted.items()):
        return False
    affinity = (pod_spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(_term(term, node) for term in required.get("nodeSelectorTerms") or ())


def _term(term: Object, node: Object) -> bool:
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False  # an empty term selects nothing
    return all(_requirement(e, o.labels(node)) for e in expressions) and all(
        _requirement(f, {"metadata.name": o.name(node)}) for f in fields
    )


def _requirement(requirement: Object, values: Mapping[str, str]) -> bool:
    value = values.get(requirement["key"])
    operator, wanted = requirement["operator"], requirement.get("values") or ()
    if operator in ("NotIn", "DoesNotExist"):
        return value is None or (operator == "NotIn" and value not in wanted)
    if value is None:
        return False
    return (
        operator == "Exists" or (operator == "In" and value in wanted) or _compares(operator, value, wanted)
    )


_COMPARE: Mapping[str, Callable[[int, int], bool]] = {"Gt": int.__gt__, "Lt": int.__lt__}


def _compares(operator: str, value: str, wanted: list[str] | tuple[str, ...]) -> bool:
    compare = _COMPARE.get(operator)
    if compare is None or len(wanted) != 1:
        return False
    try:
        return compare(int(value), int(wanted[0]))
    except ValueError:
        return False
