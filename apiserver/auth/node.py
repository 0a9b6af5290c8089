"""The Node authorizer: a kubelet may read only what its own pods use, and write only what is its own.

Rules of plugin/pkg/auth/authorizer/node. The graph "node <- pod -> secret, configmap, ..." is kept as two
maps that follow the pods in the watch cache; it is brought up to date when a node asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apimachinery import selectors
from apimachinery.errors import StatusError
from apimachinery.scheme import Scheme
from apiserver.auth.authorize import Attributes, Decision
from apiserver.auth.policy import node_rules
from apiserver.auth.rbac import RBAC
from apiserver.storage.cacher import Cacher
from apiserver.storage.watchcache import Entry

Object = dict[str, Any]
Ref = tuple[str, str, str]  # resource, namespace, name

READ = ("get", "list", "watch")
GUARDED = {
    ("", "secrets"),
    ("", "configmaps"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("resource.k8s.io", "resourceclaims"),
}


def references(pod: Object) -> Iterator[Ref]:
    """What a pod's spec names in its namespace: service account, secrets, config maps, claims."""
    namespace, spec = pod["metadata"]["namespace"], pod.get("spec") or {}
    yield "serviceaccounts", namespace, spec.get("serviceAccountName") or "default"
    for secret in spec.get("imagePullSecrets") or []:
        yield "secrets", namespace, secret.get("name", "")
    for volume in spec.get("volumes") or []:
        yield from ((resource, namespace, name) for resource, name in _volume(pod, volume))
    for key in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(key) or []:
            yield from ((resource, namespace, name) for resource, name in _environment(container))


def _volume(pod: Object, volume: Object) -> Iterator[tuple[str, str]]:
    if "secret" in volume:
        yield "secrets", volume["secret"].get("secretName", "")
    if "configMap" in volume:
        yield "configmaps", volume["configMap"].get("name", "")
    if "persistentVolumeClaim" in volume:
        yield "persistentvolumeclaims", volume["persistentVolumeClaim"].get("claimName", "")
    if "ephemeral" in volume:
        yield "persistentvolumeclaims", f"{pod['metadata']['name']}-{volume['name']}"
    for source in (volume.get("projected") or {}).get("sources") or []:
        if "secret" in source:
            yield "secrets", source["secret"].get("name", "")
        if "configMap" in source:
            yield "configmaps", source["configMap"].get("name", "")
    for driver in ("csi", "cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"):
        ref = (volume.get(driver) or {}).get("secretRef") or (volume.get(driver) or {}).get(
            "nodePublishSecretRef"
        )
        if ref:
            yield "secrets", ref.get("name", "")


def _environment(container: Object) -> Iterator[tuple[str, str]]:
    for source in container.get("envFrom") or []:
        for key, resource in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
            if source.get(key):
                yield resource, source[key].get("name", "")
    for variable in container.get("env") or []:
        source = variable.get("valueFrom") or {}
        for key, resource in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
            if source.get(key):
                yield resource, source[key].get("name", "")


def selects(selector: str, path: str, value: str) -> bool:
    """Whether a field selector takes in nothing but objects with this value."""
    if not selector:
        return False
    try:
        return selectors.parse_field_selector(selector).exact(path) == value
    except StatusError:
        return False


