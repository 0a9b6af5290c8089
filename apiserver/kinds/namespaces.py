"""Namespaces: alive until their content and their finalizers are gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from apimachinery.errors import Cause
from apimachinery.meta import validate_finalizer
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import column, spec_of, status_of

FINALIZER = "kubernetes"
NAME_LABEL = "kubernetes.io/metadata.name"


def _default(namespace: Object) -> None:
    metadata = namespace.setdefault("metadata", {})
    if name := metadata.get("name"):
        metadata.setdefault("labels", {})[NAME_LABEL] = name


def _prepare_create(namespace: Object) -> None:
    namespace["status"] = {"phase": "Active"}
    finalizers = common.spec_for(namespace).setdefault("finalizers", [])
    if FINALIZER not in finalizers:
        finalizers.append(FINALIZER)


def _prepare_update(new: Object, old: Object) -> None:
    """Only the `finalize` subresource changes spec.finalizers."""
    finalizers = spec_of(old).get("finalizers")
    spec = new.setdefault("spec", {})
    if finalizers is None:
        spec.pop("finalizers", None)
    else:
        spec["finalizers"] = finalizers
    common.keep_status(new, old)


def _validate(namespace: Object) -> Iterator[Cause]:
    for name in spec_of(namespace).get("finalizers") or ():
        yield from validate_finalizer(name, "spec.finalizers")


def _validate_update(new: Object, _old: Object) -> Iterator[Cause]:
    yield from _validate(new)


def _fields(namespace: Object) -> Mapping[str, str]:
    phase = status_of(namespace).get("phase", "")
    return {"status.phase": phase, "name": (namespace.get("metadata") or {}).get("name", "")}


KINDS = (
    Kind(
        group="",
        version="v1",
        kind="Namespace",
        resource="namespaces",
        namespaced=False,
        storage_prefix="namespaces",
        singular="namespace",
        short_names=("ns",),
        verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
        subresources=("finalize", "status"),
        columns=(common.NAME, column("Status", common.text("status", "phase")), common.AGE),
        strategy=Strategy(
            default=_default,
            prepare_create=_prepare_create,
            prepare_update=_prepare_update,
            validate=_validate,
            validate_update=_validate_update,
            status_prepare_update=common.keep_spec,
            fields=_fields,
            has_generation=False,
        ),
        selectable_fields=("status.phase", "name"),
        name_rule="label",
    ),
)
