"""A replaced kubeconfig is noticed, a broken one passed over."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeclient.reload import replaced
from tests.kubeclient.loops import on_loop


def kubeconfig(server: str, authority: str = "") -> str:
    named = {"certificate-authority": authority} if authority else {}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server, **named}}],
            "contexts": [{"name": "c", "context": {"cluster": "c"}}],
            "current-context": "c",
        }
    )


class Script:
    """A clock whose n-th sleep does the n-th thing to the file."""

    def __init__(self, path: Path, contents: list[str | None]) -> None:
        self._path = path
        self._contents = contents
        self.sleeps = 0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        content = self._contents[self.sleeps]
        self.sleeps += 1
        if content is None:
            self._path.unlink()
        else:
            self._path.write_text(content)


def test_until_another_usable_one_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "kubeconfig"
    first, second = kubeconfig("https://10.0.0.1:6443"), kubeconfig("https://10.0.0.2:6443")
    path.write_text(first)
    clock: Any = Script(path, [first, None, first, "not: [a kubeconfig", "not: [a kubeconfig", second])

    async def test() -> None:
        async with asyncio.timeout(5):
            await replaced(path, clock)

    with caplog.at_level(logging.ERROR):
        on_loop(test)
    assert clock.sleeps == 6
    assert len([each for each in caplog.records if "not used" in each.message]) == 1


def test_a_file_that_it_names_counts_as_well(tmp_path: Path) -> None:
    path, authority = tmp_path / "kubeconfig", tmp_path / "ca.pem"
    path.write_text(kubeconfig("https://10.0.0.1:6443", "ca.pem"))
    authority.write_text("one")
    clock: Any = Script(authority, ["one", None, "one", "two"])

    async def test() -> None:
        async with asyncio.timeout(5):
            await replaced(path, clock)

    on_loop(test)
    assert clock.sleeps == 4
