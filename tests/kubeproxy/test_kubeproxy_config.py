"""KubeProxyConfiguration: what is understood and what is refused, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubeproxy import app, config
from kubeproxy.config import API_VERSION, ConfigError

HEAD = {"apiVersion": API_VERSION, "kind": "KubeProxyConfiguration"}


def test_a_whole_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""
kind: KubeProxyConfiguration
apiVersion: {API_VERSION}
clientConnection:
  kubeconfig: /etc/kubernetes/kube-proxy.kubeconfig
mode: nftables
clusterCIDR: 10.200.0.0/16,fd00::/64
metricsBindAddress: 127.0.0.1
nodePortAddresses: [10.240.0.0/24]
nftables:
  minSyncPeriod: 100ms
  syncPeriod: 0s
"""
    )
    parsed = config.load(path)
    assert parsed.kubeconfig == "/etc/kubernetes/kube-proxy.kubeconfig"
    assert parsed.cluster_cidrs == ("10.200.0.0/16",)
    assert parsed.healthz_bind_address == "0.0.0.0:10256"
    assert parsed.metrics_bind_address == "127.0.0.1:10249"
    assert parsed.node_port_addresses == ("10.240.0.0/24",)
    assert (parsed.min_sync_period, parsed.sync_period) == (0.1, 30.0)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"mode": "iptables", "clusterCIDR": "10.0.0.0/16,10.1.0.0/16"}, "clusterCIDR"),
        ({"mode": "iptables", "iptables": {"localhostNodePorts": True}}, "iptables.localhostNodePorts"),
        ({"mode": "iptables", "iptables": {"syncPeriod": "soon"}}, "iptables.syncPeriod"),
        ({"mode": "ipvs"}, "mode: 'ipvs' is not supported, only nftables, iptables, userspace are"),
        ({"mode": "userspace", "iptables": {"masqueradeAll": True}}, "iptables.masqueradeAll"),
        ({"mode": "userspace", "clusterCIDR": "10.0.0.0/16,10.1.0.0/16"}, None),
        ({"clusterCidr": "x"}, '"clusterCidr"'),
        ({"conntrack": {"maxPerCore": 1}}, '"conntrack"'),
        ({"clientConnection": {"kubeConfig": "x"}}, '"clientConnection.kubeConfig"'),
        ({"clusterCIDR": "10.200.0.0"}, None),
        ({"clusterCIDR": "ten"}, "clusterCIDR"),
        ({"detectLocalMode": "BridgeInterface"}, "detectLocalMode"),
        ({"nftables": {"minSyncPeriod": "soon"}}, "nftables.minSyncPeriod"),
        ({"nftables": {"masqueradeBit": 3}}, "nftables.masqueradeBit"),
        ({"healthzBindAddress": "host:port"}, "healthzBindAddress"),
        ({"kind": "KubeletConfiguration"}, "KubeProxyConfiguration"),
    ],
)
def test_what_is_not_supported_is_named(extra: dict[str, Any], named: str | None) -> None:
    document = {**HEAD, **extra}
    if named is None:
        config.parse(document)
        return
    with pytest.raises(ConfigError, match=named):
        config.parse(document)


def test_a_broken_file_ends_the_daemon(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("mode: [")
    assert app.main(["--config", str(path)]) == 1
    assert "not YAML" in capfd.readouterr().err


def test_an_unknown_flag_ends_the_daemon(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        app.main(["--confg=x"])
    assert left.value.code == 2
    assert "unknown flag: --confg" in capfd.readouterr().err


def test_the_mode_chooses_the_section_that_counts() -> None:
    sections = {"iptables": {"minSyncPeriod": "2s"}, "nftables": {"minSyncPeriod": "3s"}}
    assert config.parse({**HEAD, **sections, "mode": "iptables"}).min_sync_period == 2.0
    assert config.parse({**HEAD, **sections}).min_sync_period == 3.0
    assert config.parse({**HEAD, **sections, "mode": "userspace"}).min_sync_period == 2.0, "as kube-proxy did"
