"""Which runtime a topology means, on this machine or on one that lacks something."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import configs, doctor, packages, rootless, runtimes
from deploy.configs import Machine
from deploy.runtimes import Choice, choose
from deploy.state import State
from deploy.topology import TOPOLOGIES, TopologyError, load, parse
from deploy.units import units_for
from tests import elsewhere

LAB = load(TOPOLOGIES / "lab.yaml")
DOCUMENT: dict[str, Any] = yaml.safe_load((TOPOLOGIES / "lab.yaml").read_text())


@pytest.mark.parametrize(
    ("asked", "root", "absent", "expected"),
    [
        ("auto", True, (), Choice("containerd")),
        ("auto", True, ("runc",), Choice("embedded", "runc is not installed")),
        ("auto", True, ("containerd", "runc"), Choice("embedded", "containerd, runc are not installed")),
        ("auto", False, (), Choice("embedded", "there is no root")),
        ("embedded", True, (), Choice("embedded")),
        ("embedded", False, (), Choice("embedded")),
        ("containerd", True, ("runc",), Choice("containerd")),  # the doctor says what is absent
    ],
)
def test_choice(asked: str, root: bool, absent: tuple[str, ...], expected: Choice) -> None:
    assert choose(asked, root=root, absent=absent) == expected


def test_containerd_without_root_is_refused() -> None:
    with pytest.raises(TopologyError, match="runtime: containerd needs root"):
        choose("containerd", root=False, absent=())


def test_one_line_of_the_topology_chooses() -> None:
    for name in ("containerd", "embedded"):
        document = {**copy.deepcopy(DOCUMENT), "runtime": name}
        assert parse(document).runtime == name
    del document["runtime"]
    assert parse(document).runtime == "auto"
    with pytest.raises(TopologyError, match="runtime: must be one of auto, containerd, embedded"):
        parse({**document, "runtime": "docker"})


def test_a_worker_without_containerd() -> None:
    topology = replace(LAB, runtime="embedded")
    worker = topology.host("worker-0")
    units = {unit.name: unit for unit in units_for(topology, worker, cgroup_root="/x")}
    assert list(units) == ["kubelet", "kubeproxy"]
    endpoint = units["kubelet"].flags["container-runtime-endpoint"]
    assert endpoint == "embedded:///var/lib/embedded?images=/run/hardway/images"
    files = configs.files_for(topology, worker, Machine(restrict_oom=False, limits=False))
    assert "/etc/containerd/config.toml" not in files
    kubelet = yaml.safe_load(files["/etc/kubernetes/kubelet-config.yaml"])
    assert kubelet["cgroupsPerQOS"] is False
    assert kubelet["enforceNodeAllocatable"] == []


def test_what_containerd_alone_needs_is_not_asked_for() -> None:
    names = {package.name for package in packages.needed("embedded")}
    assert not names & {"containerd", "runc", "crun", "containernetworking-plugins"}
    assert names < {package.name for package in packages.needed("containerd")}


def test_a_proxy_in_user_space_asks_for_no_packet_filter() -> None:
    less = set(packages.needed("containerd")) - set(packages.needed("containerd", "userspace"))
    assert {package.name for package in less} == {"nftables", "conntrack"}


def test_a_cluster_that_is_up_keeps_its_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.state.RUN", tmp_path)
    monkeypatch.setattr(runtimes, "absent_for_containerd", lambda: ("runc",))
    state = State("s", tmp_path / "state")
    assert runtimes.settled(LAB, state)[0].runtime == "embedded"
    state.run.mkdir()
    runtimes.remember(state, replace(LAB, runtime="containerd"))
    assert runtimes.settled(LAB, state) == (replace(LAB, runtime="containerd"), Choice("containerd"))
    with pytest.raises(TopologyError, match="the cluster is up with containerd, the topology asks for embed"):
        runtimes.settled(replace(LAB, runtime="embedded"), state)


def test_no_control_groups_is_a_warning_for_the_embedded_runtime_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = doctor.cgroups.Hierarchies(1, ())
    monkeypatch.setattr(doctor.cgroups, "find", lambda: none)
    found = {}
    for name in ("containerd", "embedded"):
        topology = replace(LAB, runtime=name)
        found[name] = next(
            each for each in doctor.examine(topology, tmp_path, cluster_up=True) if each.name == "cgroups"
        )
    assert found["containerd"].fatal and not found["containerd"].ok
    assert not found["embedded"].fatal and "without limits" in found["embedded"].detail


# -- a lab without root


@pytest.mark.parametrize(
    ("settings", "remedies"),
    [
        ({}, []),
        ({"max_user_namespaces": "96000\n", "unprivileged_userns_clone": "1\n"}, []),
        ({"unprivileged_userns_clone": "0\n"}, ["sysctl -w kernel.unprivileged_userns_clone=1"]),
        ({"max_user_namespaces": "0\n"}, ["sysctl -w user.max_user_namespaces=15000"]),
        (
            {"apparmor_restrict_unprivileged_userns": "1\n"},
            ["sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"],
        ),
    ],
)
def test_the_setting_that_forbids_it_is_named(settings: dict[str, str], remedies: list[str]) -> None:
    assert rootless.forbidding(lambda path: settings.get(Path(path).name)) == remedies


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("other:100000:65536\n", None),
        ("me:100000:65536\nme:1:2\n", rootless.Ranges(100000, 65536)),
        ("1000:200000:10\n", rootless.Ranges(200000, 10)),
        ("me:x:10\nme:5:0\n", None),
    ],
)
def test_ranges_of_a_user(text: str, expected: rootless.Ranges | None) -> None:
    assert rootless.parse_ranges(text, "me", 1000) == expected


SCRIPT = """
import os, sys
from pathlib import Path
from deploy import rootless
state = Path(sys.argv[1])
handle = rootless.Handle(state)
def inside():
    assert rootless.inside() and not rootless.wanted() and os.geteuid() == 0
    assert list(Path("/run").iterdir()) == []
    return 7
assert rootless.wanted() and handle.holder() == 0
print(rootless.run(state, inside))
print(handle.holder())                       # nobody needs it any more
with handle.using() as holder:
    again = rootless.run(state, lambda: 0 if len(os.listdir("/proc")) > 3 else 1)
    print(again, handle.holder() == holder)  # somebody else still uses it
print(handle.holder())
"""


@pytest.mark.root
def test_a_user_has_a_machine_of_his_own_for_as_long_as_it_is_used(tmp_path: Path) -> None:
    place = tmp_path / "user"
    place.mkdir()
    place.chmod(0o777)
    with elsewhere.machine(reachable=[place]) as front:
        argv = [*front, *elsewhere.as_user(place), elsewhere.sys.executable, "-c", SCRIPT, str(place / "s")]
        assert elsewhere.run(argv).split() == ["7", "0", "0", "True", "0"]


@pytest.mark.root
def test_a_kernel_that_forbids_it_is_believed(tmp_path: Path) -> None:
    """In a user namespace whose own limit is none, which is how administrators forbid it."""
    script = "from deploy import rootless; print(rootless.forbidden())"
    limit = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh"]
    with elsewhere.machine() as front:
        said = elsewhere.run([*front, *command, elsewhere.sys.executable, "-c", script])
    assert "the kernel forbids user namespaces" in said
    assert "sysctl -w user.max_user_namespaces=15000" in said
