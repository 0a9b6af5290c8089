"""The iptables back end: names, shares, and the text that is sent to the kernel."""

from __future__ import annotations

from typing import Any

import pytest

from kubeproxy import iptables, rules
from kubeproxy.compiler import Settings
from kubeproxy.iptables_compiler import assemble, chain_name, compile_port
from kubeproxy.model import Endpoint, ServicePort, service_ports
from kubeproxy.rules import Chain, RuleSet
from kubeproxy.trace import Packet, Tracer
from tests.kubeproxy.objects import endpoint, service, slice_of

SETTINGS = Settings(cluster_cidrs=("10.200.0.0/16",))
A, B = endpoint("10.200.0.5", "node-a"), endpoint("10.200.1.6", "node-b")


def compiled(*services: tuple[Any, Any]) -> RuleSet:
    ports = [port for svc, each in services for port in service_ports(svc, [each], "node-a")]
    return assemble([compile_port(port, SETTINGS) for port in ports], SETTINGS)


WEB = (service(), slice_of("web", A, B))
OTHER = (service("other", ip="10.32.0.11"), slice_of("other", A))


def test_chains_are_named_as_kube_proxy_names_them() -> None:
    # Known from clusters everywhere: the service `kubernetes` of the namespace `default`.
    port = ServicePort("default", "kubernetes", "https", "tcp", 443)
    assert chain_name("SVC", port) == "nat/KUBE-SVC-NPX46M4PTMTKRN6Y"
    assert chain_name("SEP", port, Endpoint("10.0.0.1", 6443)).startswith("nat/KUBE-SEP-")


def test_every_endpoint_gets_its_share() -> None:
    chosen = compiled((service(), slice_of("web", *(endpoint(f"10.200.0.{n}") for n in range(2, 6)))))
    shares: dict[str, float] = {}
    # Taking the n-th decision after refusing the ones before it: 1/4, 3/4*1/3, 3/4*2/3*1/2, the rest.
    for refusals, share in enumerate((1 / 4, 3 / 4 / 3, 3 / 4 * 2 / 3 / 2, 3 / 4 * 2 / 3 / 2)):
        decisions = iter([1] * refusals + [0])
        asked: list[int] = []

        def choose(count: int, decisions: Any = decisions, asked: list[int] = asked) -> int:
            asked.append(count)
            return int(next(decisions))

        reached = Tracer(chosen, choose=choose).send(Packet("10.200.0.9", "10.32.0.10", 80)).destination[0]
        shares[reached] = round(share, 9)
        assert asked == [4, 3, 2][: refusals + 1]
    assert shares == {f"10.200.0.{n}": 0.25 for n in range(2, 6)}


def test_nothing_is_sent_when_nothing_changed() -> None:
    assert iptables.restore(compiled(WEB).chains, compiled(WEB).chains) == ""


def test_a_change_of_one_service_leaves_the_chains_of_others_alone() -> None:
    before = compiled(WEB, OTHER)
    after = compiled((service(), slice_of("web", A)), OTHER)
    text = iptables.restore(before.chains, after.chains)
    other = chain_name("SVC", service_ports(*(OTHER[0], [OTHER[1]]), "node-a")[0]).partition("/")[2]
    assert other not in text
    assert "KUBE-SERVICES" not in text
    assert text.count("-X KUBE-SEP-") == 1
    assert text.startswith("*nat\n:")
    assert text.endswith("COMMIT\n")


def test_chains_are_emptied_before_they_go() -> None:
    lines = iptables.restore(compiled(WEB).chains, compiled().chains).splitlines()
    gone = [line.split()[1] for line in lines if line.startswith("-X ")]
    assert len(gone) == 3
    assert all(f":{name} - [0:0]" in lines for name in gone)
    assert max(lines.index(f":{name} - [0:0]") for name in gone) < min(lines.index(f"-X {n}") for n in gone)


def test_only_our_chains_are_found_in_what_is_there() -> None:
    saved = """# Generated
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SEP-ABC - [0:0]
-A PREROUTING -j KUBE-SERVICES
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
COMMIT
"""
    assert set(iptables.ours(saved)) == {
        "nat/KUBE-SERVICES",
        "nat/KUBE-SEP-ABC",
        "filter/KUBE-EXTERNAL-SERVICES",
    }


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (
            rules.Rule((rules.SourceIn(("10.0.0.0/8",), negate=True), rules.OneIn(3)), rules.Drop(), "why"),
            "! -s 10.0.0.0/8 -m statistic --mode random --probability 0.3333333333 "
            '-m comment --comment "why" -j DROP',
        ),
        (
            rules.Rule((rules.DestinationPort("udp", 53),), rules.Dnat("10.200.0.5", 5353)),
            "-p udp -m udp --dport 53 -j DNAT --to-destination 10.200.0.5:5353",
        ),
        (
            rules.Rule((rules.SeenWithin("KUBE-SEP-X", 60),), rules.Jump("nat/KUBE-SEP-X")),
            "-m recent --name KUBE-SEP-X --rcheck --seconds 60 --reap -j KUBE-SEP-X",
        ),
        (rules.Rule((rules.Marked(),), rules.Return()), "-m mark --mark 0x4000/0x4000 -j RETURN"),
    ],
)
def test_rules_as_text(rule: rules.Rule, text: str) -> None:
    assert iptables.render_rule(rule) == text


def test_what_iptables_cannot_do_is_refused_by_name() -> None:
    with pytest.raises(NotImplementedError, match="Lookup"):
        iptables.restore({}, {"nat/X": Chain((rules.Rule((), rules.Lookup("m")),))})
