"""ServiceAccount: every pod runs as one, and finds its token, the cluster's CA and its namespace in a
projected volume.
"""

from __future__ import annotations

import random
from typing import Any

from apimachinery import meta
from apiserver.admission.base import Plugin, forbid, is_create
from apiserver.registry.call import Call

Object = dict[str, Any]

MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
MIRROR = "kubernetes.io/config.mirror"
TOKEN_SECONDS = 3607
VOLUME_PREFIX = "kube-api-access-"


class ServiceAccount(Plugin):
    def handles(self, call: Call) -> bool:
        return call.is_for("", "pods") and is_create(call)

    async def mutate(self, call: Call) -> None:
        pod = call.obj
        assert pod is not None
        spec = pod.setdefault("spec", {})
        if MIRROR in (pod["metadata"].get("annotations") or {}):
            _check_mirror(call, spec)
            return
        name = spec.get("serviceAccountName") or "default"
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        account = await self.context.current("", "serviceaccounts", call.namespace, name)
        if account is None:
            why = (
                f'error looking up service account {call.namespace}/{name}: serviceaccount "{name}" not found'
            )
            raise forbid(call, why)
        if _wants_token(spec, account):
            _mount_token(spec)
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = account["imagePullSecrets"]


def _check_mirror(call: Call, spec: Object) -> None:
    if spec.get("serviceAccountName"):
        raise forbid(call, "a mirror pod may not reference service accounts")
    if any("secret" in volume or "projected" in volume for volume in spec.get("volumes") or []):
        raise forbid(call, "a mirror pod may not reference secrets")


def _wants_token(spec: Object, account: Object) -> bool:
    for given in (spec.get("automountServiceAccountToken"), account.get("automountServiceAccountToken")):
        if given is not None:
            return bool(given)
    return True


def _mount_token(spec: Object) -> None:
    containers = [item for key in ("initContainers", "containers") for item in spec.get(key) or []]
    bare = [
        item
        for item in containers
        if not any(mount.get("mountPath") == MOUNT for mount in item.get("volumeMounts") or [])
    ]
    if not bare:
        return
    volumes = spec.setdefault("volumes", [])
    existing = next(
        (volume["name"] for volume in volumes if volume.get("name", "").startswith(VOLUME_PREFIX)), ""
    )
    name = existing or meta.generate_name(VOLUME_PREFIX, random.Random())
    if not existing:
        volumes.append({"name": name, "projected": projected_token()})
    for container in bare:
        container.setdefault("volumeMounts", []).append({"name": name, "readOnly": True, "mountPath": MOUNT})


def projected_token() -> Object:
    """The volume source of every pod's API access."""
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return {
        "defaultMode": 0o644,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ],
    }
