"""ConfigMaps and Secrets that running pods refer to, each followed by a watch of its own.

A kubelet may read only objects that its pods name (Node authorization), so there is one list and watch by
name for each of them, begun by the first read and ended with the last pod that refers to it. This is the
`Watch` strategy of `configMapAndSecretChangeDetectionStrategy`: a change reaches the pods at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from componentbase.tasks import Background
from kubeclient.informer import Informer
from kubeclient.resources import CONFIGMAPS, GVR, SECRETS
from kubeclient.rest import RestClient
from kubelet.pods.environment import ConfigError, references
from kubelet.volumes.payload import CONTENT_KINDS, needs

SYNC_TIMEOUT = 1.0  # seconds a reader waits for the first list, as in Kubernetes

Key = tuple[GVR, str, str]
Object = Mapping[str, Any]


def referred(pod: Object) -> set[Key]:
    """Every ConfigMap and Secret that environment, volumes and pull secrets of a pod name."""
    namespace, spec = pod["metadata"].get("namespace", "default"), pod["spec"]
    configmaps, secrets = references(spec)
    secrets |= {secret["name"] for secret in spec.get("imagePullSecrets", []) if secret.get("name")}
    for volume in spec.get("volumes", []):
        if any(kind in volume for kind in CONTENT_KINDS):
            wanted = needs(volume)
            configmaps |= wanted.configmaps
            secrets |= wanted.secrets
    found = {(CONFIGMAPS, namespace, name) for name in configmaps}
    return found | {(SECRETS, namespace, name) for name in secrets}


@dataclass(slots=True)
class _Followed:
    users: set[str] = field(default_factory=set)
    informer: Informer | None = None
    task: asyncio.Task[None] | None = None


class Watched:
    """The followed objects; `on_change(uid)` is called for every user of an object that has changed."""

    def __init__(self, client: RestClient, tasks: Background, on_change: Callable[[str], None]) -> None:
        self._client = client
        self._tasks = tasks
        self._on_change = on_change
        self._followed: dict[Key, _Followed] = {}
        self._pods: dict[str, set[Key]] = {}

    def __len__(self) -> int:
        return len(self._followed)

    def follow(self, pod: Object) -> None:
        """The pod's references are now these; a later call replaces an earlier one."""
        uid, wanted = pod["metadata"]["uid"], referred(pod)
        before = self._pods.get(uid, set())
        self._pods[uid] = wanted
        for key in wanted - before:
            self._followed.setdefault(key, _Followed()).users.add(uid)
        self._release(uid, before - wanted)

    def forget_pod(self, uid: str) -> None:
        self._release(uid, self._pods.pop(uid, set()))

    def _release(self, uid: str, keys: Iterable[Key]) -> None:
        for key in keys:
            held = self._followed[key]
            held.users.discard(uid)
            if not held.users:
                del self._followed[key]
                if held.task is not None:
                    held.task.cancel()

    def follows(self, key: Key) -> bool:
        return key in self._followed

    async def get(self, key: Key) -> Object | None:
        """The object as last seen, None when there is none; raises `ConfigError` while nothing is known."""
        gvr, namespace, name = key
        held = self._followed[key]
        if held.informer is None:
            held.informer = self._begin(key, held)
        try:
            await held.informer.wait_synced(SYNC_TIMEOUT)
        except TimeoutError as error:
            what = gvr.resource.removesuffix("s")
            text = f"failed to sync {what} cache: timed out waiting for the condition"
            raise ConfigError(f"{text} ({namespace}/{name})") from error
        return held.informer.store.get(f"{namespace}/{name}")

    def _begin(self, key: Key, held: _Followed) -> Informer:
        gvr, namespace, name = key
        informer = Informer(self._client, gvr, namespace=namespace, field_selector=f"metadata.name={name}")

        def tell(*_: object) -> None:
            for uid in list(held.users):
                self._on_change(uid)

        informer.add_handler(tell, tell, tell)
        held.task = self._tasks.spawn(f"watch/{gvr.resource}/{namespace}/{name}", informer.run())
        return informer
