"""The binding cycle: Reserve, Permit, PreBind, Bind, PostBind, and undoing what was reserved when one of them
fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from apimachinery import errors
from kubeclient.resources import PODS
from kubeclient.rest import ConnectionFailed, RestClient
from scheduler.cluster import Cluster
from scheduler.columns import Columns
from scheduler.framework import Object, Profile
from scheduler.podinfo import PodInfo

BIND_TIMEOUT = 30.0


class Rejected(Exception):
    """The pod was not bound. `plugin` names who said no ("" for a failure outside the plugins); `vanished`:
    the pod is gone.
    """

    def __init__(self, message: str, *, plugin: str = "", vanished: bool = False) -> None:
        super().__init__(message)
        self.plugin = plugin
        self.vanished = vanished


class Waiting:
    """Pods that a Permit plugin holds: others may allow or reject them by uid."""

    def __init__(self) -> None:
        self._futures: dict[str, asyncio.Future[str]] = {}

    def pods(self) -> list[str]:
        """The uids of the pods that wait."""
        return list(self._futures)

    def allow(self, uid: str) -> None:
        self._answer(uid, "")

    def reject(self, uid: str, reason: str) -> None:
        self._answer(uid, reason or "rejected")

    def _answer(self, uid: str, reason: str) -> None:
        future = self._futures.get(uid)
        if future is not None and not future.done():
            future.set_result(reason)

    async def wait(self, uid: str, seconds: float) -> str:
        """Why the pod may not go on; "" when it may. Raises TimeoutError."""
        future = self._futures[uid] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                reason: str = await future
        finally:
            del self._futures[uid]
        return reason


class Binder:
    """Binds pods that are assumed on their node. It is what acting plugins see of the scheduler (Handle)."""

    def __init__(self, client: RestClient, cluster: Cluster, waiting: Waiting) -> None:
        self._client = client
        self._cluster = cluster
        self._waiting = waiting
        self._change = asyncio.Event()

    @property
    def columns(self) -> Columns:
        return self._cluster.columns

    def notify(self) -> None:
        """Something in the cluster changed."""
        self._change.set()
        self._change = asyncio.Event()

    async def changed(self, ready: Callable[[], bool], seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while not ready():
                await self._change.wait()

    async def bind_pod(self, pod: PodInfo, node: str) -> None:
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "target": {"kind": "Node", "name": node},
        }
        async with asyncio.timeout(BIND_TIMEOUT):
            await self._client.create(PODS, binding, pod.namespace, name=pod.name, subresource="binding")

    async def get(self, gvr: Any, name: str, namespace: str | None = None) -> Object:
        async with asyncio.timeout(BIND_TIMEOUT):
            return await self._client.get(gvr, name, namespace)

    async def update(self, gvr: Any, obj: Object) -> Object:
        async with asyncio.timeout(BIND_TIMEOUT):
            return await self._client.update(gvr, obj)

    async def bind(self, profile: Profile, pod: PodInfo, node: str) -> None:
        """Run the cycle; raises Rejected, after giving back what was reserved."""
        try:
            self._reserve(profile, pod, node)  # no await before this: nobody decides in between
            await self._permit(profile, pod, node)
            for plugin in profile.pre_binds:
                await plugin.pre_bind(self, pod, node)
            for binder in profile.binds:
                if await binder.bind(self, pod, node):
                    break
            else:
                raise Rejected("no Bind plugin took the pod")
        except (errors.StatusError, ConnectionFailed, TimeoutError) as error:
            self._unreserve(profile, pod, node)
            raise Rejected(str(error) or "timed out", vanished=errors.is_not_found(error)) from error
        except BaseException:
            self._unreserve(profile, pod, node)
            raise
        for after in profile.post_binds:
            after.post_bind(pod, node)

    def _reserve(self, profile: Profile, pod: PodInfo, node: str) -> None:
        for plugin in profile.reserves:
            reason = plugin.reserve(pod, node, self.columns)
            if reason:
                raise Rejected(reason, plugin=plugin.name)

    def _unreserve(self, profile: Profile, pod: PodInfo, node: str) -> None:
        for plugin in reversed(profile.reserves):
            plugin.unreserve(pod, node, self.columns)

    async def _permit(self, profile: Profile, pod: PodInfo, node: str) -> None:
        """All Permit plugins must let the pod go; the longest wait asked for is waited once."""
        seconds, by = 0.0, ""
        for plugin in profile.permits:
            answer = plugin.permit(pod, node)
            if answer.reason:
                raise Rejected(answer.reason, plugin=plugin.name)
            if answer.wait > seconds:
                seconds, by = answer.wait, plugin.name
        if not by:
            return
        try:
            reason = await self._waiting.wait(pod.uid, seconds)
        except TimeoutError:
            raise Rejected(f"timed out waiting at permit after {seconds:g}s", plugin=by) from None
        if reason:
            raise Rejected(reason, plugin=by)
