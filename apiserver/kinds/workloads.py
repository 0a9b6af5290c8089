"""What ReplicaSets, Deployments, DaemonSets, StatefulSets and Jobs have in common: a selector over a pod
template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from apimachinery import field, selectors
from apimachinery.errors import Cause
from apimachinery.scheme import Object
from apiserver.kinds import common
from apiserver.kinds.common import spec_of
from apiserver.kinds.podrules import validate_template
from apiserver.kinds.podspec import default_template

HISTORY = 10


def default_workload(obj: Object) -> Object:
    """Default the template and give the spec back."""
    spec = common.spec_for(obj)
    default_template(spec.setdefault("template", {}))
    return spec


def validate_selector(spec: Mapping[str, Any], kind: str) -> Iterator[Cause]:
    """The selector exists, selects something in particular, and matches the template."""
    selector = spec.get("selector")
    if selector is None:
        yield field.required("spec.selector")
        return
    problems = list(selectors.validate_label_selector(selector, "spec.selector"))
    yield from problems
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        yield field.invalid("spec.selector", selector, f"empty selector is invalid for {kind}")
    elif not problems:
        labels = common.dig(spec, "template", "metadata", "labels") or {}
        if not selectors.label_selector_from(selector).matches(labels):
            detail = "`selector` does not match template `labels`"
            yield field.invalid("spec.template.metadata.labels", labels, detail)


def validate_running_template(spec: Mapping[str, Any], kind: str) -> Iterator[Cause]:
    """The template of pods that are kept running."""
    template = spec.get("template") or {}
    yield from validate_template(template, "spec.template")
    pod = template.get("spec") or {}
    if pod.get("restartPolicy") not in ("Always", None):
        yield field.not_supported("spec.template.spec.restartPolicy", pod["restartPolicy"], ("Always",))
    if pod.get("activeDeadlineSeconds") is not None:
        path = "spec.template.spec.activeDeadlineSeconds"
        yield field.forbidden(path, f"activeDeadlineSeconds in {kind} is not Supported")


def counts(spec: Mapping[str, Any], *names: str) -> Iterator[Cause]:
    for name in names:
        yield from common.non_negative(f"spec.{name}", spec.get(name))


def selector_immutable(new: Object, old: Object) -> Iterator[Cause]:
    yield from common.immutable("spec.selector", spec_of(new).get("selector"), spec_of(old).get("selector"))


def status_counts(*names: str) -> Callable[[Object, Object], Iterator[Cause]]:
    """Numbers in a status are not negative."""

    def validate(new: Object, _old: Object) -> Iterator[Cause]:
        status = common.status_of(new)
        for name in names:
            yield from common.non_negative(f"status.{name}", status.get(name))

    return validate
