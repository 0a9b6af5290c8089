"""Which back end a mode names, what goes with it, and what is taken away of the others."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from componentbase import metrics
from kubeproxy import backends, compiler, iptables_compiler
from kubeproxy.backends import LIMITS
from kubeproxy.compiler import Settings
from kubeproxy.config import MODES
from kubeproxy.nftables import NftError
from kubeproxy.userspace import compiler as userspace_compiler


async def summary(mode: str) -> tuple[str, object, bool, bool]:
    async with backends.chosen(mode, Settings()) as found:
        await asyncio.sleep(0)  # what it runs has begun
        return type(found.backend).__name__, found.rules, found.tracked, found.policies


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("nftables", ("Nft", compiler, True, True)),
        ("iptables", ("Iptables", iptables_compiler, True, True)),
        ("userspace", ("Userspace", userspace_compiler, False, False)),
    ],
)
def test_every_mode_has_its_back_end(mode: str, expected: object, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(summary(mode)) == expected
    said = [each for each in LIMITS if each in caplog.text]
    assert said == (list(LIMITS) if mode == "userspace" else []), "what it cannot do is said at its start"
    enforced = b"hardway_policy_enforced 0.0" if mode == "userspace" else b"hardway_policy_enforced 1.0"
    assert enforced in metrics.render()


@pytest.mark.parametrize(
    ("mode", "removed"),
    [
        ("nftables", {"iptables", "userspace"}),
        ("iptables", {"nftables", "userspace"}),
        ("userspace", {"nftables", "iptables", "policies"}),
    ],
)
def test_what_other_modes_left_is_taken_away(
    mode: str, removed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backends._removers().keys() == {*MODES, "policies"}
    called: set[str] = set()

    def remover(name: str) -> backends.Remover:
        async def remove() -> None:
            called.add(name)
            raise NftError("one that fails keeps no other")

        return remove

    monkeypatch.setattr(backends, "_removers", lambda: {name: remover(name) for name in (*MODES, "policies")})
    asyncio.run(backends.retire_others(mode))
    assert called == removed


def test_a_node_without_any_of_the_tools_is_cleaned_up_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    asyncio.run(backends.clean_up())
    asyncio.run(backends.retire_others("userspace"))
