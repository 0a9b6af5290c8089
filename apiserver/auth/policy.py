"""The bootstrap policy: roles and bindings every cluster starts with
(plugin/pkg/auth/authorizer/rbac/bootstrappolicy).

Written as tables of rules (`wording`); those of the controllers are in `controllerpolicy`. Objects are plain
RBAC objects with the label and annotation Kubernetes gives them.
"""

from __future__ import annotations

from typing import Any

from apiserver.auth.controllerpolicy import CONTROLLERS
from apiserver.auth.rules import Rule
from apiserver.auth.wording import EVENTS, FULL, RBAC_GROUP, READ, WRITE, rule, url

Object = dict[str, Any]

VERSION = f"{RBAC_GROUP}/v1"
BOOTSTRAP_LABEL = {"kubernetes.io/bootstrapping": "rbac-defaults"}
AUTOUPDATE = {"rbac.authorization.kubernetes.io/autoupdate": "true"}
AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"

APPS = (
    "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status "
    "replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale "
    "statefulsets/status"
)
APPS_WRITE = (
    "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale "
    "statefulsets statefulsets/scale"
)
CORE_VIEW = (
    "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods "
    "replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status"
)
CORE_STATUS = (
    "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status "
    "resourcequotas resourcequotas/status"
)

DISCOVERY = (
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
)


