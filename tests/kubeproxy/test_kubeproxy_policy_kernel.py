"""Real packets against real policies, in the namespaces of the service tests."""

from __future__ import annotations

import itertools
import os
import shutil
from typing import Any

import pytest

from kubeproxy import nftables
from kubeproxy.policy import TABLE, Pod, compile_policies
from tests.kubeproxy.test_kubeproxy_kernel import CLIENT_IP, POD_ONE, Lab, lab
from tests.kubeproxy.test_kubeproxy_policy import app, policy

__all__ = ["lab"]
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft (package nftables)"),
    pytest.mark.parametrize("lab", ["nftables"], indirect=True),
]

ONE = Pod("shop", "one", POD_ONE, {"app": "web"}, "node", (("http", "tcp", 8080),))
CLIENT = Pod("shop", "client", CLIENT_IP, {"app": "front"}, "elsewhere")


def program(lab: Lab, *policies: Any) -> None:
    rules = compile_policies(policies, [ONE, CLIENT], {"shop": {}}, "node")
    lab.inside("node", "nft", "-f", "-", stdin=nftables.full(rules, table=TABLE))


def reaches(lab: Lab, kind: str = "tcp", port: int = 8080) -> bool:
    (answer,) = lab.ask("client", POD_ONE, port, kind)
    return answer.startswith("one ")


def test_ingress(lab: Lab) -> None:
    program(lab)
    assert reaches(lab)
    program(lab, policy("web"))
    assert not reaches(lab)
    assert lab.ask("node", POD_ONE, 8080)[0].startswith("one "), "a node always reaches its pods"
    program(lab, policy("web", ingress=[{"from": [app("front")], "ports": [{"port": "http"}]}]))
    assert reaches(lab)
    assert not reaches(lab, "udp")
    program(lab, policy("web", ingress=[{"ports": [{"port": 8000, "endPort": 8080, "protocol": "UDP"}]}]))
    assert reaches(lab, "udp")
    program(
        lab,
        policy(
            "web", ingress=[{"from": [{"ipBlock": {"cidr": "10.240.0.0/16", "except": [f"{CLIENT_IP}/32"]}}]}]
        ),
    )
    assert not reaches(lab)


def test_answers_to_what_was_let_in_are_not_egress(lab: Lab) -> None:
    program(lab, policy("web", policyTypes=["Ingress", "Egress"], ingress=[{}]))
    assert reaches(lab)
    assert lab.ask("one", CLIENT_IP, 9999) == ["TimeoutError"]
    program(lab, policy("web", policyTypes=["Egress"], egress=[{"to": [app("front")]}]))
    assert lab.ask("one", CLIENT_IP, 9999) == ["ConnectionRefusedError"]


def test_the_kernel_accepts_every_change(lab: Lab) -> None:
    states = [
        (),
        (policy("web"),),
        (
            policy(
                "web", ingress=[{"from": [app("front")], "ports": [{"port": "http"}, {"protocol": "UDP"}]}]
            ),
        ),
        (policy("web", egress=[{"ports": [{"port": 53, "protocol": "UDP"}]}]), policy(name="q")),
        (),
    ]
    sets = [compile_policies(each, [ONE, CLIENT], {"shop": {}}, "node") for each in states]
    program(lab)
    for old, new in itertools.pairwise(sets):
        lab.inside("node", "nft", "-f", "-", stdin=nftables.update(old, new, table=TABLE) or "#\n")
    after = lab.inside("node", "nft", "list", "table", *TABLE.split())
    program(lab)
    assert after == lab.inside("node", "nft", "list", "table", *TABLE.split())
