"""The back ends by the mode that names each: what puts a program into force, and the compiler that goes with
it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from componentbase import metrics
from kubeproxy import compiler, iptables_compiler, policy
from kubeproxy.compiler import Settings
from kubeproxy.iptables import Iptables
from kubeproxy.nftables import Nft, NftError
from kubeproxy.proxy import Backend, Compiler
from kubeproxy.userspace import addresses
from kubeproxy.userspace import compiler as userspace_compiler
from kubeproxy.userspace.backend import Userspace

log = logging.getLogger(__name__)

_enforced = metrics.gauge(
    "hardway_policy_enforced", "Whether NetworkPolicies are enforced on this node (1) or not (0)."
)
LIMITS = (
    "NetworkPolicies are not enforced on this node: that needs nftables",
    "backends see this node's address, not their client's",
    "what listens on all of the node's addresses answers on the services' as well",
)
"""What mode userspace does not do, as it is said at its start."""


@dataclass(frozen=True)
class Chosen:
    """`tracked`: the kernel remembers UDP flows for it. `policies`: there is nftables to enforce policies."""

    backend: Backend
    rules: Compiler
    tracked: bool = True
    policies: bool = True


@contextlib.asynccontextmanager
async def chosen(mode: str, settings: Settings) -> AsyncIterator[Chosen]:
    """The back end for a mode of `config.MODES`, as long as the daemon lives."""
    _enforced.set(mode != "userspace")
    if mode == "userspace":
        for limit in LIMITS:
            log.warning("mode userspace: %s", limit)
        async with Userspace(settings) as backend:
            yield Chosen(backend, userspace_compiler, tracked=False, policies=False)
    elif mode == "iptables":
        yield Chosen(Iptables(), iptables_compiler)
    else:
        yield Chosen(Nft(), compiler)


Remover = Callable[[], Awaitable[None]]


def _removers() -> dict[str, Remover]:
    """By mode, and for policies: what takes everything away that is ours."""
    return {
        "nftables": Nft().remove,
        "iptables": Iptables().remove,
        "userspace": lambda: addresses.remove(addresses.Loopback()),
        "policies": Nft(policy.TABLE).remove,
    }


async def retire_others(mode: str) -> None:
    """Take away what other modes left behind. Policies stay but for mode userspace, which would leave them
    in force for ever, unchanged. A node need not have the tools of a mode it does not use.
    """
    kept = {mode} if mode == "userspace" else {mode, "policies"}
    for name, remove in _removers().items():
        if name in kept:
            continue
        try:
            await remove()
        except (NftError, OSError, TimeoutError) as error:
            log.info("nothing of %s removed: %s", name, error)


async def clean_up() -> None:
    """Take everything away. Raises NftError, TimeoutError."""
    for name, remove in _removers().items():
        try:
            await remove()
        except OSError as error:
            log.info("%s: %s", name, error)