class Graph:
    """Which nodes run a pod that refers to an object."""

    def __init__(self) -> None:
        self._pods: dict[str, tuple[str, frozenset[Ref]]] = {}
        self._users: dict[Ref, dict[str, int]] = {}

    def put(self, entry: Entry) -> None:
        """A pod is there; one that is bound to no node counts for nothing."""
        pod = entry.decoded()
        node = (pod.get("spec") or {}).get("nodeName", "")
        mirror = "kubernetes.io/config.mirror" in (pod["metadata"].get("annotations") or {})
        itself: Ref = ("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        refs = frozenset([itself, *(() if mirror else references(pod))]) if node else frozenset()
        if self._pods.get(entry.key) == (node, refs):
            return
        self.drop(entry.key)
        self._pods[entry.key] = (node, refs)
        for ref in refs:
            users = self._users.setdefault(ref, {})
            users[node] = users.get(node, 0) + 1

    def drop(self, key: str) -> None:
        node, refs = self._pods.pop(key, ("", frozenset()))
        for ref in refs:
            users = self._users[ref]
            users[node] -= 1
            if not users[node]:
                del users[node]
            if not users:
                del self._users[ref]

    def uses(self, node: str, ref: Ref) -> bool:
        return node in self._users.get(ref, ())


class NodeAuthorizer:
    def __init__(self, cacher: Cacher, scheme: Scheme, rbac: RBAC) -> None:
        pods = scheme.resource("", "v1", "pods")
        assert pods is not None
        volumes = scheme.resource("", "v1", "persistentvolumes")
        assert volumes is not None
        self._pods = cacher.of(pods)
        self._volumes = cacher.of(volumes)
        self._graph = Graph()
        self._position, self._generation = 0, -1
        self._rules = node_rules()

    def authorize(self, wanted: Attributes) -> tuple[Decision, str]:
        node = wanted.user.node_name
        if not node:
            return Decision.NO_OPINION, ""
        if wanted.is_resource and (wanted.group, wanted.resource) in GUARDED:
            return self._related(node, wanted)
        if wanted.resource == "serviceaccounts":
            return self._token(node, wanted)
        if wanted.resource == "nodes" and wanted.group == "":
            return self._own(node, wanted)
        if (
            wanted.resource == "pods"
            and wanted.group == ""
            and wanted.verb in READ
            and not wanted.subresource
        ):
            return self._pod(node, wanted)
        if wanted.resource in ("leases", "csinodes"):
            return self._own_lease(node, wanted)
        if any(rule.allows(wanted) for rule in self._rules):
            return Decision.ALLOW, ""
        return Decision.NO_OPINION, ""

    def _related(self, node: str, wanted: Attributes) -> tuple[Decision, str]:
        if wanted.verb not in READ or wanted.subresource:
            return Decision.NO_OPINION, f"node '{node}' may only read {wanted.resource}"
        if not wanted.name:
            return Decision.NO_OPINION, "No Object name found"
        ref = (wanted.resource, wanted.namespace, wanted.name)
        if wanted.resource == "persistentvolumes":
            ref = self._claim_of(wanted.name)
        if self._current().uses(node, ref):
            return Decision.ALLOW, ""
        return Decision.NO_OPINION, f"no relationship found between node '{node}' and this object"

    def _pod(self, node: str, wanted: Attributes) -> tuple[Decision, str]:
        """Pods that are bound to the node: one by one, or all by the field selector that says so
        (KEP-4601).
        """
        if wanted.verb != "get" and selects(wanted.field_selector, "spec.nodeName", node):
            return Decision.ALLOW, ""
        if wanted.name:
            if self._current().uses(node, ("pods", wanted.namespace, wanted.name)):
                return Decision.ALLOW, ""
            return Decision.NO_OPINION, f"no relationship found between node '{node}' and this object"
        return Decision.NO_OPINION, "can only list/watch pods with spec.nodeName field selector"

    def _claim_of(self, volume: str) -> Ref:
        """A node reaches a volume by way of the claim that it is bound to."""
        entry = self._volumes.get(volume)
        claim = (entry.decoded().get("spec") or {}).get("claimRef") or {} if entry else {}
        return "persistentvolumeclaims", claim.get("namespace", ""), claim.get("name", "")

    def _token(self, node: str, wanted: Attributes) -> tuple[Decision, str]:
        if wanted.verb == "create" and wanted.subresource == "token":
            if self._current().uses(node, ("serviceaccounts", wanted.namespace, wanted.name)):
                return Decision.ALLOW, ""
            return Decision.NO_OPINION, f"no relationship found between node '{node}' and this object"
        ref = ("serviceaccounts", wanted.namespace, wanted.name)
        if wanted.verb == "get" and not wanted.subresource and self._current().uses(node, ref):
            return Decision.ALLOW, ""
        return Decision.NO_OPINION, "can only create tokens for individual service accounts"

    def _own(self, node: str, wanted: Attributes) -> tuple[Decision, str]:
        if wanted.verb == "create" and not wanted.subresource:
            return Decision.ALLOW, ""
        if wanted.verb in (*READ, "update", "patch") and wanted.subresource in ("", "status"):
            if wanted.name and wanted.name != node:
                return (
                    Decision.NO_OPINION,
                    f"node '{node}' cannot read '{wanted.name}', only its own Node object",
                )
            if not wanted.name:
                return (
                    Decision.NO_OPINION,
                    f"node '{node}' cannot {wanted.verb} all nodes, only its own Node object",
                )
            return Decision.ALLOW, ""
        return Decision.NO_OPINION, ""

    def _own_lease(self, node: str, wanted: Attributes) -> tuple[Decision, str]:
        if wanted.resource == "leases" and wanted.namespace != "kube-node-lease":
            return Decision.NO_OPINION, 'can only access leases in the "kube-node-lease" system namespace'
        if wanted.verb not in ("get", "create", "update", "patch", "delete") or wanted.subresource:
            return Decision.NO_OPINION, "can only get, create, update, patch, or delete a node lease"
        if wanted.verb != "create" and wanted.name != node:
            return (
                Decision.NO_OPINION,
                "can only access node lease with the same name as the requesting node",
            )
        return Decision.ALLOW, ""

    def _current(self) -> Graph:
        """The graph, with what has happened to pods since the last question."""
        cache = self._pods
        events = cache.since(self._position) if cache.generation == self._generation else None
        if events is None:
            self._graph = Graph()
            for entry in cache.scan():
                self._graph.put(entry)
        else:
            for event in events:
                if event.entry is not None:
                    self._graph.put(event.entry)
                elif event.previous is not None:
                    self._graph.drop(event.previous.key)
        self._position, self._generation = cache.end, cache.generation
        return self._graph
