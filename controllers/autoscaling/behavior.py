"""How fast a target may follow: stabilization windows and scaling policies (KEP-853). Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from controllers import objects as o
from controllers.objects import Object

UP: Object = {
    "stabilizationWindowSeconds": 0,
    "selectPolicy": "Max",
    "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15},
    ],
}
DOWN: Object = {"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}


@dataclass(frozen=True, slots=True)
class Mark:
    """Something remembered: a recommendation, or by how much the target was scaled."""

    at: float
    amount: int


@dataclass(frozen=True, slots=True)
class History:
    """What is remembered of one autoscaler, oldest first."""

    recommended: Sequence[Mark] = ()
    raised: Sequence[Mark] = ()
    lowered: Sequence[Mark] = ()


@dataclass(frozen=True, slots=True)
class Limited:
    """The replicas to set, and the conditions AbleToScale and ScalingLimited as (status, reason, message)."""

    replicas: int
    able: tuple[str, str, str]
    limited: tuple[str, str, str]


def rules(hpa: Object, direction: str, default_window: float) -> Object:
    given = (o.spec(hpa).get("behavior") or {}).get(direction) or {}
    base = UP if direction == "scaleUp" else {**DOWN, "stabilizationWindowSeconds": default_window}
    return {**base, **{name: value for name, value in given.items() if value is not None}}


def longest_window(hpa: Object, default_window: float) -> float:
    """Seconds for which anything has to be remembered."""
    seconds = [default_window]
    for direction in ("scaleUp", "scaleDown"):
        rule = rules(hpa, direction, default_window)
        seconds.append(float(rule["stabilizationWindowSeconds"]))
        seconds += [float(policy["periodSeconds"]) for policy in rule["policies"]]
    return max(seconds)


def compute(
    hpa: Object, current: int, desired: int, history: History, default_window: float, now: float
) -> Limited:
    """`desired` as the metrics want it, stabilized, then limited by policies and by min and max."""
    up, down = rules(hpa, "scaleUp", default_window), rules(hpa, "scaleDown", default_window)
    steady = _stabilized(current, desired, history, up, down, now)
    able = ("True", "ReadyForNewScale", "recommended size matches current size")
    if steady > desired:
        text = (
            "recent recommendations were higher than current one, applying the highest recent recommendation"
        )
        able = ("True", "ScaleDownStabilized", text)
    elif steady < desired:
        text = "recent recommendations were lower than current one, applying the lowest recent recommendation"
        able = ("True", "ScaleUpStabilized", text)
    least, most = int(o.spec(hpa).get("minReplicas", 1)), int(o.spec(hpa)["maxReplicas"])
    if steady > current:
        return _raised(current, steady, most, _ceiling(current, history, up, now), able)
    return _lowered(current, steady, least, most, _floor(current, history, down, now), able)


def _stabilized(current: int, desired: int, history: History, up: Object, down: Object, now: float) -> int:
    """Within the windows the highest low and the lowest high recommendation hold."""
    lowest_up = highest_down = desired
    for mark in history.recommended:
        if mark.at > now - float(up["stabilizationWindowSeconds"]):
            lowest_up = min(lowest_up, mark.amount)
        if mark.at > now - float(down["stabilizationWindowSeconds"]):
            highest_down = max(highest_down, mark.amount)
    if current < lowest_up:
        return lowest_up
    return highest_down if current > highest_down else current


def _changed(marks: Sequence[Mark], seconds: float, now: float) -> int:
    return sum(mark.amount for mark in marks if mark.at > now - seconds)


def _ceiling(current: int, history: History, rule: Object, now: float) -> int:
    if rule["selectPolicy"] == "Disabled":
        return current
    limits = []
    for policy in rule["policies"]:
        seconds = float(policy["periodSeconds"])
        start = current - _changed(history.raised, seconds, now) + _changed(history.lowered, seconds, now)
        step = policy["value"] if policy["type"] == "Pods" else math.ceil(start * policy["value"] / 100)
        limits.append(start + step)
    chosen = min(limits) if rule["selectPolicy"] == "Min" else max(limits)
    return max(int(chosen), current)


def _floor(current: int, history: History, rule: Object, now: float) -> int:
    if rule["selectPolicy"] == "Disabled":
        return current
    limits = []
    for policy in rule["policies"]:
        seconds = float(policy["periodSeconds"])
        start = current - _changed(history.raised, seconds, now) + _changed(history.lowered, seconds, now)
        if policy["type"] == "Pods":
            limits.append(start - policy["value"])
        else:
            limits.append(int(start * (1 - policy["value"] / 100)))
    chosen = max(limits) if rule["selectPolicy"] == "Min" else min(limits)
    return min(int(chosen), current)


_FREE = ("False", "DesiredWithinRange", "the desired count is within the acceptable range")


def _raised(current: int, steady: int, most: int, ceiling: int, able: tuple[str, str, str]) -> Limited:
    bound = min(most, ceiling)
    if steady <= bound:
        return Limited(steady, able, _FREE)
    if most <= ceiling:
        return Limited(
            bound,
            able,
            ("True", "TooManyReplicas", "the desired replica count is more than the maximum replica count"),
        )
    text = "the desired replica count is increasing faster than the maximum scale rate"
    return Limited(bound, able, ("True", "ScaleUpLimit", text))


def _lowered(
    current: int, steady: int, least: int, most: int, floor: int, able: tuple[str, str, str]
) -> Limited:
    if steady > most:
        text = "the desired replica count is more than the maximum replica count"
        return Limited(most, able, ("True", "TooManyReplicas", text))
    bound = max(least, floor) if steady < current else least
    if steady >= bound:
        return Limited(steady, able, _FREE)
    if least >= floor or steady == current:
        text = "the desired replica count is less than the minimum replica count"
        return Limited(bound, able, ("True", "TooFewReplicas", text))
    text = "the desired replica count is decreasing faster than the maximum scale rate"
    return Limited(bound, able, ("True", "ScaleDownLimit", text))
