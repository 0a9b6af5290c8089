"""The command line: metrics-server's own flags, and the leader election of the other daemons."""

from __future__ import annotations

import ipaddress

from componentbase.flags import Flags, Values

AGENT = "metrics-server"
ADDRESS_TYPES = ["Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"]
MINIMUM_RESOLUTION = 10.0  # seconds; kubelets do not look at containers much more often


def declare() -> Flags:
    """Every flag this server knows; any other is refused by name."""
    flags = Flags(AGENT, "Serves what nodes and pods use as metrics.k8s.io.")
    flags.string("kubeconfig", "", "Path to the kubeconfig; in a pod its service account serves.")
    flags.string("bind-address", "0.0.0.0", "Address of the secure port.")
    flags.integer("secure-port", 443, "Port of the API, health and metrics.")
    flags.string("tls-cert-file", "", "Serving certificate; one is made in memory when absent.")
    flags.string("tls-private-key-file", "", "Its key.")
    flags.duration("metric-resolution", "1m", "Time between two rounds of scrapes, at least 10s.")
    flags.boolean("kubelet-insecure-tls", False, "Do not verify kubelets' certificates.")
    flags.string("kubelet-certificate-authority", "", "CA of kubelets' certificates; else the cluster's.")
    flags.string("kubelet-client-certificate", "", "Client certificate for kubelets; else the kubeconfig's.")
    flags.string("kubelet-client-key", "", "Its key.")
    flags.boolean("kubelet-use-node-status-port", False, "Take kubelets' port from nodes' status.")
    flags.integer("kubelet-port", 10250, "Port of kubelets, unless it is taken from nodes' status.")
    flags.strings("kubelet-preferred-address-types", ADDRESS_TYPES, "Types of nodes' addresses, best first.")
    flags.duration("kubelet-request-timeout", "10s", "How long a kubelet may take to answer.")
    _declare_election(flags)
    flags.integer("v", 0, "Log verbosity.", short="v")
    return flags


def _declare_election(flags: Flags) -> None:
    """Not the real one's, of which a cluster runs one: these are what the other daemons call them."""
    flags.boolean("leader-elect", False, "Scrape, and be the Service's endpoint, only with the lease.")
    flags.duration("leader-elect-lease-duration", "15s", "How long others wait for a silent leader.")
    flags.duration("leader-elect-renew-deadline", "10s", "How long a leader tries to renew.")
    flags.duration("leader-elect-retry-period", "2s", "Time between attempts.")
    flags.string("leader-elect-resource-lock", "leases", "Kind of lock.", choices=("leases",))
    flags.string("leader-elect-resource-name", AGENT, "Name of the lease, and of the Service led to.")
    flags.string("leader-elect-resource-namespace", "kube-system", "Namespace of both.")


def complaint(values: Values) -> str | None:
    """Why the flags cannot be used, if they cannot. Pure."""
    if values.metric_resolution < MINIMUM_RESOLUTION:
        return f"--metric-resolution must be at least {MINIMUM_RESOLUTION:g}s"
    if values.kubelet_request_timeout > values.metric_resolution * 0.9:
        return "--kubelet-request-timeout must be shorter than nine tenths of --metric-resolution"
    for one, other in (
        ("tls_cert_file", "tls_private_key_file"),
        ("kubelet_client_certificate", "kubelet_client_key"),
    ):
        if bool(getattr(values, one)) != bool(getattr(values, other)):
            return f"--{one} and --{other} go together".replace("_", "-")
    if values.leader_elect and not _reachable(values.bind_address):
        return "--leader-elect needs the address that others reach as --bind-address"
    return None


def _reachable(address: str) -> bool:
    """Whether an endpoint may have the address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (parsed.is_unspecified or parsed.is_loopback or parsed.is_link_local or parsed.is_multicast)
