"""What each controller of the controller manager may do: the rules of `system:controller:<name>`."""

from __future__ import annotations

from apiserver.auth.rules import Rule
from apiserver.auth.wording import EVENTS, FULL, RBAC_GROUP, READ, rule

CONTROLLERS: dict[str, list[Rule]] = {
    "attachdetach-controller": [
        rule("get list update watch patch", "", "nodes nodes/status"),
        rule(READ, "", "persistentvolumeclaims persistentvolumes pods"),
        rule(FULL, "storage.k8s.io", "volumeattachments"),
        rule(READ, "storage.k8s.io", "csidrivers csinodes"),
        EVENTS,
    ],
    "certificate-controller": [
        rule("delete get list watch", "certificates.k8s.io", "certificatesigningrequests"),
        rule(
            "update",
            "certificates.k8s.io",
            "certificatesigningrequests/approval certificatesigningrequests/status",
        ),
        rule("approve sign", "certificates.k8s.io", "signers"),
        rule("create", "authorization.k8s.io", "subjectaccessreviews"),
        EVENTS,
    ],
    "clusterrole-aggregation-controller": [
        rule("escalate get list patch update watch", RBAC_GROUP, "clusterroles")
    ],
    "cronjob-controller": [
        rule("get list update watch patch create delete", "batch", "cronjobs jobs"),
        rule("update", "batch", "cronjobs/status cronjobs/finalizers"),
        rule("delete list", "", "pods"),
        EVENTS,
    ],
    "daemon-set-controller": [
        rule(READ, "apps", "daemonsets"),
        rule("update", "apps", "daemonsets/status daemonsets/finalizers"),
        rule("list watch", "", "nodes"),
        rule("create delete list patch watch", "", "pods"),
        rule("create", "", "pods/binding"),
        rule("create delete get list patch update watch", "apps", "controllerrevisions"),
        EVENTS,
    ],
    "deployment-controller": [
        rule("get list update watch", "apps", "deployments"),
        rule("update", "apps", "deployments/status deployments/finalizers"),
        rule("create delete get list patch update watch", "apps", "replicasets"),
        rule("get list update watch", "", "pods"),
        EVENTS,
    ],
    "disruption-controller": [
        rule(READ, "apps", "deployments replicasets statefulsets"),
        rule(READ, "", "pods replicationcontrollers"),
        rule(READ, "policy", "poddisruptionbudgets"),
        rule("update", "policy", "poddisruptionbudgets/status"),
        rule("patch update", "", "pods/status"),
        rule("get", "*", "*/scale"),
        EVENTS,
    ],
    "endpoint-controller": [
        rule(READ, "", "pods services"),
        rule("create delete get list update", "", "endpoints"),
        rule("create", "", "endpoints/restricted"),
        EVENTS,
    ],
    "endpointslice-controller": [
        rule(READ, "", "nodes pods services"),
        rule("update", "", "services/finalizers"),
        rule("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
        EVENTS,
    ],
    "endpointslicemirroring-controller": [
        rule(READ, "", "endpoints services"),
        rule("update", "", "endpoints/finalizers services/finalizers"),
        rule("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
        EVENTS,
    ],
    "expand-controller": [
        rule("get list update watch patch", "", "persistentvolumes persistentvolumeclaims"),
        EVENTS,
    ],
    "ephemeral-volume-controller": [
        rule(READ, "", "pods"),
        rule("update", "", "pods/finalizers"),
        rule("create get list watch", "", "persistentvolumeclaims"),
        EVENTS,
    ],
    "generic-garbage-collector": [rule("delete get list patch update watch", "*", "*"), EVENTS],
    "horizontal-pod-autoscaler": [
        rule(READ, "autoscaling", "horizontalpodautoscalers"),
        rule("update", "autoscaling", "horizontalpodautoscalers/status"),
        rule("get update", "*", "*/scale"),
        rule("list", "", "pods"),
        rule("list", "metrics.k8s.io", "pods"),
        EVENTS,
    ],
    "job-controller": [
        rule("get list patch update watch", "batch", "jobs"),
        rule("update", "batch", "jobs/status jobs/finalizers"),
        rule("create delete list patch watch", "", "pods"),
        EVENTS,
    ],
    "legacy-service-account-token-cleaner": [
        rule("get", "", "configmaps", "kube-apiserver-legacy-service-account-token-tracking"),
        rule("delete patch", "", "secrets"),
    ],
    "namespace-controller": [
        rule("delete get list watch", "", "namespaces"),
        rule("update", "", "namespaces/finalize namespaces/status"),
        rule("delete deletecollection get list", "*", "*"),
    ],
    "node-controller": [
        rule("delete get list patch update watch", "", "nodes"),
        rule("patch update", "", "nodes/status"),
        rule("delete list get watch", "", "pods"),
        rule("patch update", "", "pods/status"),
        rule(READ, "coordination.k8s.io", "leases"),
        rule("create get list update watch", "networking.k8s.io", "clustercidrs"),
        EVENTS,
    ],
    "persistent-volume-binder": [
        rule("create delete get list update watch", "", "persistentvolumes"),
        rule("update", "", "persistentvolumes/status persistentvolumeclaims/status"),
        rule("get list update watch", "", "persistentvolumeclaims"),
        rule(READ, "storage.k8s.io", "storageclasses"),
        rule(READ, "", "nodes"),
        EVENTS,
    ],
    "pod-garbage-collector": [
        rule("delete list watch", "", "pods"),
        rule("get list watch", "", "nodes"),
        rule("patch", "", "pods/status"),
        EVENTS,
    ],
    "pv-protection-controller": [rule("get list update watch", "", "persistentvolumes"), EVENTS],
    "pvc-protection-controller": [
        rule("get list update watch", "", "persistentvolumeclaims"),
        rule(READ, "", "pods"),
        EVENTS,
    ],
    "replicaset-controller": [
        rule("get list update watch", "apps", "replicasets"),
        rule("update", "apps", "replicasets/status replicasets/finalizers"),
        rule("create delete list patch watch", "", "pods"),
        EVENTS,
    ],
    "replication-controller": [
        rule("get list update watch", "", "replicationcontrollers"),
        rule("update", "", "replicationcontrollers/status replicationcontrollers/finalizers"),
        rule("create delete list patch watch", "", "pods"),
        EVENTS,
    ],
    "resource-claim-controller": [
        rule(READ, "", "pods"),
        rule("update", "", "pods/finalizers"),
        rule("patch update", "", "pods/status"),
        rule("create delete get list patch update watch", "resource.k8s.io", "resourceclaims"),
        rule("patch update", "resource.k8s.io", "resourceclaims/status"),
        rule(READ, "resource.k8s.io", "resourceclaimtemplates"),
        EVENTS,
    ],
    "resourcequota-controller": [
        rule("list watch", "*", "*"),
        rule("update", "", "resourcequotas/status"),
        EVENTS,
    ],
    "root-ca-cert-publisher": [
        rule("create get list update watch", "", "configmaps"),
        rule("list watch", "", "namespaces"),
        EVENTS,
    ],
    "route-controller": [rule("list watch", "", "nodes"), rule("patch", "", "nodes/status"), EVENTS],
    "service-account-controller": [
        rule("create get list watch", "", "serviceaccounts"),
        rule("list watch", "", "namespaces"),
        EVENTS,
    ],
    "service-cidrs-controller": [
        rule("get list patch update watch", "networking.k8s.io", "servicecidrs"),
        rule("patch update", "networking.k8s.io", "servicecidrs/finalizers servicecidrs/status"),
        rule(READ, "networking.k8s.io", "ipaddresses"),
        EVENTS,
    ],
    "service-controller": [
        rule(READ, "", "services"),
        rule("patch update", "", "services/status"),
        rule("list watch", "", "nodes"),
        EVENTS,
    ],
    "statefulset-controller": [
        rule("list watch", "", "pods"),
        rule("create delete get patch update", "", "pods"),
        rule(READ, "apps", "statefulsets"),
        rule("update", "apps", "statefulsets/status statefulsets/finalizers"),
        rule("create delete get list patch update watch", "apps", "controllerrevisions"),
        rule("create delete get update", "", "persistentvolumeclaims"),  # KEP-1847 deletes and owns them
        EVENTS,
    ],
    "ttl-after-finished-controller": [rule("delete get list watch", "batch", "jobs"), EVENTS],
    "ttl-controller": [rule("list patch update watch", "", "nodes"), EVENTS],
    "volumeattributesclass-protection-controller": [
        rule("get list update watch", "storage.k8s.io", "volumeattributesclasses"),
        rule(READ, "", "persistentvolumeclaims persistentvolumes"),
        EVENTS,
    ],
}

# Cluster role -> subjects (Group or User, name).
