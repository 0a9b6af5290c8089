"""Keeps the policy table of this node equal to what NetworkPolicies, Pods and Namespaces say."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from apimachinery.errors import StatusError
from componentbase import metrics
from componentbase.backoff import Backoff
from componentbase.clock import Clock, RealClock
from kubeclient.informer import InformerFactory
from kubeclient.resources import NAMESPACES, NETWORKPOLICIES, PODS
from kubeclient.rest import ConnectionFailed, RestClient
from kubeproxy import policy
from kubeproxy.nftables import Nft
from kubeproxy.reconcile import Reconciler

log = logging.getLogger(__name__)

Object = dict[str, Any]

_sync_seconds = metrics.histogram("hardway_policy_sync_duration_seconds", "Seconds to program policies.")
_isolated = metrics.gauge("hardway_policy_isolated_pods", "Pods of this node that a policy isolates.")
_RESOURCES = (PODS, NAMESPACES, NETWORKPOLICIES)
FORBIDDEN_RETRY = 60.0
"""Seconds until permissions that are missing are looked for again."""


class PolicyAgent:
    """Needs get, list and watch of pods, namespaces and networkpolicies; without them it says so once, and
    waits.
    """

    def __init__(
        self,
        client: RestClient,
        node: str,
        *,
        nft: Nft | None = None,
        min_sync_period: float = 0.25,
        sync_period: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._node = node
        self._nft = nft or Nft(policy.TABLE, policy.FORWARD)
        self._clock = clock or RealClock()
        self._factory = InformerFactory(client)
        self._reconciler = Reconciler(
            "policies",
            self._sync,
            self._nft.present,
            self._clock,
            min_sync_period=min_sync_period,
            sync_period=sync_period,
        )

    async def run(self) -> None:
        """Enforce policies until cancelled. Rules stay in place when the process ends."""
        await self._permitted()
        for resource in _RESOURCES:
            self._factory.informer(resource).add_handler(
                self._touch, lambda old, new: self._touch(new), self._touch
            )
        async with asyncio.TaskGroup() as group:
            group.create_task(self._factory.run(), name="policy-informers")
            await self._reconciler.run(self._factory)

    def _touch(self, _: Object) -> None:
        self._reconciler.touch()

    async def _permitted(self) -> None:
        """Until everything may be read. What is missing is named once."""
        told: set[str] = set()
        backoff = Backoff(1.0, 30.0)
        while True:
            missing: list[str] = []
            try:
                for resource in _RESOURCES:
                    try:
                        await self._client.list(resource, limit=1)
                    except StatusError as error:
                        if error.code != 403:
                            raise
                        missing.append(resource.qualified)
            except (StatusError, ConnectionFailed, TimeoutError, OSError):
                await self._clock.sleep(backoff.next())
                continue
            if not missing:
                return
            if set(missing) - told:
                told |= set(missing)
                log.warning(
                    "NetworkPolicies are not enforced: get, list and watch are forbidden",
                    extra={"resources": ",".join(missing)},
                )
            await self._clock.sleep(FORBIDDEN_RETRY)

    async def _sync(self) -> None:
        started = self._clock.monotonic()
        pods = [
            pod
            for each in self._factory.informer(PODS).store.list()
            if (pod := policy.pod_of(each)) is not None
        ]
        namespaces = {
            each["metadata"]["name"]: each["metadata"].get("labels") or {}
            for each in self._factory.informer(NAMESPACES).store.list()
        }
        policies = self._factory.informer(NETWORKPOLICIES).store.list()
        wanted = policy.compile_policies(policies, pods, namespaces, self._node)
        changed = await self._nft.program(self._reconciler.programmed, wanted)
        self._reconciler.programmed = wanted
        seconds = self._clock.monotonic() - started
        _sync_seconds.observe(seconds)
        isolated = len(wanted.maps[policy.FROM_PODS].keys() | wanted.maps[policy.TO_PODS].keys())
        _isolated.set(isolated)
        if changed:
            log.info("policies programmed", extra={"isolated": isolated, "seconds": f"{seconds:.3f}"})
