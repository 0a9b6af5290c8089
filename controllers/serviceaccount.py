"""The ServiceAccount `default` and the ConfigMap `kube-root-ca.crt` in every namespace."""

from __future__ import annotations

from typing import ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers.objects import Object
from controllers.podcontrol import namespace_terminating
from controllers.runtime import Context, Controller
from kubeclient.resources import CONFIGMAPS, NAMESPACES, SERVICEACCOUNTS

DEFAULT = "default"
ROOT_CA = "kube-root-ca.crt"
DESCRIPTION = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints "
    "such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across "
    "distributions of Kubernetes clusters."
)


def accepts_content(namespace: Object | None) -> bool:
    """Nothing can be created in a namespace that is gone or going."""
    return (
        namespace is not None
        and not o.is_terminating(namespace)
        and o.status(namespace).get("phase") != "Terminating"
    )


def root_ca_config_map(namespace: str, ca_pem: str) -> Object:
    """The ConfigMap that projected service-account volumes mount beside the token."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": ROOT_CA,
            "namespace": namespace,
            "annotations": {"kubernetes.io/description": DESCRIPTION},
        },
        "data": {"ca.crt": ca_pem},
    }


class ServiceAccountController(Controller):
    """Keys are namespace names."""

    name: ClassVar[str] = "serviceaccount-controller"
    account: ClassVar[str] = "service-account-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.namespaces = self.watch(NAMESPACES, self.enqueue)
        self.accounts = self.watch(SERVICEACCOUNTS, lambda account: self.queue.add(o.namespace(account)))

    async def sync(self, key: str) -> float | None:
        if not accepts_content(self.namespaces.store.get(key)):
            return None
        if self.accounts.store.get(f"{key}/{DEFAULT}") is not None:
            return None
        body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": DEFAULT, "namespace": key}}
        try:
            await self.client.create(SERVICEACCOUNTS, body, key)
        except errors.StatusError as error:
            if not errors.is_already_exists(error) and not _going_away(error):
                raise
        return None


class RootCAPublisher(Controller):
    """Keys are namespace names."""

    name: ClassVar[str] = "root-ca-certificate-publisher-controller"
    account: ClassVar[str] = "root-ca-cert-publisher"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.ca_pem = ctx.options.root_ca_pem
        self.namespaces = self.watch(NAMESPACES, self.enqueue)
        self.maps = self.watch(CONFIGMAPS, self._on_config_map)

    async def sync(self, key: str) -> float | None:
        if not accepts_content(self.namespaces.store.get(key)):
            return None
        wanted = root_ca_config_map(key, self.ca_pem)
        current = self.maps.store.get(f"{key}/{ROOT_CA}")
        try:
            if current is None:
                await self.client.create(CONFIGMAPS, wanted, key)
            elif current.get("data") != wanted["data"] or not _described(current):
                annotations = {**o.annotations_of(current), **o.annotations_of(wanted)}
                metadata = {**o.meta(current), "annotations": annotations}
                await self.client.update(
                    CONFIGMAPS, {**current, "metadata": metadata, "data": wanted["data"]}
                )
        except errors.StatusError as error:
            if not errors.is_already_exists(error) and not _going_away(error):
                raise
        return None

    def _on_config_map(self, config_map: Object) -> None:
        if o.name(config_map) == ROOT_CA:
            self.queue.add(o.namespace(config_map))


def _described(config_map: Object) -> bool:
    return o.annotations_of(config_map).get("kubernetes.io/description") == DESCRIPTION


def _going_away(error: errors.StatusError) -> bool:
    """The namespace vanished or started terminating since it was last seen; its next event settles the
    matter.
    """
    return errors.is_not_found(error) or namespace_terminating(error)
