"""Static pods: what a manifest file becomes, and the mirror by which the API shows it. Pure.

A static pod's uid is made from its file, so a changed file is another pod and a restarted kubelet finds its
pods again. The mirror carries that uid as an annotation; its own uid is the apiserver's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import yaml

from kubelet.pods.spec import known_containers

CONFIG_HASH = "kubernetes.io/config.hash"
CONFIG_SOURCE = "kubernetes.io/config.source"
CONFIG_MIRROR = "kubernetes.io/config.mirror"
ANYWHERE = {"effect": "NoExecute", "operator": "Exists"}
API_VOLUMES = ("secret", "configMap", "projected", "persistentVolumeClaim", "ephemeral")

Pod = dict[str, Any]


class ManifestError(Exception):
    """A file is no static pod; the message says why."""


def static_pod(content: bytes, path: str, node: str) -> Pod:
    """The pod of a manifest (YAML or JSON), bound to this node. Raises `ManifestError`."""
    try:
        document = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ManifestError(f"not YAML: {error}") from error
    if not isinstance(document, dict) or (document.get("apiVersion"), document.get("kind")) != ("v1", "Pod"):
        raise ManifestError("expected a Pod of v1")
    metadata, spec = dict(document.get("metadata") or {}), dict(document.get("spec") or {})
    if not metadata.get("name"):
        raise ManifestError("metadata.name is required")
    if not spec.get("containers") or not all(c.get("name") for c in known_containers(spec)):
        raise ManifestError("spec.containers is required, and a name for each")
    _refuse_api_objects(spec)
    digest = hashlib.md5(content + path.encode() + node.encode(), usedforsecurity=False).hexdigest()
    annotations = {**(metadata.get("annotations") or {}), CONFIG_HASH: digest, CONFIG_SOURCE: "file"}
    metadata |= {
        "name": f"{metadata['name']}-{node}",
        "namespace": metadata.get("namespace") or "default",
        "uid": digest,
        "annotations": annotations,
    }
    spec |= {"nodeName": node, "tolerations": [*spec.get("tolerations", []), ANYWHERE]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {}}


def _refuse_api_objects(spec: Mapping[str, Any]) -> None:
    """A static pod runs without an apiserver, so it may not refer to what only that has."""
    if spec.get("serviceAccountName") or spec.get("imagePullSecrets"):
        raise ManifestError("static pods may not refer to service accounts or secrets")
    for volume in spec.get("volumes", []):
        kind = next((kind for kind in API_VOLUMES if kind in volume), None)
        if kind is not None:
            raise ManifestError(f"static pods may not refer to a {kind} (volume {volume.get('name')})")
    for container in known_containers(spec):
        sources = [variable.get("valueFrom") or {} for variable in container.get("env", [])]
        if container.get("envFrom") or any("KeyRef" in kind for source in sources for kind in source):
            raise ManifestError(f"static pods may not refer to configMaps (container {container['name']})")


def mirror_of(pod: Mapping[str, Any], node: Mapping[str, Any]) -> Pod:
    """What is created in the API for a static pod."""
    metadata = {name: value for name, value in pod["metadata"].items() if name != "uid"}
    metadata["annotations"] = {**metadata["annotations"], CONFIG_MIRROR: pod["metadata"]["uid"]}
    named = node["metadata"]
    owner = {"apiVersion": "v1", "kind": "Node", "name": named["name"], "uid": named["uid"]}
    metadata["ownerReferences"] = [{**owner, "controller": True}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}


def is_mirror(pod: Mapping[str, Any]) -> bool:
    return CONFIG_MIRROR in (pod["metadata"].get("annotations") or {})


def is_static(pod: Mapping[str, Any]) -> bool:
    source = (pod["metadata"].get("annotations") or {}).get(CONFIG_SOURCE, "api")
    return source != "api" and not is_mirror(pod)


def mirrors(mirror: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Whether this is the living mirror of that static pod."""
    metadata = mirror["metadata"]
    return metadata["annotations"][CONFIG_MIRROR] == pod["metadata"]["uid"] and not metadata.get(
        "deletionTimestamp"
    )
