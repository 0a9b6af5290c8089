"""KubeletConfiguration and the command line: what is understood, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubelet import app
from kubelet.config import GROUP_VERSION, ConfigurationError, parse

HEAD = {"kind": "KubeletConfiguration", "apiVersion": GROUP_VERSION}


def test_every_supported_field() -> None:
    made = parse(
        {
            **HEAD,
            "clusterDNS": ["10.32.0.10"],
            "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": "/ca"}},
            "authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": "1m"}},
            "nodeStatusUpdateFrequency": "5s",
            "cgroupDriver": "cgroupfs",
            "maxPods": 16,
        }
    )
    assert made.cluster_dns == ("10.32.0.10",)
    assert (made.client_ca_file, made.authorized_ttl, made.node_status_update) == ("/ca", 60.0, 5.0)
    assert (made.max_pods, made.port, made.node_lease_seconds) == (16, 10250, 40)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"fooBar": 1}, 'unknown field "fooBar"'),
        ({"authentication": {"x509": {"caFile": "/x"}}}, 'unknown field "authentication.x509.caFile"'),
        ({"authorization": {"mode": "RBAC"}}, "authorization.mode: 'RBAC' is not supported"),
        ({"cgroupDriver": "systemd"}, "cgroupDriver: 'systemd' is not supported"),
        ({"evictionHard": {"memory.free": "1Mi"}}, "unknown eviction signal memory.free"),
        ({"maxPods": "many"}, "maxPods: expected int"),
        ({"nodeStatusUpdateFrequency": "soon"}, "nodeStatusUpdateFrequency"),
        ({"kind": "Pod"}, "expected KubeletConfiguration"),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse({**HEAD, **fields})
    assert complaint in str(caught.value)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"kind: KubeletConfiguration\napiVersion: {GROUP_VERSION}\ncgroupRoot: /a\nport: 1\n")
    argv = [
        "--config",
        str(file),
        "--kubeconfig",
        "k",
        "--cgroup-root",
        "/b",
        "--node-ip",
        "10.0.0.1,10.0.0.2",
    ]
    settings = app.settings_from(app.flags().parse([*argv, "--hostname-override", "w"]))
    assert (settings.config.cgroup_root, settings.config.port) == ("/b", 1)
    assert (settings.node_name, settings.node_ips) == ("w", ("10.0.0.1", "10.0.0.2"))


def test_a_bad_configuration_ends_with_status_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("kind: Nothing\n")
    assert app.main(["--config", str(file), "--kubeconfig", "k"]) == 2
    assert "KubeletConfiguration" in capsys.readouterr().err
    assert app.main([]) == 2
    assert "--kubeconfig is required" in capsys.readouterr().err
