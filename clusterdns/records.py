"""What the cluster's names mean: the DNS specification for Kubernetes (version 1.1.0) as a function. Pure.

`resolve` looks a question up in a `View` of Services and EndpointSlices; nothing is built in advance, so an
answer is never older than the view. Names are tuples of lower-case labels, most specific first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple, Protocol

Object = dict[str, Any]
Name = tuple[str, ...]

SPEC_VERSION = "1.1.0"
DEFAULT_TTL = 5
"""Seconds; CoreDNS' default for cluster names, and its SOA's minimum."""

MAX_CNAMES = 8
"""Links of a chain of CNAMEs that are followed; more is a loop."""


class View(Protocol):
    """What the records are read from."""

    def service(self, namespace: str, name: str) -> Object | None: ...

    def slices(self, namespace: str, name: str) -> Iterable[Object]: ...

    def has_namespace(self, namespace: str) -> bool: ...

    def services_at(self, ip: str) -> Iterable[Object]:
        """Services whose cluster IP this is."""
        ...

    def slices_at(self, ip: str) -> Iterable[Object]:
        """EndpointSlices with an endpoint of this address."""
        ...


class Srv(NamedTuple):
    priority: int
    weight: int
    port: int
    target: str


class Soa(NamedTuple):
    primary: str
    mailbox: str
    serial: int
    refresh: int
    retry: int
    expire: int
    minimum: int


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record. `data` is text (A, AAAA, CNAME, PTR, NS, TXT), an Srv or a Soa."""

    name: str
    type: str
    data: str | Srv | Soa
    ttl: int = DEFAULT_TTL


class Status(Enum):
    """NOT_OURS: the name belongs to no zone of this server."""

    FOUND = "NOERROR"
    NO_SUCH_NAME = "NXDOMAIN"
    NOT_OURS = "NOTZONE"


@dataclass(frozen=True, slots=True)
class Answer:
    """`answers` empty with FOUND is NODATA: the name exists, but not with the type asked for."""

    status: Status
    answers: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()


class _Endpoint(NamedTuple):
    ip: str
    hostname: str
    ports: tuple[tuple[str, str, int], ...]