def node_rules() -> list[Rule]:
    """What every node may do as far as no single object is concerned."""
    return [
        rule("create", "authentication.k8s.io", "tokenreviews"),
        rule("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
        rule(READ, "", "services"),
        rule("create get list watch", "", "nodes"),
        rule("patch update", "", "nodes nodes/status"),
        EVENTS,
        rule(READ, "", "pods"),
        rule("create delete", "", "pods"),
        rule("patch update", "", "pods/status"),
        rule("create", "", "pods/eviction"),
        rule(READ, "", "configmaps secrets"),
        rule("get", "", "persistentvolumeclaims persistentvolumes"),
        rule("get patch update", "", "persistentvolumeclaims/status"),
        rule("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
        rule("create delete get patch update", "coordination.k8s.io", "leases"),
        rule("get", "storage.k8s.io", "volumeattachments"),
        rule("create", "", "serviceaccounts/token"),
        rule("create delete get patch update", "storage.k8s.io", "csinodes"),
        rule(READ, "storage.k8s.io", "csidrivers"),
        rule(READ, "node.k8s.io", "runtimeclasses"),
        url("get", *DISCOVERY),
    ]


CLUSTER_ROLES: dict[str, list[Rule]] = {
    "cluster-admin": [rule("*", "*", "*"), url("*", "*")],
    "system:discovery": [url("get", *DISCOVERY)],
    "system:monitoring": [
        url(
            "get",
            "/healthz",
            "/healthz/*",
            "/livez",
            "/livez/*",
            "/metrics",
            "/metrics/slis",
            "/readyz",
            "/readyz/*",
        )
    ],
    "system:basic-user": [
        rule("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
        rule("create", "authentication.k8s.io", "selfsubjectreviews"),
    ],
    "system:public-info-viewer": [
        url(
            "get",
            "/healthz",
            "/healthz/*",
            "/livez",
            "/livez/*",
            "/readyz",
            "/readyz/*",
            "/version",
            "/version/",
        )
    ],
    "system:service-account-issuer-discovery": [
        url(
            "get",
            "/.well-known/openid-configuration",
            "/.well-known/openid-configuration/",
            "/openid/v1/jwks",
            "/openid/v1/jwks/",
        )
    ],
    "system:heapster": [rule(READ, "", "events namespaces nodes pods"), rule(READ, "apps", "deployments")],
    "system:node": node_rules(),
    "system:node-problem-detector": [rule("get", "", "nodes"), rule("patch", "", "nodes/status"), EVENTS],
    "system:node-proxier": [
        rule("list watch", "", "endpoints services"),
        rule(READ, "", "nodes"),
        EVENTS,
        rule("list watch", "discovery.k8s.io", "endpointslices"),
        rule("list watch", "networking.k8s.io", "servicecidrs"),
    ],
    "system:node-bootstrapper": [
        rule("create get list watch", "certificates.k8s.io", "certificatesigningrequests")
    ],
    **{
        f"system:certificates.k8s.io:certificatesigningrequests:{whose}": [
            rule("create", "certificates.k8s.io", f"certificatesigningrequests/{whose}")
        ]
        for whose in ("nodeclient", "selfnodeclient")
    },
    **{
        f"system:certificates.k8s.io:{signer}-approver": [
            rule("approve", "certificates.k8s.io", "signers", f"kubernetes.io/{signer}")
        ]
        for signer in (
            "kube-apiserver-client",
            "kube-apiserver-client-kubelet",
            "kubelet-serving",
            "legacy-unknown",
        )
    },
    "system:auth-delegator": [
        rule("create", "authentication.k8s.io", "tokenreviews"),
        rule("create", "authorization.k8s.io", "subjectaccessreviews"),
    ],
    "system:kube-aggregator": [rule(READ, "", "endpoints services")],
    "system:kubelet-api-admin": [
        rule(READ, "", "nodes"),
        rule("proxy", "", "nodes"),
        rule(
            "*",
            "",
            "nodes/checkpoint nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods "
            "nodes/proxy nodes/spec nodes/stats",
        ),
    ],
    "system:persistent-volume-provisioner": [
        rule("create delete get list watch", "", "persistentvolumes"),
        rule("get list update watch", "", "persistentvolumeclaims"),
        rule(READ, "storage.k8s.io", "storageclasses"),
        rule("watch", "", "events"),
        EVENTS,
    ],
    "system:kube-dns": [
        rule("list watch", "", "endpoints services"),
        rule("list watch", "discovery.k8s.io", "endpointslices"),
    ],
    "system:kube-controller-manager": [
        EVENTS,
        rule("create", "coordination.k8s.io", "leases"),
        rule("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
        rule("create", "", "secrets serviceaccounts"),
        rule("delete", "", "secrets"),
        rule("get", "", "configmaps namespaces secrets serviceaccounts"),
        rule("update", "", "secrets serviceaccounts"),
        rule("create", "authentication.k8s.io", "tokenreviews"),
        rule("create", "authorization.k8s.io", "subjectaccessreviews"),
        rule("list watch", "*", "*"),
        rule("create", "", "serviceaccounts/token"),
    ],
    "system:kube-scheduler": [
        EVENTS,
        rule("create", "coordination.k8s.io", "leases"),
        rule("get list update watch", "coordination.k8s.io", "leases", "kube-scheduler"),
        rule("create", "coordination.k8s.io", "leasecandidates"),
        rule(READ, "", "namespaces nodes"),
        rule("delete get list watch", "", "pods"),
        rule("create", "", "bindings pods/binding"),
        rule("patch update", "", "pods/status"),
        rule(READ, "", "replicationcontrollers services"),
        rule(READ, "apps", "replicasets statefulsets"),
        rule(READ, "policy", "poddisruptionbudgets"),
        rule("get list patch update watch", "", "persistentvolumeclaims persistentvolumes"),
        rule("create", "authentication.k8s.io", "tokenreviews"),
        rule("create", "authorization.k8s.io", "subjectaccessreviews"),
        rule(
            READ,
            "storage.k8s.io",
            "csidrivers csinodes csistoragecapacities storageclasses volumeattachments",
        ),
        rule(READ, "resource.k8s.io", "deviceclasses resourceclaims resourceslices"),
    ],
    "system:volume-scheduler": [
        rule("get list patch update watch", "", "persistentvolumeclaims persistentvolumes"),
        rule(READ, "storage.k8s.io", "storageclasses"),
    ],
    "system:aggregate-to-view": [
        rule(READ, "", CORE_VIEW),
        rule(READ, "", CORE_STATUS),
        rule(READ, "", "namespaces"),
        rule(READ, "discovery.k8s.io", "endpointslices"),
        rule(READ, "apps", APPS),
        rule(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
        rule(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
        rule(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
        rule(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
    ],
    "system:aggregate-to-edit": [
        rule(READ, "", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
        rule("impersonate", "", "serviceaccounts"),
        rule(WRITE, "", "pods pods/attach pods/exec pods/portforward pods/proxy"),
        rule("create", "", "pods/eviction"),
        rule(
            WRITE,
            "",
            "configmaps events persistentvolumeclaims replicationcontrollers "
            "replicationcontrollers/scale secrets serviceaccounts services services/proxy",
        ),
        rule("create", "", "serviceaccounts/token"),
        rule(WRITE, "apps", APPS_WRITE),
        rule(WRITE, "autoscaling", "horizontalpodautoscalers"),
        rule(WRITE, "batch", "cronjobs jobs"),
        rule(WRITE, "policy", "poddisruptionbudgets"),
        rule(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
        rule(FULL, "coordination.k8s.io", "leases"),
    ],
    "system:aggregate-to-admin": [
        rule("create", "authorization.k8s.io", "localsubjectaccessreviews"),
        rule(FULL, RBAC_GROUP, "rolebindings roles"),
    ],
}

# Composed roles: the labels whose roles they take their rules from.
AGGREGATED = {"admin": ("admin", "edit", "view"), "edit": ("edit", "view"), "view": ("view",)}

PART_OF = {"edit": "admin", "view": "edit"}

BINDINGS: dict[str, list[tuple[str, str]]] = {
    "cluster-admin": [("Group", "system:masters")],
    "system:monitoring": [("Group", "system:monitoring")],
    "system:discovery": [("Group", "system:authenticated")],
    "system:basic-user": [("Group", "system:authenticated")],
    "system:public-info-viewer": [("Group", "system:authenticated"), ("Group", "system:unauthenticated")],
    "system:service-account-issuer-discovery": [("Group", "system:serviceaccounts")],
    "system:node-proxier": [("User", "system:kube-proxy"), ("Group", "system:node-proxier")],
    "system:kube-controller-manager": [("User", "system:kube-controller-manager")],
    "system:kube-scheduler": [("User", "system:kube-scheduler")],
    "system:volume-scheduler": [("User", "system:kube-scheduler")],
    "system:node": [],
    # Not in Kubernetes' own policy: there, who sets up the cluster binds the apiserver's certificate.
    "system:kubelet-api-admin": [("User", "kube-apiserver-kubelet-client")],
}

CONFIG_READER = "extension-apiserver-authentication-reader"
ROLES: dict[tuple[str, str], list[Rule]] = {
    ("kube-system", CONFIG_READER): [rule(READ, "", "configmaps", "extension-apiserver-authentication")],
    ("kube-system", "system:controller:token-cleaner"): [
        rule("delete get list watch", "", "secrets"),
        EVENTS,
    ],
    ("kube-system", "system:controller:bootstrap-signer"): [rule(READ, "", "secrets")],
    ("kube-system", "system::leader-locking-kube-controller-manager"): [
        rule("watch", "", "configmaps"),
        rule("get update", "", "configmaps", "kube-controller-manager"),
    ],
    ("kube-system", "system::leader-locking-kube-scheduler"): [
        rule("watch", "", "configmaps"),
        rule("get update", "", "configmaps", "kube-scheduler"),
    ],
    ("kube-public", "system:controller:bootstrap-signer"): [
        rule(READ, "", "configmaps"),
        rule("update", "", "configmaps", "cluster-info"),
        EVENTS,
    ],
}
ROLE_BINDINGS: dict[tuple[str, str], list[tuple[str, str]]] = {
    ("kube-system", CONFIG_READER): [
        ("User", "system:kube-controller-manager"),
        ("User", "system:kube-scheduler"),
    ],
    ("kube-system", "system:controller:token-cleaner"): [("ServiceAccount", "token-cleaner")],
    ("kube-system", "system:controller:bootstrap-signer"): [("ServiceAccount", "bootstrap-signer")],
    ("kube-system", "system::leader-locking-kube-controller-manager"): [
        ("User", "system:kube-controller-manager"),
        ("ServiceAccount", "kube-controller-manager"),
    ],
    ("kube-system", "system::leader-locking-kube-scheduler"): [
        ("User", "system:kube-scheduler"),
        ("ServiceAccount", "kube-scheduler"),
    ],
    ("kube-public", "system:controller:bootstrap-signer"): [("ServiceAccount", "bootstrap-signer")],
}


def _object(
    kind: str, name: str, body: Object, namespace: str = "", labels: dict[str, str] | None = None
) -> Object:
    fields: Object = {
        "name": name,
        "labels": {**BOOTSTRAP_LABEL, **(labels or {})},
        "annotations": dict(AUTOUPDATE),
    }
    if namespace:
        fields["namespace"] = namespace
    return {"kind": kind, "apiVersion": VERSION, "metadata": fields, **body}


def _subjects(subjects: list[tuple[str, str]], namespace: str) -> list[Object]:
    out: list[Object] = []
    for kind, name in subjects:
        if kind == "ServiceAccount":
            out.append({"kind": kind, "name": name, "namespace": namespace})
        else:
            out.append({"kind": kind, "apiGroup": RBAC_GROUP, "name": name})
    return out


def cluster_roles() -> list[Object]:
    out = []
    for name, rules in CLUSTER_ROLES.items():
        prefix = "system:aggregate-to-"
        labels = {AGGREGATE + name[len(prefix) :]: "true"} if name.startswith(prefix) else None
        out.append(_object("ClusterRole", name, {"rules": [each.as_dict() for each in rules]}, labels=labels))
    for name, parts in AGGREGATED.items():
        combined = [each.as_dict() for part in parts for each in CLUSTER_ROLES[f"system:aggregate-to-{part}"]]
        selectors = [{"matchLabels": {f"{AGGREGATE}{name}": "true"}}]
        labels = {AGGREGATE + PART_OF[name]: "true"} if name in PART_OF else None
        body = {"aggregationRule": {"clusterRoleSelectors": selectors}, "rules": combined}
        out.append(_object("ClusterRole", name, body, labels=labels))
    for name, rules in CONTROLLERS.items():
        out.append(
            _object("ClusterRole", f"system:controller:{name}", {"rules": [each.as_dict() for each in rules]})
        )
    return out


def cluster_role_bindings() -> list[Object]:
    out = []
    for name, subjects in BINDINGS.items():
        out.append(_binding("ClusterRoleBinding", name, "ClusterRole", _subjects(subjects, "")))
    for name in CONTROLLERS:
        subject = [("ServiceAccount", name)]
        out.append(
            _binding(
                "ClusterRoleBinding",
                f"system:controller:{name}",
                "ClusterRole",
                _subjects(subject, "kube-system"),
            )
        )
    return out


def roles() -> list[Object]:
    return [
        _object("Role", name, {"rules": [each.as_dict() for each in rules]}, namespace)
        for (namespace, name), rules in ROLES.items()
    ]


def role_bindings() -> list[Object]:
    return [
        _binding("RoleBinding", name, "Role", _subjects(subjects, "kube-system"), namespace)
        for (namespace, name), subjects in ROLE_BINDINGS.items()
    ]


def _binding(kind: str, name: str, role_kind: str, subjects: list[Object], namespace: str = "") -> Object:
    body: Object = {"roleRef": {"apiGroup": RBAC_GROUP, "kind": role_kind, "name": name}}
    if subjects:
        body["subjects"] = subjects
    return _object(kind, name, body, namespace)
