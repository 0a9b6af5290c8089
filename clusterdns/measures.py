"""The server's metrics, under the names CoreDNS gives them, so that its dashboards work."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from prometheus_client import Counter, Histogram

from componentbase import metrics

SERVER = "dns://:53"
_SIZES = (0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16e3, 32e3, 48e3, 64e3)
_TYPES = frozenset({
    "A", "AAAA", "MX", "SOA", "CNAME", "PTR", "TXT", "NS", "SRV", "DS", "DNSKEY", "RRSIG", "NSEC", "NSEC3",
    "HTTPS", "SVCB", "AXFR", "IXFR", "ANY",
})  # fmt: skip
_requests = metrics.counter(
    "coredns_dns_requests_total",
    "DNS requests made per zone, protocol and family.",
    ["server", "zone", "view", "proto", "family", "type"],
)
_responses = metrics.counter(
    "coredns_dns_responses_total", "Response status codes.", ["server", "zone", "view", "rcode", "plugin"]
)
_duration = metrics.histogram(
    "coredns_dns_request_duration_seconds", "Seconds each request took.", ["server", "zone", "view"]
)
_request_size = metrics.histogram(
    "coredns_dns_request_size_bytes",
    "Size of the EDNS0 UDP buffer, or of the request over TCP.",
    ["server", "zone", "view", "proto"],
    _SIZES,
)
_response_size = metrics.histogram(
    "coredns_dns_response_size_bytes", "Size of the answer.", ["server", "zone", "view", "proto"], _SIZES
)
cache_hits = metrics.counter("coredns_cache_hits_total", "Cache hits.", ["server", "type", "zones", "view"])
cache_misses = metrics.counter("coredns_cache_misses_total", "Cache misses.", ["server", "zones", "view"])
cache_entries = metrics.gauge(
    "coredns_cache_entries", "Elements in the cache.", ["server", "type", "zones", "view"]
)
upstream_seconds = metrics.histogram(
    "coredns_proxy_request_duration_seconds",
    "Seconds each forwarded request took.",
    ["proxy_name", "to", "rcode"],
)
rejected = metrics.counter(
    "coredns_forward_max_concurrent_rejects_total", "Queries refused because too many were being forwarded."
)


class _Request(NamedTuple):
    total: Counter
    size: Histogram


class _Response(NamedTuple):
    total: Counter
    size: Histogram
    seconds: Histogram


# Finding a labelled child costs more than answering does.
@lru_cache(maxsize=512)
def request(zone: str, proto: str, kind: str) -> _Request:
    """What to count for a request; types nobody uses are counted together."""
    kind = kind if kind in _TYPES else "other"
    return _Request(
        _requests.labels(SERVER, zone, "", proto, "1", kind), _request_size.labels(SERVER, zone, "", proto)
    )


@lru_cache(maxsize=512)
def response(zone: str, proto: str, rcode: str, plugin: str) -> _Response:
    return _Response(
        _responses.labels(SERVER, zone, "", rcode, plugin),
        _response_size.labels(SERVER, zone, "", proto),
        _duration.labels(SERVER, zone, ""),
    )
