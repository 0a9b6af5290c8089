"""The `lab` cloud: its router is a network namespace of this machine, its routes are kernel routes there.

Routes carry their own protocol number, so that nothing else in the router's table is ever listed, changed or
removed.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import yaml

from controllers.cloud import Cloud, CloudError, Route

PROTOCOL = "201"
TIMEOUT = 10.0  # seconds for one command


class LabCloud:
    """Runs `ip route` inside the router's namespace. The namespace is entered by the child process alone."""

    def __init__(self, netns: str) -> None:
        self._netns = netns

    async def list_routes(self) -> list[Route]:
        output = await self._ip("-j", "route", "show", "proto", PROTOCOL)
        found = orjson.loads(output or b"[]")
        return sorted(Route(_with_mask(r["dst"]), r["gateway"]) for r in found if "gateway" in r)

    async def create_route(self, route: Route) -> None:
        await self._ip("route", "replace", route.cidr, "via", route.target, "proto", PROTOCOL)

    async def delete_route(self, route: Route) -> None:
        try:
            await self._ip("route", "del", route.cidr, "via", route.target, "proto", PROTOCOL)
        except CloudError as error:
            if "No such process" not in str(error):  # ESRCH: the route is not there
                raise

    async def _ip(self, *arguments: str) -> bytes:
        command = ("nsenter", f"--net={self._netns}", "ip", *arguments)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise CloudError(f"{' '.join(command)}: {error}") from error
        try:
            async with asyncio.timeout(TIMEOUT):
                output, complaint = await process.communicate()
        except TimeoutError:
            raise CloudError(f"{' '.join(command)}: no answer within {TIMEOUT:g}s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            text = complaint.decode("utf-8", "replace").strip()
            raise CloudError(f"{' '.join(command)}: exit {process.returncode}: {text}")
        return output


def _with_mask(destination: str) -> str:
    return destination if "/" in destination else f"{destination}/32"


def load_cloud(provider: str, config: str) -> Cloud | None:
    """The cloud of `--cloud-provider` and `--cloud-config`; None for no provider.

    Raises ValueError naming what is wrong with the provider or the file, OSError when it cannot be read.
    """
    if provider == "":
        return None
    if provider != "lab":
        raise ValueError(f'--cloud-provider={provider}: unknown cloud provider (known: "lab")')
    if not config:
        raise ValueError("--cloud-provider=lab needs --cloud-config")
    return LabCloud(_netns_of(yaml.safe_load(Path(config).read_text()), config))


def _netns_of(document: Any, config: str) -> str:
    router = document.get("router") if isinstance(document, dict) else None
    netns = router.get("netns") if isinstance(router, dict) else None
    unknown = [*(set(document or {}) - {"router"} if isinstance(document, dict) else ())]
    if isinstance(router, dict):
        unknown += [f"router.{name}" for name in set(router) - {"netns"}]
    if unknown:
        raise ValueError(f"--cloud-config={config}: unknown field {sorted(unknown)[0]!r}")
    if not isinstance(netns, str) or not netns:
        raise ValueError(f"--cloud-config={config}: router.netns is required")
    return netns
