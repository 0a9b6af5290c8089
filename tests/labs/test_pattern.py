"""The language of expected output: what it lets pass, and above all what it does not."""

from __future__ import annotations

import pytest

from deploy.labs.pattern import Difference, compare

FACTS = {"host": "worker-1", "address": "10.240.0.21"}


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ("OK", "OK\n"),
        ("a   b", "a b  \n\n"),
        ("took <number> ms", "took 1.5 ms"),
        ("<word> <any>", "one two three"),
        ("id <hex>", "id 0aF9"),
        ("at <time>", "at 2026-01-02T03:04:05.678Z"),
        ("pod 1/1 <age>", "pod 1/1 2m31s"),
        ("I am <host> at <address>", "I am worker-1 at 10.240.0.21"),
        ("EXTERNAL-IP <none>", "EXTERNAL-IP <none>"),
        ("...", ""),
        ("a\n...\nd", "a\nb\nc\nd"),
        ("a\n...\nd", "a\nd"),
        ("...\nb\n...", "a\nb\nc"),
        ("...\nlast", "x\ny\nlast"),
        ("", ""),
    ],
)
def test_matches(expected: str, found: str) -> None:
    assert compare(expected, found, FACTS) is None


@pytest.mark.parametrize(
    ("expected", "found", "difference"),
    [
        ("OK", "ok", Difference("OK", "ok")),
        ("OK", "", Difference("OK", None)),
        ("", "surprise", Difference(None, "surprise")),
        ("a", "a\nb", Difference(None, "b")),
        ("took <number> ms", "took long ms", Difference("took <number> ms", "took long ms")),
        ("<word>", "two words", Difference("<word>", "two words")),
        ("I am <host>", "I am worker-2", Difference("I am <host>", "I am worker-2")),
        (
            "EXTERNAL-IP <none>",
            "EXTERNAL-IP 1.2.3.4",
            Difference("EXTERNAL-IP <none>", "EXTERNAL-IP 1.2.3.4"),
        ),
        ("a.c", "abc", Difference("a.c", "abc")),
        ("a\n...\nd", "a\nd\ne", Difference("d", "e")),
        ("...\nb\n...", "a\nc", Difference("b", None)),
        ("a\n...", "b\na", Difference("a", "b")),
    ],
)
def test_differences_are_named(expected: str, found: str, difference: Difference) -> None:
    assert compare(expected, found, FACTS) == difference


def test_a_last_run_does_not_overlap_what_a_gap_has_passed() -> None:
    assert compare("a\n...\na", "a") is not None
