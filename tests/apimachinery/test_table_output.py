"""Tables: ages, rows, headers, partial metadata."""

from __future__ import annotations

import pytest

from apimachinery import table
from apimachinery.scheme import Column, Kind

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z
KIND = Kind(
    "",
    "v1",
    "Thing",
    "things",
    True,
    "things",
    columns=(table.NAME, Column("N", lambda obj: obj["n"], "integer"), table.AGE),
)


# Values of k8s.io/apimachinery/pkg/util/duration.
@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (70, "70s"),
        (120, "2m"),
        (130, "2m10s"),
        (599, "9m59s"),
        (630, "10m"),
        (180 * 60 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 120, "3h2m"),
        (8 * 3600 + 120, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (49 * 3600, "2d1h"),
        (8 * 86400 + 3600, "8d"),
        (729 * 86400, "729d"),
        (730 * 86400, "2y"),
        (731 * 86400, "2y1d"),
        (8 * 365 * 86400 + 86400, "8y"),
    ],
)
def test_durations(seconds: int, text: str) -> None:
    assert table.human_duration(seconds) == text


def test_ages() -> None:
    assert table.Since("2025-12-31T23:59:00Z").render(NOW) == "60s"
    assert table.Since(None).render(NOW) == "<unknown>"
    assert table.Since("2025-12-31T23:00:00Z", "3 ({} ago)").render(NOW) == "3 (60m ago)"
    assert table.Since("2025-12-31T23:00:00Z", until="2025-12-31T23:00:05Z").render(NOW) == "5s"


def test_a_table() -> None:
    obj = {"metadata": {"name": "a", "creationTimestamp": "2025-12-31T23:59:50Z"}, "n": 3}
    made = table.table(KIND, [obj], metadata={"resourceVersion": "7"}, now=NOW)
    assert (made["kind"], made["apiVersion"], made["metadata"]) == (
        "Table",
        "meta.k8s.io/v1",
        {"resourceVersion": "7"},
    )
    assert [column["name"] for column in made["columnDefinitions"]] == ["Name", "N", "Age"]
    assert made["columnDefinitions"][0]["format"] == "name"
    assert made["rows"][0]["cells"] == ["a", 3, "10s"]
    assert made["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert "n" not in made["rows"][0]["object"]


def test_what_rows_carry() -> None:
    obj = {"metadata": {"name": "a"}, "n": 1}
    assert "object" not in table.table(KIND, [obj], "None", now=NOW)["rows"][0]
    assert table.table(KIND, [obj], "Object", now=NOW)["rows"][0]["object"] is obj
    assert table.table(KIND, [obj], now=NOW, headers=False)["columnDefinitions"] == []


def test_kinds_without_columns_have_name_and_age() -> None:
    plain = Kind("", "v1", "Plain", "plains", True, "plains")
    made = table.table(plain, [{"metadata": {"name": "a"}}], now=NOW)
    assert made["rows"][0]["cells"] == ["a", "<unknown>"]


def test_partial_metadata_lists() -> None:
    made = table.partial_metadata_list([{"metadata": {"name": "a"}, "spec": {}}], {"resourceVersion": "1"})
    assert made["items"] == [
        {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "a"}}
    ]
