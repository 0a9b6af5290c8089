"""Which ReplicaSet is which template, and how revisions are written on them (`kubectl rollout history`,
`undo`). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from controllers import objects as o
from controllers.hashing import template_hash
from controllers.objects import Object

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
_MAX_HISTORY = 2000  # characters of the revision-history annotation

# Annotations that belong to one object and are not handed from a Deployment to its ReplicaSets.
_OWN_ANNOTATIONS = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        "deprecated.deployment.rollback.to",
        REVISION,
        REVISION_HISTORY,
        DESIRED,
        MAXIMUM,
    }
)


def revision(obj: Object) -> int:
    """The revision annotation; 0 when absent or not a number."""
    try:
        return int(o.annotations_of(obj).get(REVISION, "0"))
    except ValueError:
        return 0


def same_template(a: Object, b: Object) -> bool:
    """Equal but for the hash label that the controller itself adds."""
    return _comparable(a) == _comparable(b)


def _comparable(template: Object) -> Object:
    metadata = {
        part: value for part, value in o.meta(template).items() if value and part != "creationTimestamp"
    }
    if "labels" in metadata:
        metadata["labels"] = {k: v for k, v in metadata["labels"].items() if k != HASH_LABEL}
    return {"metadata": metadata, "spec": template.get("spec")}


def find_new(deployment: Object, owned: Iterable[Object]) -> Object | None:
    """The oldest ReplicaSet with the Deployment's template (two with the same one can only come from a
    race).
    """
    template = o.spec(deployment)["template"]
    for candidate in sorted(owned, key=lambda rs: (o.created_at(rs), o.name(rs))):
        if same_template(o.spec(candidate).get("template") or {}, template):
            return candidate
    return None


def build_new(deployment: Object, reference: Object, *, size: int, maximum: int, new_revision: int) -> Object:
    """The ReplicaSet for the Deployment's current template."""
    wanted = o.spec(deployment)
    code = template_hash(_comparable(wanted["template"]), o.status(deployment).get("collisionCount"))
    template = wanted["template"]
    labels = {**o.labels(template), HASH_LABEL: code}
    selector = wanted["selector"]
    match = {**(selector.get("matchLabels") or {}), HASH_LABEL: code}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{o.name(deployment)}-{code}",
            "namespace": o.namespace(deployment),
            "labels": labels,
            "annotations": {
                **inherited_annotations(deployment),
                REVISION: str(new_revision),
                DESIRED: str(o.replicas(deployment)),
                MAXIMUM: str(maximum),
            },
            "ownerReferences": [reference],
        },
        "spec": {
            "replicas": size,
            "minReadySeconds": int(wanted.get("minReadySeconds") or 0),
            "selector": {**selector, "matchLabels": match},
            "template": {**template, "metadata": {**o.meta(template), "labels": labels}},
        },
    }


def inherited_annotations(deployment: Object) -> dict[str, str]:
    return {k: v for k, v in o.annotations_of(deployment).items() if k not in _OWN_ANNOTATIONS}


def renewed_annotations(deployment: Object, new: Object, new_revision: int) -> dict[str, str]:
    """The annotations an existing ReplicaSet gets when it is, or becomes again, the current one.

    A rollback gives an old ReplicaSet the next revision; the one it had goes into its history.
    """
    current = dict(o.annotations_of(new))
    out = {**current, **inherited_annotations(deployment)}
    old_revision = revision(new)
    if old_revision < new_revision:
        out[REVISION] = str(new_revision)
        if REVISION in current:
            out[REVISION_HISTORY] = _extended(current.get(REVISION_HISTORY, ""), current[REVISION])
    return out


def _extended(history: str, entry: str) -> str:
    entries = [*filter(None, history.split(",")), entry]
    while len(entries) > 1 and len(",".join(entries)) > _MAX_HISTORY:
        entries.pop(0)
    return ",".join(entries)


def max_revision(sets: Iterable[Object]) -> int:
    return max((revision(rs) for rs in sets), default=0)


def obsolete(deployment: Object, old: Sequence[Object]) -> list[Object]:
    """Old ReplicaSets beyond `revisionHistoryLimit`, lowest revisions first; only those with nothing left to
    scale down.
    """
    limit = o.spec(deployment).get("revisionHistoryLimit")
    if limit is None:
        return []
    alive = sorted(
        (rs for rs in old if not o.is_terminating(rs)), key=lambda rs: (revision(rs), o.created_at(rs))
    )
    surplus = alive[: max(len(alive) - int(limit), 0)]
    return [rs for rs in surplus if _is_empty(rs)]


def _is_empty(rs: Object) -> bool:
    settled = o.generation(rs) <= int(o.status(rs).get("observedGeneration") or 0)
    return settled and o.replicas(rs) == 0 and not o.status(rs).get("replicas")


def size_annotations(rs: Object, *, desired: int, maximum: int) -> Mapping[str, str]:
    """`rs`' annotations with what proportional scaling will need to know later."""
    return {**o.annotations_of(rs), DESIRED: str(desired), MAXIMUM: str(maximum)}
