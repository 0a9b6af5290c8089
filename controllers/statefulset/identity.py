"""What a StatefulSet's pod is called and what it carries: name, labels, host name, volumes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from controllers import objects as o
from controllers import pods
from controllers.history import HASH_LABEL
from controllers.objects import Object
from kubeclient.resources import STATEFULSETS

POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"
_MEMBER = re.compile(r"(.*)-([0-9]+)$")


def start_ordinal(sts: Object) -> int:
    return int((o.spec(sts).get("ordinals") or {}).get("start") or 0)


def ordinals(sts: Object) -> range:
    """The ordinals that should exist."""
    start = start_ordinal(sts)
    return range(start, start + o.replicas(sts))


def pod_name(sts: Object, ordinal: int) -> str:
    return f"{o.name(sts)}-{ordinal}"


def ordinal_of(pod: Object) -> int:
    """The number at the end of the pod's name; -1 when it has none."""
    found = _MEMBER.fullmatch(o.name(pod))
    return int(found[2]) if found else -1


def is_member(sts: Object, pod: Object) -> bool:
    """The pod's name is one this set gives."""
    found = _MEMBER.fullmatch(o.name(pod))
    return found is not None and found[1] == o.name(sts)


def revision_of(pod: Object) -> str:
    """The name of the ControllerRevision the pod was made from."""
    return o.labels(pod).get(HASH_LABEL, "")


def claim_templates(sts: Object) -> Sequence[Object]:
    return o.spec(sts).get("volumeClaimTemplates") or ()


def claim_name(sts: Object, template: Object, ordinal: int) -> str:
    return f"{o.name(template)}-{o.name(sts)}-{ordinal}"


def claim_names(sts: Object, ordinal: int) -> list[str]:
    return [claim_name(sts, template, ordinal) for template in claim_templates(sts)]


def identity_labels(sts: Object, ordinal: int) -> Mapping[str, str]:
    return {POD_NAME: pod_name(sts, ordinal), POD_INDEX: str(ordinal)}


def build_pod(sts: Object, template: Object, revision: str, ordinal: int) -> Object:
    """The pod of one ordinal, made from the template of `revision`."""
    reference = o.owner_reference(sts, STATEFULSETS.api_version, STATEFULSETS.kind)
    pod = pods.from_template(template, sts, reference, pod_name=pod_name(sts, ordinal))
    labels = {**o.labels(pod), HASH_LABEL: revision, **identity_labels(sts, ordinal)}
    spec = {
        **o.spec(pod),
        "hostname": pod_name(sts, ordinal),
        "volumes": volumes(sts, o.spec(pod).get("volumes") or (), ordinal),
    }
    if not spec["volumes"]:
        del spec["volumes"]
    if o.spec(sts).get("serviceName"):
        spec["subdomain"] = o.spec(sts)["serviceName"]
    return {**pod, "metadata": {**o.meta(pod), "labels": labels}, "spec": spec}


def volumes(sts: Object, template_volumes: Sequence[Object], ordinal: int) -> list[Object]:
    """The claims of this ordinal, then the template's volumes that no claim replaces."""
    claims = {o.name(t): claim_name(sts, t, ordinal) for t in claim_templates(sts)}
    mounted = [
        {"name": volume, "persistentVolumeClaim": {"claimName": claim}} for volume, claim in claims.items()
    ]
    return [*mounted, *(v for v in template_volumes if v["name"] not in claims)]


def repaired(sts: Object, pod: Object) -> Object | None:
    """The pod with its identity labels put back; None when nothing is missing.

    Name and volumes cannot change once a pod exists, so labels are all there is to repair.
    """
    wanted = identity_labels(sts, ordinal_of(pod))
    if wanted.items() <= o.labels(pod).items():
        return None
    return {**pod, "metadata": {**o.meta(pod), "labels": {**o.labels(pod), **wanted}}}
