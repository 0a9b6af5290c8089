"""Node selector terms compared with all nodes at once, and the normalisation that several scores share."""

from __future__ import annotations

import numpy as np

from scheduler.columns import ABSENT, Columns, LabelColumn, Mask
from scheduler.framework import MAX_SCORE, Scores
from scheduler.podinfo import NodeTerm, PodInfo, Requirement


def _numeric(column: LabelColumn, operator: str, bound: str) -> Mask:
    """Gt and Lt compare integers; a label that is none fails, as does an absent one."""
    try:
        limit = int(bound)
    except ValueError:
        return np.zeros(len(column.ids), dtype=np.bool_)
    verdicts: Mask = np.zeros(len(column.values) + 1, dtype=np.bool_)  # the last entry serves ABSENT (-1)
    for index, text in enumerate(column.values):
        try:
            number = int(text)
        except ValueError:
            continue
        verdicts[index] = number > limit if operator == "Gt" else number < limit
    out: Mask = verdicts[column.ids]
    return out


def expression(requirement: Requirement, nodes: Columns) -> Mask:
    """One label expression over all rows (core/v1 NodeSelectorOperator)."""
    column = nodes.label_column(requirement.key)
    present: Mask = column.ids != ABSENT
    match requirement.operator:
        case "Exists":
            return present
        case "DoesNotExist":
            return ~present
        case "Gt" | "Lt":
            return _numeric(column, requirement.operator, requirement.values[0])
        case "In" | "NotIn":
            if len(requirement.values) == 1:
                among: Mask = column.ids == column.id_of(requirement.values[0])
            else:
                among = np.isin(column.ids, [column.id_of(value) for value in requirement.values])
            return among if requirement.operator == "In" else ~among
        case operator:
            raise ValueError(f"unknown node selector operator {operator!r}")


def _named(requirement: Requirement, nodes: Columns) -> Mask:
    """A field expression; `metadata.name` is the only field Kubernetes knows here."""
    if requirement.key != "metadata.name":
        raise ValueError(f"unknown node field {requirement.key!r}")
    out = np.zeros(len(nodes.live), dtype=np.bool_)
    for value in requirement.values:
        row = nodes.row_of.get(value)
        if row is not None:
            out[row] = True
    return out if requirement.operator == "In" else ~out


def term(node_term: NodeTerm, nodes: Columns) -> Mask:
    """All expressions of a term together; an empty term matches no node."""
    if not node_term.expressions and not node_term.fields:
        return np.zeros(len(nodes.live), dtype=np.bool_)
    out = np.ones(len(nodes.live), dtype=np.bool_)
    for requirement in node_term.expressions:
        out &= expression(requirement, nodes)
    for requirement in node_term.fields:
        out &= _named(requirement, nodes)
    return out


def required(pod: PodInfo, nodes: Columns) -> Mask | None:
    """nodeSelector and required node affinity together; None when the pod has neither."""
    if not pod.node_selector and pod.node_terms is None:
        return None
    out = np.ones(len(nodes.live), dtype=np.bool_)
    for requirement in pod.node_selector:
        out &= expression(requirement, nodes)
    if pod.node_terms is not None:
        any_term = np.zeros(len(nodes.live), dtype=np.bool_)
        for node_term in pod.node_terms:
            any_term |= term(node_term, nodes)
        out &= any_term
    return out


def normalise(scores: Scores, *, reverse: bool = False) -> Scores:
    """Stretch to 0..MAX_SCORE by the highest (`helper.DefaultNormalizeScore`); integers as in
    kube-scheduler.
    """
    highest = scores.max(initial=0.0)
    if highest == 0:
        return np.full_like(scores, MAX_SCORE if reverse else 0)
    out: Scores = np.floor(scores * MAX_SCORE / highest)
    return MAX_SCORE - out if reverse else out
