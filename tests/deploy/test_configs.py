"""Rendered files: right where programs can judge them, and complete."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from deploy import configs
from deploy.configs import Machine, files_for
from deploy.topology import TOPOLOGIES, load
from deploy.units import units_for
from pki import layout

LAB = load(TOPOLOGIES / "lab.yaml")
MACHINE = Machine(restrict_oom=True)


def test_every_file_a_unit_names_is_provided(tmp_path: Path) -> None:
    inventory = layout.generate(tmp_path, LAB.cluster_names())
    for host in LAB.hosts:
        provided = {*files_for(LAB, host, MACHINE), *inventory.host_files(host.name)}
        for unit in units_for(LAB, host, cgroup_root="/x"):
            for argument in unit.argv:
                path = argument.rpartition("=")[2]
                assert not path.startswith("/etc/") or path in provided, (
                    f"{host.name} {unit.name}: {argument}"
                )


def test_every_file_that_a_file_names_is_provided(tmp_path: Path) -> None:
    inventory = layout.generate(tmp_path, LAB.cluster_names())
    worker = LAB.host("worker-0")
    provided = {*files_for(LAB, worker, MACHINE), *inventory.host_files("worker-0")}
    kubelet = yaml.safe_load(configs.kubelet_config(LAB, MACHINE))
    named = [kubelet["tlsCertFile"], kubelet["tlsPrivateKeyFile"], kubelet["resolvConf"]]
    named.append(kubelet["authentication"]["x509"]["clientCAFile"])
    named.append(yaml.safe_load(configs.kube_proxy_config(LAB))["clientConnection"]["kubeconfig"])
    assert set(named) <= provided


@pytest.mark.parametrize("restrict", [True, False])
def test_containerd_config_is_toml(restrict: bool) -> None:
    document = tomllib.loads(configs.containerd_config(Machine(restrict_oom=restrict)))
    cri = document["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["restrict_oom_score_adj"] is restrict
    assert cri["sandbox_image"] == configs.PAUSE_IMAGE
    assert cri["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is False


def test_cni_configuration_takes_the_nodes_range() -> None:
    document = json.loads(configs.cni_conflist("10.200.7.0/24"))
    assert document["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.200.7.0/24"}]]
    assert [plugin["type"] for plugin in document["plugins"]] == ["bridge", "portmap"]


def test_a_fixed_range_is_configured_at_once() -> None:
    worker = replace(LAB.host("worker-0"), pod_cidr="10.200.9.0/24")
    assert configs.CNI_CONF in files_for(LAB, worker, MACHINE)
    assert configs.CNI_CONF not in files_for(LAB, LAB.host("worker-0"), MACHINE)


def test_hosts_know_each_other() -> None:
    lines = configs.hosts_file(LAB, LAB.host("worker-0")).splitlines()
    assert "10.240.0.12 controller-2" in lines
    assert len(lines) == 1 + len(LAB.hosts)


@pytest.mark.skipif(
    shutil.which("haproxy", path="/usr/sbin:/usr/bin") is None, reason="haproxy is not installed"
)
def test_haproxy_accepts_its_configuration(tmp_path: Path) -> None:
    inventory = layout.generate(tmp_path, LAB.cluster_names())
    text = configs.haproxy_config(LAB, LAB.host("balancer"))
    text = text.replace("/etc/kubernetes/pki/ca.pem", str(inventory.path("ca.pem")))
    # `-c` binds nothing, but the descriptor must be a socket's; the address need not exist.
    text = text.replace("bind fd@${HARDWAY_OUTSIDE_FD}", "bind 127.0.0.1:1")
    path = tmp_path / "haproxy.cfg"
    path.write_text(text)
    command = ["haproxy", "-c", "-f", str(path)]
    environment = {**os.environ, "PATH": "/usr/sbin:/usr/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for controller in LAB.by_role("controller"):
        assert f"server {controller.name} {controller.address}:6443 check" in text
