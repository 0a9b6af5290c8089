"""Every controller there is, by the names the real manager gives them. Adding one is a file and a line here
(DESIGN.md, "Adding a controller").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from controllers.accounttokens import TokensController
from controllers.attachdetach import AttachDetachController
from controllers.autoscaling import HorizontalPodAutoscalerController
from controllers.bootstraptokens import BootstrapSigner, TokenCleaner
from controllers.certificates import CSRApprover, CSRCleaner, CSRSigner
from controllers.clusterroles import ClusterRoleAggregationController
from controllers.cronjob import CronJobController
from controllers.daemonset import DaemonSetController
from controllers.deployment import DeploymentController
from controllers.disruption import DisruptionController
from controllers.endpoints import EndpointsController
from controllers.endpointslices import EndpointSliceController
from controllers.garbage import GarbageCollector
from controllers.job import JobController
from controllers.legacytokens import LegacyTokenCleaner
from controllers.mirroring import EndpointSliceMirroringController
from controllers.namespace import NamespaceController
from controllers.nodeipam import NodeIPAMController
from controllers.nodelifecycle import NodeLifecycleController, TaintEvictionController
from controllers.options import Options
from controllers.podgc import PodGarbageCollector
from controllers.quota import ResourceQuotaController
from controllers.replicaset import ReplicaSetController, ReplicationControllerController
from controllers.resourceclaims import ResourceClaimController
from controllers.runtime import Context, Runnable
from controllers.serviceaccount import RootCAPublisher, ServiceAccountController
from controllers.servicecidrs import ServiceCIDRController
from controllers.statefulset import StatefulSetController
from controllers.ttl import TTLController
from controllers.ttlafterfinished import TTLAfterFinishedController
from controllers.volumeprotection import (
    ClaimProtectionController,
    ClassProtectionController,
    VolumeProtectionController,
)
from controllers.volumes import EphemeralVolumeController, VolumeBinderController, VolumeExpanderController


def _always(_: Options) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One controller. `lacks` names the flag without which it cannot run; "" when it can. What is not
    `by_default` runs only when `--controllers` names it.
    """

    controller: type[Runnable]
    alias: str  # the name it had before Kubernetes 1.28, which --controllers still knows
    build: Callable[[Context], Runnable]
    lacks: Callable[[Options], str] = _always
    by_default: bool = True

    @property
    def name(self) -> str:
        return self.controller.name


def _ipam(options: Options) -> str:
    return "" if options.allocate_node_cidrs else "--allocate-node-cidrs"


def _root_ca(options: Options) -> str:
    return "" if options.root_ca_pem else "--root-ca-file"


def _signing(options: Options) -> str:
    return "" if options.cluster_signing_cert_file else "--cluster-signing-cert-file"


def _account_key(options: Options) -> str:
    return "" if options.service_account_private_key_file else "--service-account-private-key-file"


