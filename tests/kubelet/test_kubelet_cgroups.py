"""What a pod may use: the figures of its group, in the words of both cgroup versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubelet import cgroups
from kubelet.cgroups import Figures
from tests.kubelet.builders import container, pod


def asking(name: str, cpu: str, memory: str, *, limited: bool = True) -> dict[str, object]:
    amounts = {"cpu": cpu, "memory": memory}
    return container(name, resources={"requests": amounts, "limits": amounts if limited else {}})


@pytest.mark.parametrize(
    ("containers", "figures"),
    [
        ([asking("a", "250m", "32Mi"), asking("b", "750m", "32Mi")], Figures(1024, 100_000, 64 << 20)),
        ([asking("a", "250m", "32Mi"), asking("b", "750m", "32Mi", limited=False)], Figures(1024, -1, -1)),
        ([container("a")], Figures(2, -1, -1)),
    ],
)
def test_the_figures_of_a_pod(containers: list[dict[str, object]], figures: Figures) -> None:
    assert cgroups.of_pod(pod(*containers)["spec"]) == figures


def test_tiers_weigh_what_their_pods_request() -> None:
    pods = [pod(asking("a", "500m", "1Mi", limited=False)), pod(container("b"))]
    tiers = cgroups.of_tiers(pods, {"cpu": "2", "memory": "1Gi"})
    assert tiers[""] == Figures(2048, -1, 1 << 30)
    assert tiers["burstable"].shares == 512
    assert tiers["besteffort"].shares == 2


def test_the_same_figures_in_both_versions() -> None:
    figures = Figures(1024, 50_000, 1 << 20)
    assert cgroups.files(figures, 1)["cpu.cfs_quota_us"] == "50000"
    assert cgroups.files(figures, 2) == {
        "cpu.weight": "39",
        "cpu.max": "50000 100000",
        "memory.max": "1048576",
    }
    assert cgroups.files(Figures(), 2)["memory.max"] == "max"


@pytest.mark.parametrize("version", [1, 2])
def test_groups_are_made_and_written(tmp_path: Path, version: int) -> None:
    hierarchy = tmp_path / "cpu" if version == 1 else tmp_path
    pod_group = hierarchy / "lab/kubepods/podx"
    pod_group.mkdir(parents=True)
    if version == 2:
        (tmp_path / "cgroup.controllers").write_text("cpu memory")
    name, value = ("cpu.shares", "1024") if version == 1 else ("cpu.weight", "39")
    (pod_group / name).write_text("2")
    cgroups.apply("/lab/kubepods/podx", Figures(1024), tmp_path)
    assert (pod_group / name).read_text() == value
