"""KubeSchedulerConfiguration: what is understood, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.config import API_VERSION, ConfigError, parse

BASE = {"apiVersion": API_VERSION, "kind": "KubeSchedulerConfiguration"}


def test_defaults() -> None:
    config = parse(BASE)
    assert [profile.scheduler_name for profile in config.profiles] == ["default-scheduler"]
    assert config.leader_election.leader_elect
    assert config.leader_election.lease_duration == 15.0
    assert {plugin.name: weight for plugin, weight in config.profiles[0].scores}["TaintToleration"] == 3


def test_profiles_choose_plugins_and_weights() -> None:
    plugins = {
        "score": {"disabled": [{"name": "*"}], "enabled": [{"name": "ImageLocality", "weight": 7}]},
        "filter": {"disabled": [{"name": "NodePorts"}]},
    }
    config = parse({**BASE, "profiles": [{"schedulerName": "mine", "plugins": plugins}, {}]})
    mine, default = config.profiles
    assert [(plugin.name, weight) for plugin, weight in mine.scores] == [("ImageLocality", 7)]
    assert "NodePorts" not in [plugin.name for plugin in mine.filters]
    assert "NodePorts" in [plugin.name for plugin in default.filters]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"apiVersion": "v1"}, "apiVersion"),
        ({"extenders": []}, "extenders"),
        ({"profiles": [{"pluginConfig": [{"name": "Nope"}]}]}, "pluginConfig[0].name: unknown plugin 'Nope'"),
        ({"profiles": [{"plugins": {"reverse": {}}}]}, "profiles[0].plugins.reverse"),
        (
            {"profiles": [{"plugins": {"bind": {"enabled": [{"name": "NodePorts"}]}}}]},
            "plugins.bind: plugin 'NodePorts' has no part in this extension point",
        ),
        (
            {"profiles": [{"plugins": {"bind": {"disabled": [{"name": "*"}]}}}]},
            "plugins.bind: needs a plugin",
        ),
        ({"profiles": [{"plugins": {"filter": {"enabled": [{"name": "Nope"}]}}}]}, "unknown plugin 'Nope'"),
        ({"profiles": [{}, {}]}, "unique"),
        ({"leaderElection": {"leaseDuration": "soon"}}, "leaderElection"),
        ({"leaderElection": {"resourceLock": "configmaps"}}, "leaderElection.resourceLock"),
        ({"clientConnection": {"contentType": "x"}}, "clientConnection.contentType"),
    ],
)
def test_what_is_not_supported_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse({**BASE, **change})
    assert named in str(refused.value)