class Records:
    """Answers for one cluster domain, such as `cluster.local`."""

    def __init__(self, view: View, domain: str = "cluster.local", *, ttl: int = DEFAULT_TTL) -> None:
        self._view = view
        self._domain: Name = tuple(domain.strip(".").lower().split("."))
        self._zone = ".".join(self._domain)
        self._ttl = ttl

    def resolve(self, name: str, kind: str, *, serial: int = 0) -> Answer:
        """The answer to a question; `kind` is a type such as A or SRV, `serial` what the SOA shows."""
        labels: Name = tuple(name.rstrip(".").lower().split("."))
        if labels[-len(self._domain) :] == self._domain:
            return self._in_zone(name.rstrip("."), labels[: -len(self._domain)], kind, serial)
        if kind == "PTR" and (ip := reverse_address(labels)):
            found = tuple(self._record(name.rstrip("."), "PTR", target) for target in self._names_of(ip))
            if found:
                return Answer(Status.FOUND, found)
        return Answer(Status.NOT_OURS)

    def follow(self, answer: Answer, kind: str) -> tuple[Answer, str]:
        """Go on from an answer that is a CNAME as long as its target is one of our names; the answer with all
        that was found, and the target that is somebody else's, or "".
        """
        for _ in range(MAX_CNAMES):
            last = answer.answers[-1] if answer.answers else None
            if last is None or last.type != "CNAME" or kind not in ("A", "AAAA"):
                return answer, ""
            more = self.resolve(str(last.data), kind)
            if more.status is Status.NOT_OURS:
                return answer, str(last.data)
            answer = replace(more, answers=(*answer.answers, *more.answers))
            if not more.answers:
                return answer, ""
        return answer, ""

    def _in_zone(self, name: str, labels: Name, kind: str, serial: int) -> Answer:
        found = self._lookup(name, labels, kind, serial)
        soa = (self._soa(serial),)
        if found is None:
            return Answer(Status.NO_SUCH_NAME, authority=soa)
        answers = tuple(found)
        if not answers:
            return Answer(Status.FOUND, authority=soa)
        return Answer(Status.FOUND, answers, additional=tuple(self._glue(answers)))

    def _lookup(self, name: str, labels: Name, kind: str, serial: int) -> Iterable[Record] | None:
        """The records of a name below the zone; None when there is no such name."""
        match labels:
            case ():
                return self._apex(kind, serial)
            case ("dns-version",):
                return [self._record(name, "TXT", SPEC_VERSION)] if kind == "TXT" else []
            case ("ns", "dns") | ("dns",) | ("svc",) | ("pod",):
                return []
            case (*_, namespace, ("svc" | "pod")) if not self._view.has_namespace(namespace):
                return None
            case (_, "svc") | (_, "pod"):
                return []
            case (dashed, _, "pod"):
                return self._pod(name, dashed, kind)
            case (*rest, service, namespace, "svc"):
                return self._service(name, tuple(rest), service, namespace, kind)
        return None

    def _apex(self, kind: str, serial: int) -> list[Record]:
        if kind == "SOA":
            return [self._soa(serial)]
        return [self._record(self._zone, "NS", f"ns.dns.{self._zone}")] if kind == "NS" else []

    def _soa(self, serial: int) -> Record:
        data = Soa(f"ns.dns.{self._zone}", f"hostmaster.{self._zone}", serial, 7200, 1800, 86400, self._ttl)
        return self._record(self._zone, "SOA", data)

    def _pod(self, name: str, dashed: str, kind: str) -> list[Record] | None:
        """`10-200-0-5.<namespace>.pod`: the address is in the name itself."""
        ip = _undashed(dashed)
        return None if ip is None else self._addresses(name, [ip], kind)

    def _service(
        self, name: str, rest: Name, service_name: str, namespace: str, kind: str
    ) -> list[Record] | None:
        service = self._view.service(namespace, service_name)
        if service is None:
            return None
        spec = service["spec"]
        if spec.get("type") == "ExternalName":
            return None if rest else [self._record(name, "CNAME", str(spec["externalName"]).rstrip("."))]
        headless = spec.get("clusterIP") == "None"
        endpoints = list(self._endpoints(namespace, service_name)) if headless else []
        if not rest:
            if headless and not endpoints:
                # CoreDNS: a headless service that nobody serves has no name.
                return None
            addresses = [each.ip for each in endpoints] if headless else _cluster_ips(spec)
            if kind == "SRV":
                return self._srv(name, service, endpoints, None)
            return self._addresses(name, addresses, kind)
        if len(rest) == 2 and rest[0].startswith("_") and rest[1].startswith("_"):
            return self._named_port(name, rest, service, endpoints, kind)
        if len(rest) == 1 and headless:
            matching = [each for each in endpoints if rest[0] in (each.hostname, _dashed(each.ip))]
            if not matching:
                return None
            if kind == "SRV":
                return self._srv(name, service, matching, None)
            return self._addresses(name, [each.ip for each in matching], kind)
        return None

    def _named_port(
        self, name: str, rest: Name, service: Object, endpoints: list[_Endpoint], kind: str
    ) -> list[Record] | None:
        wanted = (rest[0][1:], rest[1][1:])
        records = self._srv(name, service, endpoints, wanted)
        if not records:
            return None
        return records if kind == "SRV" else []

    def _srv(
        self, name: str, service: Object, endpoints: list[_Endpoint], wanted: tuple[str, str] | None
    ) -> list[Record]:
        """SRV records: the service itself, or, headless, each endpoint under its own name."""
        base = self._service_name(service)
        targets: list[tuple[str, int]] = []
        if service["spec"].get("clusterIP") != "None":
            targets += [
                (base, int(port["port"]))
                for port in service["spec"].get("ports") or []
                if wanted in (None, ((port.get("name") or "").lower(), port.get("protocol", "TCP").lower()))
            ]
        targets += [
            (f"{_host_label(endpoint)}.{base}", number)
            for endpoint in endpoints
            for port_name, protocol, number in endpoint.ports
            if wanted in (None, (port_name, protocol))
        ]
        unique = list(dict.fromkeys(targets))
        weight = max(1, 100 // len(unique)) if unique else 0
        return [self._record(name, "SRV", Srv(0, weight, number, target)) for target, number in unique]

    def _glue(self, answers: tuple[Record, ...]) -> Iterator[Record]:
        """The addresses of SRV targets, so that a client need not ask again."""
        targets = dict.fromkeys(record.data.target for record in answers if isinstance(record.data, Srv))
        for target in targets:
            labels = tuple(target.lower().split("."))[: -len(self._domain)]
            for kind in ("A", "AAAA"):
                yield from self._lookup(target, labels, kind, 0) or ()

    def _endpoints(self, namespace: str, name: str) -> Iterator[_Endpoint]:
        for each in self._view.slices(namespace, name):
            ports = tuple(
                ((port.get("name") or "").lower(), port.get("protocol", "TCP").lower(), int(port["port"]))
                for port in each.get("ports") or []
                if port.get("port")
            )
            yield from (
                _Endpoint(address, (endpoint.get("hostname") or "").lower(), ports)
                for endpoint in each.get("endpoints") or []
                if (endpoint.get("conditions") or {}).get("ready", True) is not False
                for address in endpoint.get("addresses") or []
            )

    def _names_of(self, ip: str) -> list[str]:
        """What an address is called: the service it belongs to, or the headless services it serves."""
        names = [self._service_name(service) for service in self._view.services_at(ip)]
        for each in self._view.slices_at(ip):
            metadata = each["metadata"]
            service_name = (metadata.get("labels") or {}).get("kubernetes.io/service-name", "")
            service = self._view.service(metadata["namespace"], service_name)
            if service is None or service["spec"].get("clusterIP") != "None":
                continue
            base = self._service_name(service)
            names += [
                f"{_host_label(endpoint)}.{base}"
                for endpoint in self._endpoints(metadata["namespace"], service_name)
                if endpoint.ip == ip
            ]
        return list(dict.fromkeys(names))

    def _service_name(self, service: Object) -> str:
        metadata = service["metadata"]
        return f"{metadata['name']}.{metadata['namespace']}.svc.{self._zone}"

    def _addresses(self, name: str, addresses: Iterable[str], kind: str) -> list[Record]:
        wanted = {"A": 4, "AAAA": 6}.get(kind)
        return [
            self._record(name, kind, ip)
            for ip in dict.fromkeys(addresses)
            if ipaddress.ip_address(ip).version == wanted
        ]

    def _record(self, name: str, kind: str, data: str | Srv | Soa) -> Record:
        return Record(name, kind, data, self._ttl)


def _cluster_ips(spec: Object) -> list[str]:
    return [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip and ip != "None"]


def _host_label(endpoint: _Endpoint) -> str:
    return endpoint.hostname or _dashed(endpoint.ip)


def _dashed(ip: str) -> str:
    return ip.replace(".", "-").replace(":", "-")


def _undashed(label: str) -> str | None:
    separators = (".",) if label.count("-") == 3 else (":",)
    for separator in separators:
        try:
            return str(ipaddress.ip_address(label.replace("-", separator)))
        except ValueError:
            continue
    return None


def reverse_address(labels: Name) -> str | None:
    """The address a name below in-addr.arpa or ip6.arpa stands for; None for other or incomplete names."""
    if labels[-2:] == ("in-addr", "arpa") and len(labels) == 6:
        text = ".".join(reversed(labels[:4]))
    elif labels[-2:] == ("ip6", "arpa") and len(labels) == 34:
        digits = "".join(reversed(labels[:32]))
        text = ":".join(digits[start : start + 4] for start in range(0, 32, 4))
    else:
        return None
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
