"""The manager's command line: the real kube-controller-manager's flags, and what they become."""

from __future__ import annotations

from pathlib import Path

from componentbase.flags import Flags, Values
from controllers.options import Options

DEFAULTS = Options()


def declare() -> Flags:
    """Every flag this manager knows; any other is refused by name."""
    flags = Flags("kube-controller-manager", "Runs the control loops of the cluster.")
    _declare_manager(flags)
    _declare_serving(flags)
    _declare_concurrency(flags)
    _declare_signing(flags)
    _declare_autoscaling(flags)
    _declare_nodes(flags)
    return flags


def _declare_manager(flags: Flags) -> None:
    flags.string("kubeconfig", "", "Path to the kubeconfig of the manager.")
    flags.strings("controllers", ["*"], "Controllers to run: '*', 'foo', '-foo'.")
    flags.boolean("use-service-account-credentials", False, "Give each controller its own service account.")
    flags.boolean("leader-elect", True, "Run the loops only while holding the lease.")
    flags.duration("leader-elect-lease-duration", "15s", "How long others wait for a silent leader.")
    flags.duration("leader-elect-renew-deadline", "10s", "How long a leader tries to renew.")
    flags.duration("leader-elect-retry-period", "2s", "Time between attempts.")
    flags.string("leader-elect-resource-lock", "leases", "Kind of lock.", choices=("leases",))
    flags.string("leader-elect-resource-name", "kube-controller-manager", "Name of the lease.")
    flags.string("leader-elect-resource-namespace", "kube-system", "Namespace of the lease.")
    flags.number("kube-api-qps", 0.0, "Requests per second to the API; 0 means no limit.")
    flags.integer("kube-api-burst", 30, "Requests at once when --kube-api-qps is set.")
    flags.string("root-ca-file", "", "CA bundle published to every namespace.")
    flags.integer("v", 0, "Log verbosity.", short="v")


def _declare_serving(flags: Flags) -> None:
    flags.string("bind-address", "0.0.0.0", "Address of the secure port.")
    flags.integer("secure-port", 10257, "Port of health and metrics; 0 serves neither.")
    flags.string("tls-cert-file", "", "Serving certificate; one is made in memory when absent.")
    flags.string("tls-private-key-file", "", "Its key.")
    flags.string("client-ca-file", "", "CA of client certificates that may read /metrics.")


def _declare_signing(flags: Flags) -> None:
    flags.string("cluster-signing-cert-file", "", "CA certificate that signs approved requests.")
    flags.string("cluster-signing-key-file", "", "Its key.")
    flags.duration("cluster-signing-duration", "8760h", "Longest life of a signed certificate.")
    flags.string("service-account-private-key-file", "", "Key that signs tokens in Secrets.")
    flags.duration("legacy-service-account-token-clean-up-period", "8760h", "How long a token may be unused.")


def _declare_concurrency(flags: Flags) -> None:
    flags.integer("concurrent-replicaset-syncs", DEFAULTS.concurrent_replicaset_syncs, "Workers.")
    flags.integer("concurrent-rc-syncs", DEFAULTS.concurrent_rc_syncs, "Workers.")
    flags.integer("concurrent-deployment-syncs", DEFAULTS.concurrent_deployment_syncs, "Workers.")
    flags.integer("concurrent-daemonset-syncs", DEFAULTS.concurrent_daemonset_syncs, "Workers.")
    flags.integer("concurrent-statefulset-syncs", DEFAULTS.concurrent_statefulset_syncs, "Workers.")
    flags.integer("concurrent-job-syncs", DEFAULTS.concurrent_job_syncs, "Workers.")
    flags.integer("concurrent-cron-job-syncs", DEFAULTS.concurrent_cron_job_syncs, "Workers.")
    flags.integer(
        "concurrent-ttl-after-finished-syncs", DEFAULTS.concurrent_ttl_after_finished_syncs, "Workers."
    )
    flags.integer("concurrent-resource-quota-syncs", DEFAULTS.concurrent_resource_quota_syncs, "Workers.")
    flags.duration("resource-quota-sync-period", "5m", "Longest time between looks at a quota.")
    flags.integer(
        "concurrent-serviceaccount-token-syncs", DEFAULTS.concurrent_serviceaccount_token_syncs, "Workers."
    )
    syncs = DEFAULTS.mirroring_concurrent_service_endpoint_syncs
    flags.integer("mirroring-concurrent-service-endpoint-syncs", syncs, "Workers.")
    most = DEFAULTS.mirroring_max_endpoints_per_subset
    flags.integer("mirroring-max-endpoints-per-subset", most, "1 to 1000.")
    flags.integer("concurrent-endpoint-syncs", DEFAULTS.concurrent_endpoint_syncs, "Workers.")
    flags.integer("concurrent-service-endpoint-syncs", DEFAULTS.concurrent_service_endpoint_syncs, "Workers.")
    flags.integer("concurrent-namespace-syncs", DEFAULTS.concurrent_namespace_syncs, "Workers.")
    flags.integer("concurrent-gc-syncs", DEFAULTS.concurrent_gc_syncs, "Workers.")
    flags.integer("concurrent-ephemeralvolume-syncs", DEFAULTS.concurrent_ephemeralvolume_syncs, "Workers.")
    flags.duration("pvclaimbinder-sync-period", "15s", "Longest time between looks at a pending claim.")
    flags.integer("max-endpoints-per-slice", DEFAULTS.max_endpoints_per_slice, "1 to 1000.")
    flags.integer("terminated-pod-gc-threshold", DEFAULTS.terminated_pod_gc_threshold, "<= 0 keeps all.")


