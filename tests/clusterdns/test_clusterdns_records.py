"""The DNS specification for Kubernetes as a table of questions and answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from clusterdns.records import Answer, Record, Records, Soa, Srv, Status, reverse_address

Object = dict[str, Any]


def service(name: str, namespace: str = "default", **spec: Any) -> Object:
    return {"metadata": {"namespace": namespace, "name": name}, "spec": spec}


def endpoint(ip: str, hostname: str = "", ready: bool | None = True) -> Object:
    out: Object = {"addresses": [ip], "conditions": {} if ready is None else {"ready": ready}}
    return {**out, "hostname": hostname} if hostname else out


def slice_of(name: str, *endpoints: Object, ports: list[Object] | None = None) -> Object:
    labels = {"kubernetes.io/service-name": name}
    default = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    return {
        "metadata": {"namespace": "default", "name": f"{name}-1", "labels": labels},
        "ports": default if ports is None else ports,
        "endpoints": list(endpoints),
    }


class Fixed:
    """A view of a few objects."""

    def __init__(self, services: list[Object], slices: list[Object]) -> None:
        self._services = services
        self._slices = slices

    def service(self, namespace: str, name: str) -> Object | None:
        wanted = {"namespace": namespace, "name": name}
        return next((each for each in self._services if each["metadata"] == wanted), None)

    def slices(self, namespace: str, name: str) -> Iterable[Object]:
        labels = {"kubernetes.io/service-name": name}
        return [
            each for each in self._slices if each["metadata"]["labels"] == labels and namespace == "default"
        ]

    def has_namespace(self, namespace: str) -> bool:
        return namespace in ("default", "kube-system", "empty")

    def services_at(self, ip: str) -> Iterable[Object]:
        return [each for each in self._services if each["spec"].get("clusterIP") == ip]

    def slices_at(self, ip: str) -> Iterable[Object]:
        return [
            each
            for each in self._slices
            if any(ip in endpoint["addresses"] for endpoint in each["endpoints"])
        ]


HTTP = {"name": "http", "port": 80, "protocol": "TCP"}
VIEW = Fixed(
    [
        service(
            "kubernetes", clusterIP="10.32.0.1", ports=[{"name": "https", "port": 443, "protocol": "TCP"}]
        ),
        service("web", clusterIP="10.32.0.20", ports=[HTTP, {"name": "metrics", "port": 9090}]),
        service("dual", clusterIP="10.32.0.30", clusterIPs=["10.32.0.30", "fd00::30"], ports=[HTTP]),
        service(
            "kube-dns",
            "kube-system",
            clusterIP="10.32.0.10",
            ports=[{"name": "dns", "port": 53, "protocol": "UDP"}],
        ),
        service("db", clusterIP="None", ports=[HTTP]),
        service("lonely", clusterIP="None", ports=[HTTP]),
        service("away", type="ExternalName", externalName="example.org."),
    ],
    [
        slice_of(
            "db",
            endpoint("10.200.0.5", "db-0"),
            endpoint("10.200.1.6", ready=None),
            endpoint("10.200.1.7", ready=False),
        ),
        slice_of("web", endpoint("10.200.0.9")),
        slice_of("lonely", endpoint("10.200.0.8", ready=False)),
    ],
)
RECORDS = Records(VIEW)
ZONE = "cluster.local"


def ask(name: str, kind: str) -> Answer:
    return RECORDS.resolve(name, kind, serial=7)


def said(records: Iterable[Record]) -> list[str]:
    return [
        " ".join(map(str, each.data)) if isinstance(each.data, (Srv, Soa)) else each.data for each in records
    ]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("web.default.svc", "A", ["10.32.0.20"]),
        ("kube-dns.kube-system.svc", "A", ["10.32.0.10"]),
        ("dual.default.svc", "A", ["10.32.0.30"]),
        ("dual.default.svc", "AAAA", ["fd00::30"]),
        ("db.default.svc", "A", ["10.200.0.5", "10.200.1.6"]),
        ("db-0.db.default.svc", "A", ["10.200.0.5"]),
        ("10-200-0-5.db.default.svc", "A", ["10.200.0.5"]),
        ("10-200-1-6.db.default.svc", "A", ["10.200.1.6"]),
        ("away.default.svc", "A", ["example.org"]),
        ("away.default.svc", "CNAME", ["example.org"]),
        ("10-200-0-77.default.pod", "A", ["10.200.0.77"]),
        ("fd00--5.default.pod", "AAAA", ["fd00::5"]),
        ("_http._tcp.web.default.svc", "SRV", ["0 100 80 web.default.svc.cluster.local"]),
        ("_metrics._tcp.web.default.svc", "SRV", ["0 100 9090 web.default.svc.cluster.local"]),
        ("_dns._udp.kube-dns.kube-system.svc", "SRV", ["0 100 53 kube-dns.kube-system.svc.cluster.local"]),
        (
            "_http._tcp.db.default.svc",
            "SRV",
            [
                "0 50 8080 db-0.db.default.svc.cluster.local",
                "0 50 8080 10-200-1-6.db.default.svc.cluster.local",
            ],
        ),
        ("dns-version", "TXT", ["1.1.0"]),
    ],
)
def test_found(name: str, kind: str, expected: list[str]) -> None:
    answer = ask(f"{name}.{ZONE}", kind)
    assert (answer.status, said(answer.answers)) == (Status.FOUND, expected)
    assert {each.ttl for each in answer.answers} == {5}
    upper = ask(f"{name}.{ZONE}.".upper(), kind)
    assert said(upper.answers) == expected
    assert {each.name for each in upper.answers} == {f"{name}.{ZONE}".upper()}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("web.default.svc", "AAAA"),
        ("web.default.svc", "MX"),
        ("10-200-0-5.default.pod", "AAAA"),
        ("_http._tcp.web.default.svc", "A"),
        ("default.svc", "A"),
        ("empty.svc", "A"),
        ("svc", "A"),
        ("default.pod", "A"),
    ],
)
def test_the_name_exists_but_not_with_this_type(name: str, kind: str) -> None:
    answer = ask(f"{name}.{ZONE}", kind)
    assert (answer.status, answer.answers) == (Status.FOUND, ())
    assert said(answer.authority) == ["ns.dns.cluster.local hostmaster.cluster.local 7 7200 1800 86400 5"]


@pytest.mark.parametrize(
    "name",
    [
        "nothing.default.svc",
        "web.nowhere.svc",
        "nowhere.svc",
        "a.web.default.svc",
        "_https._tcp.web.default.svc",
        "_http._udp.web.default.svc",
        "db-9.db.default.svc",
        "10-200-1-7.db.default.svc",
        "lonely.default.svc",
        "x.away.default.svc",
        "not-an-address.default.pod",
        "10-200-0-5.nowhere.pod",
        "other",
        "web.default",
    ],
)
def test_no_such_name(name: str) -> None:
    answer = ask(f"{name}.{ZONE}", "A")
    assert answer.status is Status.NO_SUCH_NAME
    assert len(answer.authority) == 1
    assert answer.authority[0].name == ZONE


def test_srv_answers_carry_the_addresses() -> None:
    answer = ask(f"_http._tcp.db.default.svc.{ZONE}", "SRV")
    assert [(each.name, each.data) for each in answer.additional] == [
        ("db-0.db.default.svc.cluster.local", "10.200.0.5"),
        ("10-200-1-6.db.default.svc.cluster.local", "10.200.1.6"),
    ]


@pytest.mark.parametrize(
    ("ip", "names"),
    [
        ("10.32.0.20", ["web.default.svc.cluster.local"]),
        ("10.200.0.5", ["db-0.db.default.svc.cluster.local"]),
        ("10.200.1.6", ["10-200-1-6.db.default.svc.cluster.local"]),
    ],
)
def test_reverse(ip: str, names: list[str]) -> None:
    name = ".".join(reversed(ip.split("."))) + ".in-addr.arpa."
    assert said(ask(name, "PTR").answers) == names


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("example.org", "A"),
        ("9.0.200.10.in-addr.arpa", "PTR"),
        ("0.32.10.in-addr.arpa", "PTR"),
        ("xcluster.local", "A"),
        ("local", "A"),
    ],
)
def test_names_of_others(name: str, kind: str) -> None:
    assert ask(name, kind).status is Status.NOT_OURS


def test_apex() -> None:
    assert said(ask(ZONE, "SOA").answers) == [
        "ns.dns.cluster.local hostmaster.cluster.local 7 7200 1800 86400 5"
    ]
    assert said(ask(ZONE, "NS").answers) == ["ns.dns.cluster.local"]


def test_reverse_names_of_version_six() -> None:
    digits = "0" * 31 + "1"
    name = ".".join(reversed(digits)) + ".ip6.arpa"
    assert reverse_address(tuple(name.split("."))) == "::1"
    assert reverse_address(("x", "1", "1", "1", "in-addr", "arpa")) is None
