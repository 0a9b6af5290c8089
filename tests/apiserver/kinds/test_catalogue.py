"""Every entry of the scheme, against the schema and the names that kubectl knows."""

from __future__ import annotations

import copy

import orjson
import pytest

from apimachinery.meta import NAME_RULES
from apimachinery.schema.decode import decode, definition_of
from apimachinery.scheme import Kind
from apimachinery.table import Since
from apiserver.kinds import SCHEME
from tests.apiserver.kinds.helpers import accepted, cells, kind_of, made

KINDS = list(SCHEME)
IDS = [f"{kind.kind}.{kind.group}" for kind in KINDS]

# resource, short names, kind, namespaced: `kubectl api-resources` of a real 1.34 cluster, with the betas that
# are served here.
API_RESOURCES = """
bindings - Binding
configmaps cm ConfigMap
endpoints ep Endpoints
events ev Event
limitranges limits LimitRange
namespaces ns Namespace
nodes no Node
persistentvolumeclaims pvc PersistentVolumeClaim
persistentvolumes pv PersistentVolume
pods po Pod
podtemplates - PodTemplate
replicationcontrollers rc ReplicationController
resourcequotas quota ResourceQuota
secrets - Secret
serviceaccounts sa ServiceAccount
services svc Service
controllerrevisions - ControllerRevision
daemonsets ds DaemonSet
deployments deploy Deployment
replicasets rs ReplicaSet
statefulsets sts StatefulSet
horizontalpodautoscalers hpa HorizontalPodAutoscaler
cronjobs cj CronJob
jobs - Job
certificatesigningrequests csr CertificateSigningRequest
leases - Lease
endpointslices - EndpointSlice
ingressclasses - IngressClass
ingresses ing Ingress
networkpolicies netpol NetworkPolicy
ipaddresses ip IPAddress
servicecidrs - ServiceCIDR
runtimeclasses - RuntimeClass
poddisruptionbudgets pdb PodDisruptionBudget
clusterrolebindings - ClusterRoleBinding
clusterroles - ClusterRole
rolebindings - RoleBinding
roles - Role
priorityclasses pc PriorityClass
storageclasses sc StorageClass
csidrivers - CSIDriver
csinodes - CSINode
volumeattachments - VolumeAttachment
customresourcedefinitions crd,crds CustomResourceDefinition
apiservices - APIService
csistoragecapacities - CSIStorageCapacity
volumeattributesclasses vac VolumeAttributesClass
deviceclasses - DeviceClass
resourceclaims - ResourceClaim
resourceclaimtemplates - ResourceClaimTemplate
resourceslices - ResourceSlice
flowschemas - FlowSchema
prioritylevelconfigurations - PriorityLevelConfiguration
validatingadmissionpolicies - ValidatingAdmissionPolicy
validatingadmissionpolicybindings - ValidatingAdmissionPolicyBinding
mutatingadmissionpolicies - MutatingAdmissionPolicy
mutatingadmissionpolicybindings - MutatingAdmissionPolicyBinding
mutatingwebhookconfigurations - MutatingWebhookConfiguration
validatingwebhookconfigurations - ValidatingWebhookConfiguration
"""


def test_names_are_those_of_kubernetes() -> None:
    known = {line.split()[0]: line.split()[1:] for line in API_RESOURCES.strip().splitlines()}
    for kind in KINDS:
        short, name = known[kind.resource]
        assert kind.short_names == (() if short == "-" else tuple(short.split(","))), kind.resource
        assert (kind.kind, kind.singular) == (name, name.lower())
    assert set(known) - {kind.resource for kind in KINDS} == {"bindings"}


def test_the_category_all_is_that_of_kubectl_get_all() -> None:
    expected = {"pods", "replicationcontrollers", "services", "daemonsets", "deployments", "replicasets"}
    expected |= {"statefulsets", "horizontalpodautoscalers", "cronjobs", "jobs"}
    assert {kind.resource for kind in KINDS if "all" in kind.categories} == expected


def test_storage_prefixes_are_the_real_ones() -> None:
    special = {"nodes": "minions", "services": "services/specs", "endpoints": "services/endpoints"}
    special |= {
        "replicationcontrollers": "controllers",
        "ingresses": "ingress",
        "ingressclasses": "ingressclass",
        "customresourcedefinitions": "apiextensions.k8s.io/customresourcedefinitions",
        "apiservices": "apiregistration.k8s.io/apiservices",
    }
    for kind in KINDS:
        assert kind.storage_prefix == special.get(kind.resource, kind.resource)


def test_scale_belongs_to_replicated_workloads() -> None:
    scaled = {kind.resource for kind in KINDS if kind.scale}
    assert scaled == {"deployments", "replicasets", "statefulsets", "replicationcontrollers"}
    assert all(("scale" in kind.subresources) == (kind.resource in scaled) for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_every_entry_is_whole(kind: Kind) -> None:
    assert definition_of(kind.group, kind.version, kind.kind)
    assert kind.name_rule in NAME_RULES
    assert len({column.name for column in kind.columns}) == len(kind.columns)
    assert set(kind.strategy.fields(made(kind))) == set(kind.selectable_fields)
    assert list(kind.subresources) == sorted(kind.subresources)


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_an_empty_object_passes_every_step_without_an_exception(kind: Kind) -> None:
    """Not without causes: an empty object is rarely valid, but it must be refused in words."""
    bare = made(kind)
    cells(kind, bare)
    ready = accepted(kind, bare)
    list(kind.strategy.validate(ready))
    list(kind.strategy.validate_update(ready, copy.deepcopy(ready)))
    list(kind.strategy.status_validate_update(ready, copy.deepcopy(ready)))
    orjson.dumps(cells(kind, ready))


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_defaults_fit_the_schema_and_are_stable(kind: Kind) -> None:
    ready = accepted(kind, made(kind))
    decoded, warnings = decode(kind, ready, strict="Strict")
    assert warnings == []
    kind.strategy.default(decoded)
    again = copy.deepcopy(decoded)
    kind.strategy.default(again)
    assert again == decoded


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if "status" in kind.subresources], ids=lambda kind: kind.kind
)
def test_updates_keep_the_status_and_status_updates_the_spec(kind: Kind) -> None:
    old = {**accepted(kind, made(kind)), "status": {"phase": "Old"}}
    new = {**copy.deepcopy(old), "status": {"phase": "New"}}
    kind.strategy.prepare_update(new, old)
    assert new["status"] == {"phase": "Old"}
    touched = {**copy.deepcopy(old), "spec": {"touched": True}}
    kind.strategy.status_prepare_update(touched, old)
    assert touched.get("spec") == old.get("spec")


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_ages_are_rendered(kind: Kind) -> None:
    obj = made(kind)
    obj["metadata"]["creationTimestamp"] = "2025-12-31T23:59:30Z"
    row = cells(kind, obj)
    assert not any(isinstance(cell, Since) for cell in row.values())
    if "Age" in row:
        assert row["Age"] == "30s"


def test_events_are_one_storage_in_two_forms() -> None:
    new = kind_of("events.k8s.io", "events")
    assert new.to_storage and new.from_storage
    core = made(
        kind_of("", "events"), involvedObject={"kind": "Pod"}, message="m", source={"component": "c"}, count=2
    )
    shown = new.from_storage(core)
    assert shown["regarding"] == {"kind": "Pod"} and shown["note"] == "m" and shown["deprecatedCount"] == 2
    assert shown["apiVersion"] == "events.k8s.io/v1"
    assert new.to_storage(shown) == core
