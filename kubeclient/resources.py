"""The built-in resources by name, as the paths of the API know them."""

from __future__ import annotations

from typing import Any, NamedTuple


class GVR(NamedTuple):
    """Group, version and plural resource, with what a client must know beside: its scope and kind."""

    group: str
    version: str
    resource: str
    namespaced: bool
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """`deployments.apps`, `pods`: the name used in messages."""
        return f"{self.resource}.{self.group}" if self.group else self.resource

    def path(
        self, namespace: str | None = None, name: str | None = None, subresource: str | None = None
    ) -> str:
        """The URL path; segments are quoted. Raises ValueError when name and scope do not fit together."""
        if name is not None and self.namespaced and not namespace:
            raise ValueError(f"{self.qualified} {name!r} needs a namespace")
        if name == "" or (name is None and subresource):
            raise ValueError(f"{self.qualified} needs a name")
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{_segment(namespace)}" if self.namespaced and namespace else ""
        tail = f"/{_segment(name)}" if name is not None else ""
        return root + scope + f"/{self.resource}" + tail + (f"/{subresource}" if subresource else "")


def _segment(text: str) -> str:
    """A path segment; names of the API rarely hold anything that needs quoting."""
    if text in (".", "..") or "/" in text:
        raise ValueError(f"{text!r} cannot be a path segment")
    if text.isascii() and not _NEEDS_QUOTING.intersection(text):
        return text
    from urllib.parse import quote

    return quote(text, safe=":")


_NEEDS_QUOTING = frozenset(" %?#[]@!$&'()*+,;=\"<>\\^`{|}\n\r\t")


def _core(resource: str, kind: str, *, namespaced: bool = True) -> GVR:
    return GVR("", "v1", resource, namespaced, kind)


def _of(group: str, resource: str, kind: str, *, namespaced: bool = True, version: str = "v1") -> GVR:
    return GVR(group, version, resource, namespaced, kind)


BINDINGS = _core("bindings", "Binding")
CONFIGMAPS = _core("configmaps", "ConfigMap")
ENDPOINTS = _core("endpoints", "Endpoints")
EVENTS = _core("events", "Event")
LIMITRANGES = _core("limitranges", "LimitRange")
NAMESPACES = _core("namespaces", "Namespace", namespaced=False)
NODES = _core("nodes", "Node", namespaced=False)
PERSISTENTVOLUMECLAIMS = _core("persistentvolumeclaims", "PersistentVolumeClaim")
PERSISTENTVOLUMES = _core("persistentvolumes", "PersistentVolume", namespaced=False)
PODS = _core("pods", "Pod")
PODTEMPLATES = _core("podtemplates", "PodTemplate")
REPLICATIONCONTROLLERS = _core("replicationcontrollers", "ReplicationController")
RESOURCEQUOTAS = _core("resourcequotas", "ResourceQuota")
SECRETS = _core("secrets", "Secret")
SERVICEACCOUNTS = _core("serviceaccounts", "ServiceAccount")
SERVICES = _core("services", "Service")

CONTROLLERREVISIONS = _of("apps", "controllerrevisions", "ControllerRevision")
DAEMONSETS = _of("apps", "daemonsets", "DaemonSet")
DEPLOYMENTS = _of("apps", "deployments", "Deployment")
REPLICASETS = _of("apps", "replicasets", "ReplicaSet")
STATEFULSETS = _of("apps", "statefulsets", "StatefulSet")

HORIZONTALPODAUTOSCALERS = _of(
    "autoscaling", "horizontalpodautoscalers", "HorizontalPodAutoscaler", version="v2"
)
CRONJOBS = _of("batch", "cronjobs", "CronJob")
JOBS = _of("batch", "jobs", "Job")

CERTIFICATESIGNINGREQUESTS = _of(
    "certificates.k8s.io", "certificatesigningrequests", "CertificateSigningRequest", namespaced=False
)
LEASES = _of("coordination.k8s.io", "leases", "Lease")
ENDPOINTSLICES = _of("discovery.k8s.io", "endpointslices", "EndpointSlice")
INGRESSCLASSES = _of("networking.k8s.io", "ingressclasses", "IngressClass", namespaced=False)
INGRESSES = _of("networking.k8s.io", "ingresses", "Ingress")
IPADDRESSES = _of("networking.k8s.io", "ipaddresses", "IPAddress", namespaced=False)
NETWORKPOLICIES = _of("networking.k8s.io", "networkpolicies", "NetworkPolicy")
SERVICECIDRS = _of("networking.k8s.io", "servicecidrs", "ServiceCIDR", namespaced=False)
RUNTIMECLASSES = _of("node.k8s.io", "runtimeclasses", "RuntimeClass", namespaced=False)
PODDISRUPTIONBUDGETS = _of("policy", "poddisruptionbudgets", "PodDisruptionBudget")
PRIORITYCLASSES = _of("scheduling.k8s.io", "priorityclasses", "PriorityClass", namespaced=False)
CSIDRIVERS = _of("storage.k8s.io", "csidrivers", "CSIDriver", namespaced=False)
CSINODES = _of("storage.k8s.io", "csinodes", "CSINode", namespaced=False)
RESOURCECLAIMS = _of("resource.k8s.io", "resourceclaims", "ResourceClaim")
RESOURCECLAIMTEMPLATES = _of("resource.k8s.io", "resourceclaimtemplates", "ResourceClaimTemplate")
STORAGECLASSES = _of("storage.k8s.io", "storageclasses", "StorageClass", namespaced=False)
VOLUMEATTACHMENTS = _of("storage.k8s.io", "volumeattachments", "VolumeAttachment", namespaced=False)
VOLUMEATTRIBUTESCLASSES = _of(
    "storage.k8s.io", "volumeattributesclasses", "VolumeAttributesClass", namespaced=False
)

CLUSTERROLEBINDINGS = _of(
    "rbac.authorization.k8s.io", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)
CLUSTERROLES = _of("rbac.authorization.k8s.io", "clusterroles", "ClusterRole", namespaced=False)
ROLEBINDINGS = _of("rbac.authorization.k8s.io", "rolebindings", "RoleBinding")
ROLES = _of("rbac.authorization.k8s.io", "roles", "Role")

TOKENREVIEWS = _of("authentication.k8s.io", "tokenreviews", "TokenReview", namespaced=False)
SUBJECTACCESSREVIEWS = _of(
    "authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
)
MUTATINGWEBHOOKCONFIGURATIONS = _of(
    "admissionregistration.k8s.io",
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    namespaced=False,
)
VALIDATINGWEBHOOKCONFIGURATIONS = _of(
    "admissionregistration.k8s.io",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    namespaced=False,
)
CUSTOMRESOURCEDEFINITIONS = _of(
    "apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
APISERVICES = _of("apiregistration.k8s.io", "apiservices", "APIService", namespaced=False)


def key(obj: dict[str, Any]) -> str:
    """`namespace/name`, or `name` for an object without a namespace."""
    metadata = obj["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


def split_key(text: str) -> tuple[str, str]:
    """Namespace (may be "") and name of a key."""
    namespace, _, name = text.rpartition("/")
    return namespace, name
