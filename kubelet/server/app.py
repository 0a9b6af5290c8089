"""The kubelet's servers."""

from __future__ import annotations

import asyncio

from kubelet.agent import Kubelet


async def run_servers(kubelet: Kubelet) -> None:
    await asyncio.Event().wait()
