"""Quantities against tables from Kubernetes and against exact arithmetic."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apimachinery import quantity


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0", "0"),
        ("0n", "0"),
        ("-0", "0"),
        ("1", "1"),
        ("1.0", "1"),
        ("100m", "100m"),
        ("0.1", "100m"),
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("1000", "1k"),
        ("12000000", "12M"),
        ("1.5G", "1500M"),
        ("1024", "1024"),
        ("1024Ki", "1Mi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Gi", "512Mi"),
        ("0.5Ki", "512"),
        ("1Ei", "1Ei"),
        ("1e3", "1e3"),
        ("1E3", "1e3"),
        ("12e5", "1200e3"),
        ("-1.5k", "-1500"),
        ("0.0000000001", "1n"),
        (".5", "500m"),
        ("5.", "5"),
        ("+5", "5"),
        ("100000Gi", "100000Gi"),
        ("1u", "1u"),
    ],
)
def test_canonical_form(text: str, canonical: str) -> None:
    assert quantity.canonical(text) == canonical
    assert quantity.canonical(canonical) == canonical


@pytest.mark.parametrize(
    "text", ["", "a", "1x", "1 Gi", "Gi", "1.2.3", "--1", "1KI", "1e", "0x1", ".", "1\n", "1e999999"]
)
def test_what_is_not_a_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="quantities must match the regular expression"):
        quantity.parse(text)


def test_numbers_are_quantities_too() -> None:
    assert quantity.canonical(2) == "2"
    assert quantity.canonical(0.5) == "500m"


def test_rounding_is_upwards() -> None:
    assert quantity.parse("1.0001").value() == 2
    assert quantity.parse("0.0001").milli() == 1
    assert quantity.parse("1500m").value() == 2
    assert quantity.parse("1500m").milli() == 1500


def test_order_and_equality_look_at_the_amount() -> None:
    assert quantity.parse("1Ki") == quantity.parse("1024")
    assert hash(quantity.parse("1Ki")) == hash(quantity.parse("1024"))
    assert quantity.parse("1k") < quantity.parse("1Ki")
    assert str(quantity.parse("1Gi") + quantity.parse("1G")) == "2073741824"
    assert str(quantity.parse("2Gi") - quantity.parse("1Gi")) == "1Gi"
    assert quantity.parse("1") != "1"


POWERS_OF_TEN = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9}
SUFFIXES = {suffix: Fraction(10) ** power for suffix, power in POWERS_OF_TEN.items()}
SUFFIXES |= {"Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30)}


@given(st.integers(-(10**6), 10**6), st.integers(0, 999), st.sampled_from(sorted(SUFFIXES)))
def test_no_digit_is_lost(whole: int, thousandths: int, suffix: str) -> None:
    text = f"{whole}.{thousandths:03d}{suffix}"
    sign = -1 if text.startswith("-") else 1
    exact = (Fraction(abs(whole)) + Fraction(thousandths, 1000)) * SUFFIXES[suffix]
    parsed = quantity.parse(text)
    nano = exact * 10**9
    rounded = Fraction(-(-nano.numerator // nano.denominator), 10**9) * sign
    assert Fraction(parsed.amount) == rounded
    assert quantity.parse(str(parsed)) == parsed
    assert quantity.canonical(str(parsed)) == str(parsed)


@given(st.integers(0, 2**62))
def test_binary_suffixes_are_the_largest_that_fit(amount: int) -> None:
    text = str(quantity.Quantity(Decimal(amount), quantity.BINARY))
    number = text.rstrip("KMGTPEi")
    if text != number and amount >= 1024:
        assert int(number) % 1024 or text.endswith("Ei")
    assert quantity.parse(text).amount == amount
