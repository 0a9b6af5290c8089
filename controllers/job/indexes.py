"""Sets of completion indexes and their text form, `1,3-5` (status.completedIndexes). Pure."""

from __future__ import annotations

from collections.abc import Iterable

from controllers import objects as o
from controllers.objects import Object

INDEX = "batch.kubernetes.io/job-completion-index"  # annotation and label
FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED_FAILURES = "batch.kubernetes.io/job-index-ignored-failure-count"


def parse(text: str | None, below: int) -> set[int]:
    """The indexes of `text` that are less than `below`: a job's completions may have been lowered since."""
    out: set[int] = set()
    for part in (text or "").split(","):
        first, dash, last = part.partition("-")
        if first.isdigit() and (not dash or last.isdigit()):
            out.update(range(int(first), min(int(last if dash else first) + 1, below)))
    return out


def text_of(indexes: Iterable[int]) -> str:
    """Ascending; two neighbours are written `1,2`, three and more `1-3`."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 2 else ",".join(map(str, r)) for r in runs)


def index_of(pod: Object) -> int:
    """The completion index of a pod; -1 when it has none."""
    text = o.annotations_of(pod).get(INDEX, "")
    return int(text) if text.isdigit() else -1


def failures_of(pod: Object) -> int:
    """How often this pod's index had failed before it was made."""
    text = o.annotations_of(pod).get(FAILURES, "0")
    return int(text) if text.isdigit() else 0


def ignored_failures_of(pod: Object) -> int:
    text = o.annotations_of(pod).get(IGNORED_FAILURES, "0")
    return int(text) if text.isdigit() else 0
