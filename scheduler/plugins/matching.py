"""Node selector terms compared with many nodes at once, and the normalisation that several scores share."""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns, LabelColumn, Rows
from scheduler.framework import MAX_SCORE, Scores
from scheduler.podinfo import NodeTerm, PodInfo, Requirement
from scheduler.tallies import ABSENT, Mask


def _numeric(column: LabelColumn, rows: Rows, operator: str, bound: str) -> Mask:
    """Gt and Lt compare integers; a label that is none fails, as does an absent one."""
    verdicts: Mask = np.zeros(len(column.values), dtype=np.bool_)
    try:
        limit = int(bound)
    except ValueError:
        return verdicts[column.ids[rows] * 0]
    for index, text in enumerate(column.values):
        try:
            number = int(text)
        except ValueError:
            continue
        verdicts[index] = number > limit if operator == "Gt" else number < limit
    out: Mask = verdicts[column.ids[rows]]
    return out


def expression(requirement: Requirement, nodes: Columns, rows: Rows) -> Mask:
    """One label expression over the rows (core/v1 NodeSelectorOperator)."""
    column = nodes.label_column(requirement.key)
    ids = column.ids[rows]
    match requirement.operator:
        case "Exists":
            present: Mask = ids != ABSENT
            return present
        case "DoesNotExist":
            absent: Mask = ids == ABSENT
            return absent
        case "Gt" | "Lt":
            return _numeric(column, rows, requirement.operator, requirement.values[0])
        case "In" | "NotIn":
            if len(requirement.values) == 1:
                among: Mask = ids == column.id_of(requirement.values[0])
            else:
                among = np.isin(ids, [column.id_of(value) for value in requirement.values])
            return among if requirement.operator == "In" else ~among
        case operator:
            raise ValueError(f"unknown node selector operator {operator!r}")


def named(names: tuple[str, ...], nodes: Columns, rows: Rows) -> Mask:
    """Which of the rows hold a node of one of these names."""
    out = np.zeros(nodes.top, dtype=np.bool_)
    for name in names:
        row = nodes.row_of.get(name)
        if row is not None:
            out[row] = True
    return out[rows]


def _field(requirement: Requirement, nodes: Columns, rows: Rows) -> Mask:
    """A field expression; `metadata.name` is the only field Kubernetes knows here."""
    if requirement.key != "metadata.name":
        raise ValueError(f"unknown node field {requirement.key!r}")
    among = named(requirement.values, nodes, rows)
    return among if requirement.operator == "In" else ~among


def term(node_term: NodeTerm, nodes: Columns, rows: Rows) -> Mask:
    """All expressions of a term together; an empty term matches no node."""
    out: Mask = np.ones_like(nodes.live[rows])
    if not node_term.expressions and not node_term.fields:
        return ~out
    for requirement in node_term.expressions:
        out &= expression(requirement, nodes, rows)
    for requirement in node_term.fields:
        out &= _field(requirement, nodes, rows)
    return out


def any_term(terms: tuple[NodeTerm, ...], nodes: Columns, rows: Rows) -> Mask:
    """Terms are alternatives."""
    out: Mask = np.zeros_like(nodes.live[rows])
    for node_term in terms:
        out |= term(node_term, nodes, rows)
    return out


def required(pod: PodInfo, nodes: Columns, rows: Rows) -> Mask | None:
    """nodeSelector and required node affinity together; None when the pod has neither."""
    if not pod.node_selector and pod.node_terms is None:
        return None
    out: Mask = np.ones_like(nodes.live[rows])
    for requirement in pod.node_selector:
        out &= expression(requirement, nodes, rows)
    if pod.node_terms is not None:
        out &= any_term(pod.node_terms, nodes, rows)
    return out


def normalise(scores: Scores, *, reverse: bool = False) -> Scores | float:
    """Stretch to 0..MAX_SCORE by the highest (`helper.DefaultNormalizeScore`); integers as in
    kube-scheduler.
    """
    highest = scores.max(initial=0.0)
    if highest == 0:
        return float(MAX_SCORE) if reverse else 0.0
    out: Scores = np.floor(scores * MAX_SCORE / highest)
    return MAX_SCORE - out if reverse else out
