"""A controller is added as controllers/DESIGN.md says: one file and one line. It then runs."""

from __future__ import annotations

from pathlib import Path

from tests import adding

SCRIPT = """
import asyncio
from controllers.registry import select
from kubeclient import resources as r
from tests.controllers import make
from tests.controllers.world import World

async def scenario():
    [entry] = [each for each in select(["*"]) if each.name == "colour-controller"]
    assert select(["colour"]) == [entry] and entry not in select(["*", "-colour"])
    world = World()
    world.api.put(r.NAMESPACES, {"metadata": make.meta("plain", "")})
    async with world.running(entry.build):
        await world.settle()
        print(world.api.get(r.NAMESPACES, "plain")["metadata"]["labels"])

asyncio.run(scenario())
"""


def test_one_file_and_one_line(tmp_path: Path) -> None:
    adding.added("controllers", "Adding a controller", "colours.py", "registry.py", "Entry(", tmp_path)
    assert adding.run(SCRIPT, tmp_path) == "{'colour': 'green'}\n"
