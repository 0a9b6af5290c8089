"""What the kubelet proves itself with to the apiserver: had at the start, kept fresh, had anew when it ended.

With a bootstrap kubeconfig the client certificate is asked for; without, the kubeconfig is given ready made
and somebody replaces it in time. Either way a certificate that has ended proves nothing any more: the
apiserver answers 401, the Lease is not renewed, and the node controller calls the node's state Unknown. Pods
run on meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from componentbase.clock import Clock
from kubeclient.reload import replaced
from kubeclient.rest import RestClient
from kubelet.certificates import CertificateRefused, CertificateStore, obtain, renew, write_kubeconfig
from pki.kubeconfig import KubeconfigError, load

log = logging.getLogger(__name__)

LOOK = 60.0  # seconds at most between two looks at the wall clock, which may be set or stand still


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where they are: `bootstrap` is empty when the kubeconfig is given ready made."""

    kubeconfig: Path
    bootstrap: str
    store: CertificateStore
    rotate: bool = False

    async def had(self, node: str, clock: Clock) -> None:
        """Have a valid client certificate, and a kubeconfig that refers to it, if they are ours to get.
        Raises `CertificateRefused`, OSError.
        """
        if not self.bootstrap:
            return
        if self.store.certificate(clock.now()) is None:
            end = end_of(self.kubeconfig)
            if end is not None and clock.now() < end:
                return  # what is there still speaks for the node
            log.info("no valid client certificate: asking with the bootstrap kubeconfig")
            async with RestClient.from_kubeconfig(self.bootstrap, user_agent="kubelet-bootstrap") as client:
                await obtain(client, self.store, node, clock)
            if self.store.certificate(clock.now()) is None:
                raise CertificateRefused("the certificate that was issued is not valid now")
        await asyncio.to_thread(write_kubeconfig, Path(self.bootstrap), self.kubeconfig, self.store)

    async def spent(self, node: str, clock: Clock) -> None:
        """Until the kubelet has to connect anew: the certificate was renewed, has ended and can be asked for
        anew, or somebody replaced the kubeconfig.
        """
        ways = [replaced(self.kubeconfig, clock), self._ended(clock)]
        if self.rotate and self.bootstrap:
            ways.append(self._renewed(node, clock))
        await first_of(*ways)

    async def _renewed(self, node: str, clock: Clock) -> None:
        async with RestClient.from_kubeconfig(self.kubeconfig, user_agent="kubelet") as client:
            await renew(client, self.store, node, clock)

    async def _ended(self, clock: Clock) -> None:
        """Until the certificate in use has ended; for ever, if nobody but its owner can replace it."""
        while (end := end_of(self.kubeconfig)) is None or clock.now() < end:
            left = LOOK if end is None else end - clock.now()
            await clock.sleep(min(left, LOOK))
        expired = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        log.error("the client certificate of %s has expired", self.kubeconfig, extra={"expired": expired})
        if not self.bootstrap:
            log.error("the apiserver answers nobody with it: replace the kubeconfig, and it is taken up")
            await asyncio.Event().wait()


def end_of(kubeconfig: Path) -> float | None:
    """When the kubeconfig's client certificate ends (epoch seconds): never, if it proves itself by other
    means; None when it cannot be used at all. Blocking.
    """
    try:
        pem = load(kubeconfig).cert_pem
        if pem is None:
            return float("inf")
        return min(x.not_valid_after_utc.timestamp() for x in x509.load_pem_x509_certificates(pem))
    except (KubeconfigError, OSError, ValueError):
        return None


async def first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Until one of them returns, which ends the others. What one raises is raised, in a group."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
