"""Label and field selectors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apimachinery import selectors
from apimachinery.errors import StatusError

LABELS = {"app": "web", "tier": "front", "count": "5", "x.io/y": ""}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app=web,tier=back", False),
        ("app!=db", True),
        ("missing!=x", True),
        ("app in (db, web)", True),
        ("app notin (db,web)", False),
        ("missing notin (a)", True),
        ("app", True),
        ("!app", False),
        ("!missing", True),
        ("count>4,count<6", True),
        ("count>5", False),
        ("app>1", False),
        ("x.io/y=", True),
        ("x.io/y", True),
        ("x.io/y in (,a)", True),
        ("  app  =  web  ", True),
        ("app in (web),!missing , tier notin ( back )", True),
    ],
)
def test_matching(text: str, matches: bool) -> None:
    assert selectors.parse_label_selector(text).matches(LABELS) is matches


@pytest.mark.parametrize(
    "text",
    [
        "app=web=x",
        "=",
        "app in",
        "app in web",
        "app in (web",
        "(a)",
        "!a=b",
        "a b",
        "a,,b",
        "-a=b",
        "a=-",
        "a>b",
    ],
)
def test_what_is_not_a_selector(text: str) -> None:
    with pytest.raises(StatusError) as caught:
        selectors.parse_label_selector(text)
    assert caught.value.code == 400
    assert caught.value.message.startswith("unable to parse requirement: ")


def test_structured_selectors() -> None:
    selector = {
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "NotIn", "values": ["back"]},
            {"key": "count", "operator": "Exists"},
            {"key": "gone", "operator": "DoesNotExist"},
        ],
    }
    parsed = selectors.label_selector_from(selector)
    assert parsed.matches(LABELS)
    assert not parsed.matches({**LABELS, "gone": "1"})
    assert str(parsed) == "app=web,count,!gone,tier!=back"
    assert selectors.label_selector_from({}).is_empty
    assert not selectors.label_selector_from(None).matches(LABELS)
    assert not selectors.label_selector_from(None).is_empty
    with pytest.raises(StatusError, match='"Near" is not a valid label selector operator'):
        selectors.label_selector_from({"matchExpressions": [{"key": "a", "operator": "Near"}]})


names = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True).filter(
    lambda n: n not in ("in", "notin")
)
values = st.from_regex(r"([a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?)?", fullmatch=True)
requirements = st.one_of(
    st.builds(
        selectors.Requirement,
        names,
        st.sampled_from([selectors.IN, selectors.NOT_IN]),
        st.frozensets(values, min_size=1, max_size=4),
    ),
    st.builds(
        selectors.Requirement,
        names,
        st.sampled_from([selectors.EXISTS, selectors.NOT_EXISTS]),
        st.just(frozenset[str]()),
    ),
)


@given(st.lists(requirements, max_size=5), st.dictionaries(names, values))
def test_text_form_parses_back_to_the_same_selector(found: list[Any], labels: dict[str, str]) -> None:
    selector = selectors.LabelSelector(tuple(sorted(found, key=lambda requirement: requirement.key)))
    again = selectors.parse_label_selector(str(selector))
    assert again == selector
    assert again.matches(labels) is selector.matches(labels)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("spec.nodeName=n1", True),
        ("spec.nodeName==n1,status.phase!=Running", True),
        ("spec.nodeName!=n1", False),
        ("missing=", True),
        (r"odd=a\,b\=c", True),
    ],
)
def test_field_selectors(text: str, matches: bool) -> None:
    fields = {"spec.nodeName": "n1", "status.phase": "Pending", "odd": "a,b=c"}
    assert selectors.parse_field_selector(text).matches(fields) is matches


def test_field_selector_requirements() -> None:
    parsed = selectors.parse_field_selector("metadata.name=a,b!=c")
    assert [tuple(item) for item in parsed.requirements] == [("metadata.name", "=", "a"), ("b", "!=", "c")]
    assert parsed.exact("metadata.name") == "a"
    assert parsed.exact("b") is None
    assert str(parsed) == "metadata.name=a,b!=c"


@pytest.mark.parametrize("text", ["a", "a,b=c", "a=b=c", r"a=\x"])
def test_what_is_not_a_field_selector(text: str) -> None:
    with pytest.raises(StatusError) as caught:
        selectors.parse_field_selector(text)
    assert caught.value.code == 400
