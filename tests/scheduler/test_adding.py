"""A plugin is added as scheduler/DESIGN.md says: one file and one line. It then decides, and says why."""

from __future__ import annotations

from pathlib import Path

from tests import adding

SCRIPT = """
import random
from scheduler import config, core
from scheduler.columns import Columns
from scheduler.podinfo import compile_pod
from tests.scheduler.objects import node, pod

nodes = Columns()
nodes.set_node(node("n1", labels={"rest": ""}))
nodes.set_node(node("n2"))

def decided(**plugins):
    body = {"apiVersion": config.API_VERSION, "kind": "KubeSchedulerConfiguration"}
    body["profiles"] = [{"schedulerName": "default-scheduler", "plugins": plugins}]
    [profile] = config.parse(body).profiles
    return core.decide(profile, compile_pod(pod("p")), nodes, random.Random(1))

print(decided().node)
nodes.set_node(node("n2", labels={"rest": "yes"}))
print(decided().message, decided().rejected_by)
print(decided(filter={"disabled": [{"name": "NodeRest"}]}).node is not None)
"""


def test_one_file_and_one_line(tmp_path: Path) -> None:
    adding.added("scheduler", "Adding a plugin", "plugins/node_rest.py", "plugins/__init__.py", "(", tmp_path)
    said = adding.run(SCRIPT, tmp_path).splitlines()
    assert said == ["n2", "0/2 nodes are available: 2 node(s) were at rest. {'NodeRest'}", "True"]
