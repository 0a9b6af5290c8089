"""The rules for what decides when a Job has failed or succeeded: limits per index, podFailurePolicy,
successPolicy (pkg/apis/batch/validation).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apimachinery import field, meta
from apimachinery.errors import Cause
from apiserver.kinds import common

MAX_RULES, MAX_EXIT_CODES, MAX_PATTERNS, MAX_FAILED = 20, 255, 20, 100_000
ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")
NEEDS_INDEXES = "requires indexed completion mode"


def validate(spec: Mapping[str, Any], path: str) -> Iterator[Cause]:
    indexed = spec.get("completionMode") == "Indexed"
    yield from _per_index(spec, path, indexed=indexed)
    yield from _replacement(spec, path)
    if spec.get("podFailurePolicy") is not None:
        yield from _failure_policy(spec, path)
    policy = spec.get("successPolicy")
    if policy is not None:
        if not indexed:
            yield field.invalid(f"{path}.successPolicy", policy, NEEDS_INDEXES)
        else:
            yield from _success_policy(policy, spec.get("completions") or 0, f"{path}.successPolicy")
    if spec.get("managedBy"):
        yield from _managed_by(spec["managedBy"], f"{path}.managedBy")


def _per_index(spec: Mapping[str, Any], path: str, *, indexed: bool) -> Iterator[Cause]:
    limit, most = spec.get("backoffLimitPerIndex"), spec.get("maxFailedIndexes")
    if limit is not None and not indexed:
        yield field.invalid(f"{path}.backoffLimitPerIndex", limit, NEEDS_INDEXES)
    if most is None:
        return
    where = f"{path}.maxFailedIndexes"
    if not indexed:
        yield field.invalid(where, most, NEEDS_INDEXES)
    if limit is None:
        yield field.required(f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified")
    if spec.get("completions") is not None and most > spec["completions"]:
        yield field.invalid(where, most, "must be less than or equal to completions")
    if most > MAX_FAILED:
        yield field.invalid(where, most, f"must be less than or equal to {MAX_FAILED}")


def _replacement(spec: Mapping[str, Any], path: str) -> Iterator[Cause]:
    policy = spec.get("podReplacementPolicy")
    if policy:
        failing = spec.get("podFailurePolicy") is not None
        allowed = ("Failed",) if failing else ("Failed", "TerminatingOrFailed")
        yield from common.one_of(f"{path}.podReplacementPolicy", policy, allowed)


def _managed_by(name: str, path: str) -> Iterator[Cause]:
    domain, slash, rest = name.partition("/")
    if not slash or not rest or meta.dns1123_subdomain(domain):
        yield field.invalid(path, name, 'must be a domain-prefixed path (such as "acme.io/foo")')
    if len(name) > 63:
        yield field.too_long(path, 63)


# -- podFailurePolicy ---------------------------------------------------------------------------------------


def _failure_policy(spec: Mapping[str, Any], path: str) -> Iterator[Cause]:
    pod = (spec.get("template") or {}).get("spec") or {}
    if pod.get("restartPolicy") != "Never":
        detail = 'only "Never" is supported when podFailurePolicy is specified'
        yield field.invalid(f"{path}.template.spec.restartPolicy", pod.get("restartPolicy"), detail)
    rules = spec["podFailurePolicy"].get("rules") or []
    if len(rules) > MAX_RULES:
        yield field.too_many(f"{path}.podFailurePolicy.rules", len(rules), MAX_RULES)
    names = {item.get("name") for key in ("containers", "initContainers") for item in pod.get(key) or ()}
    for at, rule in enumerate(rules):
        yield from _failure_rule(rule, f"{path}.podFailurePolicy.rules[{at}]", spec, names)


def _failure_rule(
    rule: Mapping[str, Any], path: str, spec: Mapping[str, Any], names: set[Any]
) -> Iterator[Cause]:
    yield from common.one_of(f"{path}.action", rule.get("action"), ACTIONS)
    if rule.get("action") == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
        yield field.invalid(f"{path}.action", "FailIndex", "requires the backoffLimitPerIndex to be set")
    codes, patterns = rule.get("onExitCodes"), rule.get("onPodConditions") or []
    if codes is not None and patterns:
        detail = "specifying both OnExitCodes and OnPodConditions is not supported"
        yield field.invalid(path, "", detail)
    if codes is None and not patterns:
        yield field.invalid(path, "", "specifying one of OnExitCodes and OnPodConditions is required")
    if codes is not None:
        yield from _exit_codes(codes, f"{path}.onExitCodes", names)
    if len(patterns) > MAX_PATTERNS:
        yield field.too_many(f"{path}.onPodConditions", len(patterns), MAX_PATTERNS)
    for at, pattern in enumerate(patterns):
        where = f"{path}.onPodConditions[{at}]"
        for problem in meta.qualified_name(pattern.get("type", "")):
            yield field.invalid(f"{where}.type", pattern.get("type", ""), problem)
        yield from common.one_of(f"{where}.status", pattern.get("status"), ("False", "True", "Unknown"))


def _exit_codes(given: Mapping[str, Any], path: str, names: set[Any]) -> Iterator[Cause]:
    yield from common.one_of(f"{path}.operator", given.get("operator"), ("In", "NotIn"))
    name = given.get("containerName")
    if name is not None and name not in names:
        detail = "must be one of the container or initContainer names in the pod template"
        yield field.invalid(f"{path}.containerName", name, detail)
    values = given.get("values") or []
    if not values:
        yield field.invalid(f"{path}.values", values, "at least one value is required")
    elif len(values) > MAX_EXIT_CODES:
        yield field.too_many(f"{path}.values", len(values), MAX_EXIT_CODES)
    for at, value in enumerate(values):
        if value == 0 and given.get("operator") == "In":
            yield field.invalid(f"{path}.values[{at}]", value, "must not be 0 for the In operator")
        if value in values[:at]:
            yield field.duplicate(f"{path}.values[{at}]", value)
    if values != sorted(values):
        yield field.invalid(f"{path}.values", values, "must be ordered")


# -- successPolicy ------------------------------------------------------------------------------------------


def _success_policy(policy: Mapping[str, Any], completions: int, path: str) -> Iterator[Cause]:
    rules = policy.get("rules") or []
    if not rules:
        detail = "at least one rules must be specified when the successPolicy is specified"
        yield field.required(f"{path}.rules", detail)
    if len(rules) > MAX_RULES:
        yield field.too_many(f"{path}.rules", len(rules), MAX_RULES)
    for at, rule in enumerate(rules):
        yield from _success_rule(rule, completions, f"{path}.rules[{at}]")


def _success_rule(rule: Mapping[str, Any], completions: int, path: str) -> Iterator[Cause]:
    count, indexes = rule.get("succeededCount"), rule.get("succeededIndexes")
    if count is None and indexes is None:
        detail = "at least one of succeededCount or succeededIndexes must be specified"
        yield field.required(path, detail)
    listed = None
    if indexes is not None:
        try:
            listed = count_indexes(indexes, completions)
        except ValueError as error:
            detail = f"error parsing succeededIndexes: {error}"
            yield field.invalid(f"{path}.succeededIndexes", indexes, detail)
    if count is None:
        return
    yield from common.non_negative(f"{path}.succeededCount", count)
    for most, what in (
        (completions, "the number of specified completions"),
        (listed, "the number of indexes in the specified succeededIndexes field"),
    ):
        if most is not None and count > most:
            detail = f"must be less than or equal to {most} ({what})"
            yield field.invalid(f"{path}.succeededCount", count, detail)


def count_indexes(text: str, completions: int) -> int:
    """How many indexes `1,3-5` names. Raises ValueError for what is out of order or of range."""
    total, last = 0, -1
    for part in text.split(","):
        first_text, dash, end_text = part.partition("-")
        first = _index(first_text, completions)
        end = _index(end_text, completions) if dash else first
        if first <= last:
            raise ValueError(f"non-increasing order, previous: {last}, current: {first}")
        if dash and end <= first:
            raise ValueError(f"non-increasing order, previous: {first}, current: {end}")
        total, last = total + end - first + 1, end
    return total


def _index(text: str, completions: int) -> int:
    if not text.isdigit():
        raise ValueError(f'cannot convert string to integer for index: "{text}"')
    if int(text) >= completions:
        raise ValueError(f'too large index: "{text}"')
    return int(text)
