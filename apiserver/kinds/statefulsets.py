"""StatefulSets and PodTemplates."""

from __future__ import annotations

from collections.abc import Iterator

from apimachinery import field
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Scale, Strategy
from apiserver.kinds import common, workloads
from apiserver.kinds.common import column, spec_of, status_of
from apiserver.kinds.podrules import validate_template
from apiserver.kinds.podspec import default_template

_MUTABLE = (
    "minReadySeconds",
    "ordinals",
    "persistentVolumeClaimRetentionPolicy",
    "replicas",
    "revisionHistoryLimit",
    "template",
    "updateStrategy",
)
_UPDATE_RULE = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)


def _default(stateful_set: Object) -> None:
    spec = workloads.default_workload(stateful_set)
    spec.setdefault("podManagementPolicy", "OrderedReady")
    strategy = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        strategy.setdefault("rollingUpdate", {}).setdefault("partition", 0)
    retention = spec.setdefault("persistentVolumeClaimRetentionPolicy", {})
    retention.setdefault("whenDeleted", "Retain")
    retention.setdefault("whenScaled", "Retain")
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", workloads.HISTORY)
    for claim in spec.get("volumeClaimTemplates") or ():
        claim.setdefault("apiVersion", "v1")
        claim.setdefault("kind", "PersistentVolumeClaim")
        claim.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
        claim.setdefault("status", {}).setdefault("phase", "Pending")


def _validate(stateful_set: Object) -> Iterator[Cause]:
    spec = spec_of(stateful_set)
    yield from common.one_of(
        "spec.podManagementPolicy", spec.get("podManagementPolicy"), ("OrderedReady", "Parallel")
    )
    strategy = spec.get("updateStrategy") or {}
    yield from common.one_of("spec.updateStrategy.type", strategy.get("type"), ("OnDelete", "RollingUpdate"))
    partition = common.dig(strategy, "rollingUpdate", "partition")
    yield from common.non_negative("spec.updateStrategy.rollingUpdate.partition", partition)
    for name, policy in (spec.get("persistentVolumeClaimRetentionPolicy") or {}).items():
        path = f"spec.persistentVolumeClaimRetentionPolicy.{name}"
        yield from common.one_of(path, policy, ("Delete", "Retain"))
    yield from workloads.counts(spec, "replicas", "minReadySeconds", "revisionHistoryLimit")
    yield from common.non_negative("spec.ordinals.start", common.dig(spec, "ordinals", "start"))
    yield from workloads.validate_selector(spec, "statefulset")
    yield from _template(spec)


def _template(spec: Object) -> Iterator[Cause]:
    """Claims are volumes of the template too."""
    claims = [common.dig(claim, "metadata", "name") for claim in spec.get("volumeClaimTemplates") or ()]
    template = dict(spec.get("template") or {})
    pod = dict(template.get("spec") or {})
    present = [volume for volume in pod.get("volumes") or () if volume.get("name") not in claims]
    pod["volumes"] = [
        *present,
        *({"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims),
    ]
    template["spec"] = pod
    yield from workloads.validate_running_template({"template": template}, "StatefulSet")


def _validate_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate(new)
    fresh, stored = spec_of(new), spec_of(old)
    if any(fresh.get(key) != stored.get(key) for key in {*fresh, *stored} if key not in _MUTABLE):
        yield field.forbidden("spec", _UPDATE_RULE)


def _prepare_create(stateful_set: Object) -> None:
    stateful_set["status"] = {"replicas": 0, "availableReplicas": 0}


def _ready(stateful_set: Object) -> str:
    return f"{status_of(stateful_set).get('readyReplicas', 0)}/{spec_of(stateful_set).get('replicas', 0)}"


STATEFUL_SET = Kind(
    group="apps",
    version="v1",
    kind="StatefulSet",
    resource="statefulsets",
    namespaced=True,
    storage_prefix="statefulsets",
    singular="statefulset",
    short_names=("sts",),
    categories=common.ALL,
    subresources=("scale", "status"),
    columns=(common.NAME, column("Ready", _ready), common.AGE, common.CONTAINERS, common.IMAGES),
    strategy=Strategy(
        default=_default,
        prepare_create=_prepare_create,
        prepare_update=common.keep_status,
        validate=_validate,
        validate_update=_validate_update,
        status_prepare_update=common.keep_spec,
        status_validate_update=workloads.status_counts(
            "replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"
        ),
    ),
    scale=Scale(),
)


# -- PodTemplate --------------------------------------------------------------------------------------------


def _default_pod_template(obj: Object) -> None:
    default_template(obj.setdefault("template", {}))


def _validate_pod_template(obj: Object) -> Iterator[Cause]:
    yield from validate_template(obj.get("template") or {}, "template")


POD_TEMPLATE = Kind(
    group="",
    version="v1",
    kind="PodTemplate",
    resource="podtemplates",
    namespaced=True,
    storage_prefix="podtemplates",
    singular="podtemplate",
    columns=(
        common.NAME,
        column("Containers", common.containers_cell("template", "spec")),
        column("Images", common.images_cell("template", "spec")),
        column(
            "Pod Labels", lambda obj: common.labels_text(common.dig(obj, "template", "metadata", "labels"))
        ),
    ),
    strategy=Strategy(
        default=_default_pod_template,
        validate=_validate_pod_template,
        validate_update=common.revalidate(_validate_pod_template),
    ),
)

KINDS = (STATEFUL_SET, POD_TEMPLATE)
