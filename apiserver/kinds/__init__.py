"""The kinds this server serves: `SCHEME` holds one entry for each, one file a kind or a tight family.

What Kubernetes serves and this does not is listed by name in docs/api.md, which apidoc.py writes.
"""

from __future__ import annotations

from apimachinery.scheme import Scheme
from apiserver.kinds import (
    apiservices,
    autoscaling,
    autoscalingv1,
    certificates,
    config,
    customresourcedefinitions,
    daemonsets,
    deployments,
    devices,
    events,
    flowcontrol,
    jobs,
    leases,
    mutatingpolicies,
    namespaces,
    networking,
    nodes,
    pods,
    policies,
    policy,
    quotas,
    rbac,
    replicasets,
    scheduling,
    serviceaccounts,
    serviceaddresses,
    services,
    statefulsets,
    storagecapacity,
    storagedrivers,
    volumes,
    webhooks,
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
        storagedrivers,
        storagecapacity,
        quotas,
        deployments,
        replicasets,
        daemonsets,
        statefulsets,
        jobs,
        autoscaling,
        autoscalingv1,
        policy,
        networking,
        serviceaddresses,
        rbac,
        scheduling,
        leases,
        certificates,
        webhooks,
        policies,
        mutatingpolicies,
        customresourcedefinitions,
        apiservices,
        flowcontrol,
        devices,
    )
    for kind in family.KINDS
)
