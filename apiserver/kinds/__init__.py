"""The kinds this server serves: one entry each."""

from __future__ import annotations

from apimachinery.scheme import Kind, Scheme

_R = "rbac.authorization.k8s.io"
_ROWS = [
    ("", "v1", "Namespace", "namespaces", False, "namespaces", ("finalize", "status")),
    ("", "v1", "Node", "nodes", False, "minions", ("status", "proxy")),
    ("", "v1", "Pod", "pods", True, "pods", ("status", "binding", "eviction", "log", "exec", "attach", "portforward", "ephemeralcontainers", "resize", "proxy")),
    ("", "v1", "Service", "services", True, "services/specs", ("status", "proxy")),
    ("", "v1", "Endpoints", "endpoints", True, "services/endpoints", ()),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", True, "endpointslices", ()),
    ("", "v1", "ConfigMap", "configmaps", True, "configmaps", ()),
    ("", "v1", "Secret", "secrets", True, "secrets", ()),
    ("", "v1", "ServiceAccount", "serviceaccounts", True, "serviceaccounts", ("token",)),
    ("", "v1", "Event", "events", True, "events", ()),
    ("events.k8s.io", "v1", "Event", "events", True, "events", ()),
    ("coordination.k8s.io", "v1", "Lease", "leases", True, "leases", ()),
    ("apps", "v1", "ReplicaSet", "replicasets", True, "replicasets", ("status", "scale")),
    ("apps", "v1", "Deployment", "deployments", True, "deployments", ("status", "scale")),
    ("apps", "v1", "DaemonSet", "daemonsets", True, "daemonsets", ("status",)),
    (_R, "v1", "ClusterRole", "clusterroles", False, "clusterroles", ()),
    (_R, "v1", "ClusterRoleBinding", "clusterrolebindings", False, "clusterrolebindings", ()),
    (_R, "v1", "Role", "roles", True, "roles", ()),
    (_R, "v1", "RoleBinding", "rolebindings", True, "rolebindings", ()),
]
SCHEME = Scheme(Kind(g, v, k, r, n, p, singular=k.lower(), subresources=s) for g, v, k, r, n, p, s in _ROWS)
