"""The kinds this server serves: `SCHEME` holds one entry for each, one file a kind or a tight family.

Left out, because nothing here would act on them yet: webhook configurations, admission policies, CSIDriver,
CSINode, CSIStorageCapacity, VolumeAttachment, VolumeAttributesClass, ServiceCIDR, IPAddress, FlowSchema and
PriorityLevelConfiguration, ResourceClaims and DeviceClasses, ClusterTrustBundles.
"""

from __future__ import annotations

from apimachinery.scheme import Scheme
from apiserver.kinds import (
    autoscaling,
    certificates,
    config,
    daemonsets,
    deployments,
    events,
    jobs,
    leases,
    namespaces,
    networking,
    nodes,
    pods,
    policy,
    quotas,
    rbac,
    replicasets,
    scheduling,
    serviceaccounts,
    services,
    statefulsets,
    volumes,
)

# The order is that of discovery and of `kubectl api-resources` within a group.
SCHEME = Scheme(
    kind
    for family in (
        namespaces,
        nodes,
        pods,
        services,
        config,
        serviceaccounts,
        events,
        volumes,
        quotas,
        deployments,
        replicasets,
        daemonsets,
        statefulsets,
        jobs,
        autoscaling,
        policy,
        networking,
        rbac,
        scheduling,
        leases,
        certificates,
    )
    for kind in family.KINDS
)
