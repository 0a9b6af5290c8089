"""Requests are counted under the names that are served, and under no others."""

from __future__ import annotations

from apiserver.rest.info import parse
from apiserver.rest.meters import REQUESTS, Meters


def counted(resource: str) -> dict[tuple[str, str], float]:
    """(verb, code) -> count of a resource, over all other labels."""
    found: dict[tuple[str, str], float] = {}
    for metric in REQUESTS.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total") and sample.labels["resource"] == resource:
                key = (sample.labels["verb"], sample.labels["code"])
                found[key] = found.get(key, 0.0) + sample.value
    return found


def test_names_that_were_never_served_make_no_series() -> None:
    meters, before = Meters(), counted("").get(("LIST", "404"), 0.0)
    for number in range(50):
        meters.record(parse("GET", f"/api/v1/nonsense{number}", b""), 404, 0.001)
    assert not any(counted(f"nonsense{number}") for number in range(50))
    assert counted("")[("LIST", "404")] == before + 50
    assert not meters._series


def test_failures_of_what_is_served_count_under_its_name() -> None:
    meters, before = Meters(), counted("meterlings")
    served = parse("POST", "/api/v1/namespaces/a/meterlings", b"")
    missing = parse("GET", "/api/v1/namespaces/a/meterlings/x", b"")
    meters.record(missing, 404, 0.001)
    assert counted("meterlings") == before
    meters.record(served, 201, 0.001)
    meters.record(missing, 404, 0.001)
    meters.record(missing, 404, 0.001)
    after = counted("meterlings")
    assert after[("POST", "201")] == before.get(("POST", "201"), 0.0) + 1
    assert after[("GET", "404")] == before.get(("GET", "404"), 0.0) + 2