CONTROLLERS: Sequence[Entry] = (
    Entry(NamespaceController, "namespace", NamespaceController),
    Entry(ServiceAccountController, "serviceaccount", ServiceAccountController),
    Entry(TokensController, "serviceaccount-token", TokensController, _account_key),
    Entry(LegacyTokenCleaner, "legacy-service-account-token-cleaner", LegacyTokenCleaner),
    Entry(RootCAPublisher, "root-ca-cert-publisher", RootCAPublisher, _root_ca),
    Entry(NodeIPAMController, "nodeipam", NodeIPAMController, _ipam),
    Entry(NodeLifecycleController, "nodelifecycle", NodeLifecycleController),
    Entry(TaintEvictionController, "taint-eviction", TaintEvictionController),
    Entry(
        ReplicaSetController,
        "replicaset",
        lambda ctx: ReplicaSetController(ctx, workers=ctx.options.concurrent_replicaset_syncs),
    ),
    Entry(
        ReplicationControllerController,
        "replicationcontroller",
        lambda ctx: ReplicationControllerController(ctx, workers=ctx.options.concurrent_rc_syncs),
    ),
    Entry(DeploymentController, "deployment", DeploymentController),
    Entry(DaemonSetController, "daemonset", DaemonSetController),
    Entry(StatefulSetController, "statefulset", StatefulSetController),
    Entry(JobController, "job", JobController),
    Entry(TTLAfterFinishedController, "ttl-after-finished", TTLAfterFinishedController),
    Entry(CronJobController, "cronjob", CronJobController),
    Entry(DisruptionController, "disruption", DisruptionController),
    Entry(ResourceQuotaController, "resourcequota", ResourceQuotaController),
    Entry(CSRSigner, "csrsigning", CSRSigner, _signing),
    Entry(CSRApprover, "csrapproving", CSRApprover),
    Entry(CSRCleaner, "csrcleaner", CSRCleaner),
    Entry(HorizontalPodAutoscalerController, "horizontalpodautoscaling", HorizontalPodAutoscalerController),
    Entry(EndpointsController, "endpoint", EndpointsController),
    Entry(EndpointSliceController, "endpointslice", EndpointSliceController),
    Entry(EndpointSliceMirroringController, "endpointslicemirroring", EndpointSliceMirroringController),
    Entry(ClaimProtectionController, "pvc-protection", ClaimProtectionController),
    Entry(VolumeProtectionController, "pv-protection", VolumeProtectionController),
    Entry(ClassProtectionController, "volumeattributesclass-protection", ClassProtectionController),
    Entry(AttachDetachController, "attachdetach", AttachDetachController),
    Entry(VolumeBinderController, "persistentvolume-binder", VolumeBinderController),
    Entry(VolumeExpanderController, "persistentvolume-expander", VolumeExpanderController),
    Entry(EphemeralVolumeController, "ephemeral-volume", EphemeralVolumeController),
    Entry(BootstrapSigner, "bootstrapsigner", BootstrapSigner, by_default=False),
    Entry(TokenCleaner, "tokencleaner", TokenCleaner, by_default=False),
    Entry(TTLController, "ttl", TTLController),
    Entry(PodGarbageCollector, "podgc", PodGarbageCollector),
    Entry(ClusterRoleAggregationController, "clusterrole-aggregation", ClusterRoleAggregationController),
    Entry(ResourceClaimController, "resource-claim-controller", ResourceClaimController),
    Entry(ServiceCIDRController, "service-cidr", ServiceCIDRController),
    Entry(GarbageCollector, "garbagecollector", GarbageCollector),
)


# Those of the real manager (by name and alias) that are not here, and why.
REFUSED: Sequence[tuple[str, str, str]] = (
    ("storageversion-garbage-collector-controller", "storage-version-gc", "StorageVersions are not served"),
    (
        "storage-version-migrator-controller",
        "storage-version-migrator",
        "StorageVersionMigrations are not served",
    ),
    ("device-taint-eviction-controller", "device-taint-eviction", "no kubelet here prepares devices"),
    (
        "validatingadmissionpolicy-status-controller",
        "validatingadmissionpolicy-status",
        "expressions of policies are checked when they are written, not against schemas afterwards",
    ),
    (
        "podcertificaterequest-cleaner-controller",
        "podcertificaterequest-cleaner",
        "PodCertificateRequests are not served",
    ),
    ("node-route-controller", "route", "it is the cloud-controller-manager's"),
    ("service-lb-controller", "service", "it is the cloud-controller-manager's"),
    ("cloud-node-lifecycle-controller", "cloud-node-lifecycle", "it is the cloud-controller-manager's"),
    ("selinux-warning-controller", "selinux-warning", "volumes are not labelled here"),
    (
        "kube-apiserver-serving-clustertrustbundle-publisher-controller",
        "kube-apiserver-serving-clustertrustbundle-publisher",
        "ClusterTrustBundles are not served",
    ),
)


class UnknownController(ValueError):
    """`--controllers` names one that does not exist, or is not here."""


def select(wanted: Sequence[str], entries: Sequence[Entry] = CONTROLLERS) -> list[Entry]:
    """The entries that `--controllers` asks for: `*` is every default, `foo` one, `-foo` all but that one.

    An explicit name wins over the star. What is not here may be switched off like any other, but not on.
    Raises UnknownController.
    """
    names = {entry.name: entry.name for entry in entries} | {entry.alias: entry.name for entry in entries}
    refused = {name: why for full, alias, why in REFUSED for name in (full, alias)}
    on: set[str] = set()
    off: set[str] = set()
    for word in wanted:
        if word == "*":
            continue
        given, switched_off = word.removeprefix("-"), word.startswith("-")
        if given in refused and not switched_off:
            raise UnknownController(f"{given!r} is not part of this manager: {refused[given]}")
        name = names.get(given)
        if name is None and given not in refused:
            raise UnknownController(f"{given!r} is not in the list of known controllers")
        if name is not None:
            (off if switched_off else on).add(name)
    star = "*" in wanted
    return [e for e in entries if e.name in on or (star and e.by_default and e.name not in off)]
