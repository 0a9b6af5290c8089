"""Which controllers run, which flags are refused, and aggregated cluster roles."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from apiserver.kinds import SCHEME
from controllers import app, clusterroles, registry
from controllers.clusterroles import ClusterRoleAggregationController
from controllers.flags import BadFlags, declare, to_options
from kubeclient.resources import CLUSTERROLES
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import Object
from tests.controllers.world import World

EVERY = [entry.name for entry in registry.CONTROLLERS if entry.by_default]
ALL = [entry.name for entry in registry.CONTROLLERS]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (["*"], EVERY),
        (["*", "-namespace-controller"], EVERY[1:]),
        (["*", "-namespace"], EVERY[1:]),
        (["deployment", "namespace-controller"], ["namespace-controller", "deployment-controller"]),
        (["-namespace"], []),
        (["*", "bootstrapsigner", "tokencleaner"], ALL),
        (["*", "-storage-version-gc", "-selinux-warning-controller"], EVERY),
    ],
)
def test_selection(wanted: list[str], names: list[str]) -> None:
    assert [entry.name for entry in registry.select(wanted)] == names


def test_names_are_unique_and_unknown_ones_refused(capsys: pytest.CaptureFixture[str]) -> None:
    names = ALL + [entry.alias for entry in registry.CONTROLLERS]
    names += [name for full, alias, _ in registry.REFUSED for name in (full, alias)]
    assert len(set(names)) == len(names)
    assert app.main(["--kubeconfig=/nowhere", "--controllers=*,selinux-warning"]) == 2
    assert "'selinux-warning' is not part of this manager: volumes are not" in capsys.readouterr().err
    assert app.main(["--kubeconfig=/nowhere", "--controllers=*,-no-such-controller"]) == 2
    assert "'no-such-controller' is not in the list of known controllers" in capsys.readouterr().err


def test_what_is_refused_because_its_kind_is_not_served_is_not_served() -> None:
    served = {kind.kind for kind in SCHEME}
    for _, _, why in registry.REFUSED:
        if why.endswith(" are not served"):
            kind = re.sub(r"(?<=s)es$|s$", "", why.split()[0])
            assert kind not in served, f"{kind} is served: its controller is wanted"


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "--kubeconfig is required"),
        (["--kubeconfig=x", "--allocate-node-cidrs"], "--cluster-cidr"),
        (["--kubeconfig=x", "--concurrent-gc-syncs=0"], "--concurrent-gc-syncs"),
        (["--kubeconfig=x", "--max-endpoints-per-slice=5000"], "--max-endpoints-per-slice"),
        (["--kubeconfig=x", "--tls-cert-file=a"], "--tls-private-key-file"),
        (["--kubeconfig=x", "--cluster-signing-key-file=a"], "--cluster-signing-cert-file"),
    ],
)
def test_flags_that_do_not_go_together(argv: list[str], complaint: str) -> None:
    with pytest.raises(BadFlags, match=complaint):
        to_options(declare().parse(argv))


def test_a_controller_that_lacks_its_flag_is_skipped_by_name(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("PEM")
    bare = to_options(declare().parse(["--kubeconfig=x"]))
    flags = ["--kubeconfig=x", f"--root-ca-file={ca}", "--allocate-node-cidrs", "--cluster-cidr=10.0.0.0/8"]
    flags += ["--cluster-signing-cert-file=c", "--cluster-signing-key-file=k"]
    flags += ["--service-account-private-key-file=s"]
    full = to_options(declare().parse(flags))
    lacking = {e.name: e.lacks(bare) for e in registry.CONTROLLERS if e.lacks(bare)}
    assert lacking == {
        "root-ca-certificate-publisher-controller": "--root-ca-file",
        "node-ipam-controller": "--allocate-node-cidrs",
        "serviceaccount-token-controller": "--service-account-private-key-file",
        "certificatesigningrequest-signing-controller": "--cluster-signing-cert-file",
    }
    assert not [e.name for e in registry.CONTROLLERS if e.lacks(full)]
    assert full.root_ca_pem == "PEM"


def role(name: str, labels: dict[str, str], *verbs: str) -> Object:
    rules = [{"verbs": [verb], "resources": ["pods"], "apiGroups": [""]} for verb in verbs]
    return {"metadata": make.meta(name, "", labels=labels), "rules": rules}


def aggregated(name: str, label: str) -> Object:
    rule = {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}
    return {**role(name, {label: "true"}), "aggregationRule": rule}


def test_aggregated_roles_hold_each_selected_rule_once_and_never_their_own() -> None:
    admin = aggregated("admin", "to-admin")
    admin["rules"] = [{"verbs": ["stale"]}]
    others = [
        role("b", {"to-admin": "true"}, "get", "list"),
        role("a", {"to-admin": "true"}, "get"),
        role("c", {}, "delete"),
    ]
    assert [r["verbs"] for r in clusterroles.compute_rules(admin, [admin, *others])] == [["get"], ["list"]]


def test_a_new_role_reaches_the_aggregated_one() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(CLUSTERROLES, aggregated("admin", "to-admin"))
        async with world.running(ClusterRoleAggregationController):
            await world.settle()
            world.api.put(CLUSTERROLES, role("extra", {"to-admin": "true"}, "watch"))
            await world.settle()
            found = world.api.get(CLUSTERROLES, "admin")
            assert found is not None and [r["verbs"] for r in found["rules"]] == [["watch"]]
            world.api.drop(CLUSTERROLES, "extra")
            await world.settle()
            found = world.api.get(CLUSTERROLES, "admin")
            assert found is not None and found["rules"] == []

    run(scenario())
