"""The flags of `python -m apiserver`, every one the real kube-apiserver's, and what they mean together."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from componentbase.flags import Flags
from componentbase.version import GIT_VERSION

AUTHORIZATION_MODES = ("Node", "RBAC", "AlwaysAllow", "AlwaysDeny")


def flags() -> Flags:
    out = Flags("kube-apiserver", "Serves the Kubernetes API from etcd.", version=f"Kubernetes {GIT_VERSION}")
    _serving(out)
    _store(out)
    _identity(out)
    out.strings(
        "authorization-mode", ["AlwaysAllow"], f"Authorizers in order: {', '.join(AUTHORIZATION_MODES)}."
    )
    out.strings(
        "enable-admission-plugins", [], "Admission plugins to enable in addition to the default ones."
    )
    out.strings("disable-admission-plugins", [], "Default admission plugins to disable.")
    out.string("service-cluster-ip-range", "10.0.0.0/24", "CIDR that cluster IPs are taken from.")
    out.string("service-node-port-range", "30000-32767", "Ports that NodePorts are taken from.")
    out.boolean("allow-privileged", False, "Allow privileged containers.")
    out.string(
        "endpoint-reconciler-type",
        "lease",
        "How the kubernetes Service finds its apiservers.",
        choices=("lease", "none"),
    )
    out.integer("max-requests-inflight", 400, "Most reads executing at once.")
    out.integer("max-mutating-requests-inflight", 200, "Most writes executing at once.")
    out.string("audit-log-path", "", "File to log requests to as JSON lines; '-' is standard output.")
    out.duration("event-ttl", "1h", "How long events are kept.")
    out.integer("v", 0, "Log verbosity.")
    return out


def _serving(out: Flags) -> None:
    out.string("advertise-address", "", "Address others reach this server at.")
    out.string("bind-address", "0.0.0.0", "Address to listen on.")
    out.integer("secure-port", 6443, "Port to listen on.")
    out.string("tls-cert-file", "", "Serving certificate.")
    out.string("tls-private-key-file", "", "Its private key.")
    out.string("kubelet-certificate-authority", "", "CA of the kubelets' serving certificates.")
    out.string("kubelet-client-certificate", "", "Client certificate for kubelets.")
    out.string("kubelet-client-key", "", "Its private key.")
    out.strings(
        "kubelet-preferred-address-types",
        ["Hostname", "InternalDNS", "InternalIP"],
        "Which node address to dial.",
    )
    out.duration("shutdown-delay-duration", 0.0, "How long to go on serving after readyz has begun to fail.")


def _store(out: Flags) -> None:
    out.strings("etcd-servers", [], "URLs of the store's members.")
    out.string("etcd-cafile", "", "CA of the members' certificates.")
    out.string("etcd-certfile", "", "Client certificate for the store.")
    out.string("etcd-keyfile", "", "Its private key.")
    out.string(
        "etcd-prefix",
        "/registry",
        "Prefix of all keys; /registry is the one supported.",
        choices=("/registry",),
    )
    out.string(
        "storage-media-type", "application/json", "Encoding in the store.", choices=("application/json",)
    )
    out.string("encryption-provider-config", "", "EncryptionConfiguration file.")
    out.duration("etcd-compaction-interval", "5m", "How often history is compacted; 0 turns it off.")


def _identity(out: Flags) -> None:
    out.string("client-ca-file", "", "CA whose client certificates are users.")
    out.string("requestheader-client-ca-file", "", "CA whose clients may name users in headers.")
    out.strings("requestheader-allowed-names", [], "Common names of those clients; empty allows all.")
    out.strings("requestheader-username-headers", ["X-Remote-User"], "Headers that name the user.")
    out.strings("requestheader-group-headers", ["X-Remote-Group"], "Headers that name groups.")
    out.strings(
        "requestheader-extra-headers-prefix",
        ["X-Remote-Extra-"],
        "Prefixes of headers of further attributes.",
    )
    out.string("proxy-client-cert-file", "", "Certificate shown to extension API servers (front proxy).")
    out.string("proxy-client-key-file", "", "Its private key.")
    out.boolean(
        "enable-aggregator-routing",
        True,
        "Extension API servers are reached at their endpoints; false is not supported, since this host has "
        "no service network.",
    )
    out.strings(
        "service-account-issuer", [], "Issuer of service-account tokens; the first signs, all are accepted."
    )
    out.strings("service-account-key-file", [], "Public keys that verify tokens.")
    out.string("service-account-signing-key-file", "", "Private key that signs tokens.")
    out.strings("api-audiences", [], "Audiences tokens must have; default: the issuers.")
    out.duration("service-account-max-token-expiration", 0.0, "Longest life of a token; 0 sets no bound.")
    out.boolean(
        "anonymous-auth", True, "Callers without identity are system:anonymous; RBAC says what they may."
    )


def check(values: Any) -> list[str]:
    """What is wrong with the flags taken together, each naming its flag."""
    wrong = [
        f"--{name} must be specified"
        for name in ("etcd-servers", "tls-cert-file", "tls-private-key-file")
        if not getattr(values, name.replace("-", "_"))
    ]
    wrong += [
        f"--authorization-mode: unknown mode {mode!r}"
        for mode in values.authorization_mode
        if mode not in AUTHORIZATION_MODES
    ]
    wrong += _range_flaws(values)
    if values.service_account_signing_key_file and not values.service_account_issuer:
        wrong.append("--service-account-issuer must be specified with --service-account-signing-key-file")
    for cert, key in (
        ("kubelet-client-certificate", "kubelet-client-key"),
        ("proxy-client-cert-file", "proxy-client-key-file"),
    ):
        if bool(getattr(values, cert.replace("-", "_"))) != bool(getattr(values, key.replace("-", "_"))):
            wrong.append(f"--{cert} and --{key} go together")
    if not values.enable_aggregator_routing:
        wrong.append("--enable-aggregator-routing=false is not supported")
    return wrong


def _range_flaws(values: Any) -> list[str]:
    wrong = []
    try:
        ipaddress.ip_network(values.service_cluster_ip_range)
    except ValueError as error:
        wrong.append(f"--service-cluster-ip-range: {error}")
    try:
        node_ports(values.service_node_port_range)
    except ValueError as error:
        wrong.append(f"--service-node-port-range: {error}")
    return wrong


def node_ports(text: str) -> range:
    """`30000-32767` (both ends included) or `30000+2767`."""
    for separator, total in (("-", False), ("+", True)):
        first, found, last = text.partition(separator)
        if found:
            start, end = int(first), int(first) + int(last) if total else int(last)
            if not 0 < start <= end < 65536:
                raise ValueError(f"{text!r} is not a range of ports")
            return range(start, end + 1)
    raise ValueError(f"{text!r} is not a range of ports")


def parse(argv: Sequence[str]) -> Any:
    return flags().parse(argv)
