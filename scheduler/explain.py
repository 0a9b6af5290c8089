"""`hardway why <pod>`: the latest decisions, each with every node's filter verdict and score per plugin.

Accounting for every node costs a hundred times what the decision itself costs, so it is done at the time of
the decision in clusters up to `EAGER_NODES`; in larger ones when somebody asks, against the cluster as it is
then. The answer says which of the two it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.columns import Columns
from scheduler.core import explain
from scheduler.framework import Explanation, Nominated, Profile
from scheduler.podinfo import PodInfo

MAX_DECISIONS = 256
EAGER_NODES = 100
Object = dict[str, Any]


class _First:
    """Takes the first of equals: an explanation must not use up chance."""

    def randrange(self, stop: int, /) -> int:
        return 0


@dataclass(slots=True)
class Record:
    """One decision about a pod."""

    profile: Profile
    info: PodInfo
    when: float  # seconds since the epoch
    node: str = ""
    message: str = ""
    explanation: Explanation | None = None


class Archive:
    """The last decisions by pod, the newest last; bounded."""

    def __init__(self, limit: int = MAX_DECISIONS) -> None:
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._limit = limit

    def remember(
        self, profile: Profile, info: PodInfo, nodes: Columns, nominated: Nominated, when: float
    ) -> None:
        """A decision about the pod is about to be made."""
        record = Record(profile, info, when)
        if nodes.node_count <= EAGER_NODES:
            record.explanation = explain(profile, info, nodes, _First(), nominated=nominated)[1]
        self._records[info.key] = record
        self._records.move_to_end(info.key)
        if len(self._records) > self._limit:
            self._records.popitem(last=False)

    def placed(self, info: PodInfo, node: str) -> None:
        record = self._records.get(info.key)
        if record is not None:
            record.node = node

    def refused(self, info: PodInfo, message: str) -> None:
        record = self._records.get(info.key)
        if record is not None:
            record.message = message

    def why(self, key: str, nodes: Columns, nominated: Nominated) -> Object | None:
        """The latest decision about `namespace/name` as a document; None when it is not known any more."""
        record = self._records.get(key)
        if record is None:
            return None
        explanation = record.explanation
        if explanation is None:
            explanation = _as_of_now(record, nodes, nominated)
        return {
            "pod": key,
            "uid": record.info.uid,
            "schedulerName": record.profile.scheduler_name,
            "decidedAt": record.when,
            "node": record.node,
            "message": record.message,
            "evaluated": "at the decision" if record.explanation is not None else "now",
            "nodes": [_about(explanation, row, name) for row, name in _ordered(explanation)],
        }


def _as_of_now(record: Record, nodes: Columns, nominated: Nominated) -> Explanation:
    """As if the pod were to be placed again, without itself."""
    placed = nodes.pods.get(record.info.key)
    if placed is None:
        return explain(record.profile, record.info, nodes, _First(), nominated=nominated)[1]
    node = nodes.names[placed.row]
    nodes.remove_pod(record.info.key)
    try:
        return explain(record.profile, record.info, nodes, _First(), nominated=nominated)[1]
    finally:
        nodes.add_pod(placed.info, node)


def _ordered(explanation: Explanation) -> list[tuple[int, str]]:
    """The best first, what failed last."""
    return sorted(
        explanation.node_names.items(), key=lambda item: (-explanation.totals.get(item[0], -1.0), item[1])
    )


def _about(explanation: Explanation, row: int, name: str) -> Object:
    if row in explanation.failed_by:
        return {
            "name": name,
            "passed": False,
            "plugin": explanation.failed_by[row],
            "reasons": list(explanation.reasons[row]),
        }
    scores = {plugin: by_row[row] for plugin, by_row in explanation.scores.items() if row in by_row}
    return {"name": name, "passed": True, "scores": scores, "total": explanation.totals.get(row, 0.0)}


def render(document: Object) -> str:
    """The document as a table for people."""
    lines = [f"pod        {document['pod']}", f"scheduler  {document['schedulerName']}"]
    if document["node"]:
        lines.append(f"node       {document['node']}")
    if document["message"]:
        lines.append(f"message    {document['message']}")
    lines += [f"evaluated  {document['evaluated']}", ""]
    passed = [each for each in document["nodes"] if each["passed"]]
    failed = [each for each in document["nodes"] if not each["passed"]]
    if passed:
        plugins = sorted({plugin for each in passed for plugin in each["scores"]})
        rows = [["NODE", "TOTAL", *plugins]]
        rows += [
            [_marked(each["name"], document), _number(each["total"])]
            + [_number(each["scores"].get(plugin, 0.0)) for plugin in plugins]
            for each in passed
        ]
        lines += [*_table(rows), ""]
    if failed:
        rows = [["NODE", "REFUSED BY", "REASON"]]
        rows += [[each["name"], each["plugin"], "; ".join(each["reasons"])] for each in failed]
        lines += [*_table(rows), ""]
    return "\n".join(lines)


def _marked(name: str, document: Object) -> str:
    return f"{name} *" if name == document["node"] else name


def _number(value: float) -> str:
    return f"{value:g}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