def _declare_autoscaling(flags: Flags) -> None:
    syncs = DEFAULTS.concurrent_horizontal_pod_autoscaler_syncs
    flags.integer("concurrent-horizontal-pod-autoscaler-syncs", syncs, "Workers.")
    prefix = "horizontal-pod-autoscaler"
    flags.duration(f"{prefix}-sync-period", "15s", "Time between looks at the metrics.")
    flags.duration(f"{prefix}-downscale-stabilization", "5m", "How long a high recommendation holds.")
    flags.number(f"{prefix}-tolerance", DEFAULTS.horizontal_pod_autoscaler_tolerance, "Ignored deviation.")
    flags.duration(f"{prefix}-cpu-initialization-period", "5m", "Start-up whose cpu samples may be skipped.")
    flags.duration(f"{prefix}-initial-readiness-delay", "30s", "Readiness in it counts as the first.")


def _declare_nodes(flags: Flags) -> None:
    flags.duration("node-monitor-period", DEFAULTS.node_monitor_period, "Time between looks at nodes.")
    flags.duration("node-monitor-grace-period", DEFAULTS.node_monitor_grace_period, "Silence that is borne.")
    flags.duration("node-startup-grace-period", DEFAULTS.node_startup_grace_period, "The same at start-up.")
    flags.number("node-eviction-rate", DEFAULTS.node_eviction_rate, "Nodes per second in a healthy zone.")
    flags.number(
        "secondary-node-eviction-rate", DEFAULTS.secondary_node_eviction_rate, "In an unhealthy one."
    )
    flags.integer(
        "large-cluster-size-threshold", DEFAULTS.large_cluster_size_threshold, "Nodes of a large zone."
    )
    flags.number("unhealthy-zone-threshold", DEFAULTS.unhealthy_zone_threshold, "Share of nodes not ready.")
    flags.boolean("allocate-node-cidrs", False, "Give every node a pod CIDR.")
    flags.string("cluster-cidr", "", "CIDR of all pods.")
    flags.string("service-cluster-ip-range", "", "CIDR of Services, which no node gets.")
    flags.integer("node-cidr-mask-size", DEFAULTS.node_cidr_mask_size, "Prefix length of a node's pod CIDR.")
    flags.string("cluster-name", DEFAULTS.cluster_name, "Prefix of what is made in the cloud.")
    flags.string("cloud-provider", "", "Who looks after the cloud.", choices=("", "external"))


class BadFlags(ValueError):
    """Flags that do not go together; the message names them."""


def to_options(values: Values) -> Options:
    """What the controllers need. Raises BadFlags, OSError (a file that cannot be read)."""
    given = values.as_dict()
    if not values.kubeconfig:
        raise BadFlags("--kubeconfig is required")
    if values.allocate_node_cidrs and not values.cluster_cidr:
        raise BadFlags("--allocate-node-cidrs needs --cluster-cidr")
    if not 1 <= values.max_endpoints_per_slice <= 1000:
        raise BadFlags("--max-endpoints-per-slice must be between 1 and 1000")
    if not 1 <= values.mirroring_max_endpoints_per_subset <= 1000:
        raise BadFlags("--mirroring-max-endpoints-per-subset must be between 1 and 1000")
    for name, value in given.items():
        if name.startswith(("concurrent_", "mirroring_concurrent_")) and value < 1:
            raise BadFlags(f"--{name.replace('_', '-')} must be at least 1")
    if bool(values.tls_cert_file) != bool(values.tls_private_key_file):
        raise BadFlags("--tls-cert-file and --tls-private-key-file go together")
    if bool(values.cluster_signing_cert_file) != bool(values.cluster_signing_key_file):
        raise BadFlags("--cluster-signing-cert-file and --cluster-signing-key-file go together")
    if values.legacy_service_account_token_clean_up_period <= 0:
        raise BadFlags("--legacy-service-account-token-clean-up-period must be longer than nothing")
    ca = Path(values.root_ca_file).read_text() if values.root_ca_file else ""
    known = {name: given[name] for name in Options.__dataclass_fields__ if name in given}
    return Options(**known, root_ca_pem=ca)
