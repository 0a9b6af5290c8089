"""The page is whole, needs nothing else, and shows what happened."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from deploy.chaos import report, timeline
from deploy.chaos.record import Strike
from deploy.chaos.verdict import decide
from tests.chaos import runs

VOID = {"meta", "br", "link", "img"}


class Nesting(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_offline() -> None:
    run = runs.good()
    run.counters.failed_at = [6.0, 7.0]
    page = report.page("lab", [(run, decide(run))])
    nesting = Nesting()
    nesting.feed(page)
    assert nesting.open == []
    assert "0 violations: everything held" in page
    assert "hardway chaos run good --seed 7" in page
    assert not re.search(r"https?://|src=|<script|<link|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page


def test_violations_are_spelt_out_and_escaped() -> None:
    run = runs.good()
    run.bindings.append((104, "<b>", "w0"))
    run.bindings.append((105, "<b>", "w1"))
    page = report.page("lab", [(run, decide(run))])
    assert "1 violations" in page
    assert "pod &lt;b&gt;: bound to w0, then w1" in page
    assert "<b>" not in page


def test_the_picture_is_xml_with_every_lane() -> None:
    run = runs.good()
    picture = timeline.draw(run)
    root = ElementTree.fromstring(picture)
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    lanes = ("faults", "leader", "members", "writes", "errors", "Deployment", "Service", "partition c0")
    assert set(lanes) <= set(texts)
    titles = [element.text or "" for element in root.iter() if element.tag.endswith("title")]
    assert "c1 leads in term 3" in titles
    assert "partition c0: 4.4 s to 9.5 s" in titles


def test_no_run_no_picture() -> None:
    run = runs.good()
    run.start = run.end = 0.0
    assert timeline.draw(run) == ""


def test_labels_do_not_lie_on_one_another() -> None:
    assert timeline.rows_of([(0, 10), (5, 15), (11, 20), (12, 13)]) == [0, 1, 0, 2]


def test_histogram() -> None:
    assert timeline.histogram([0.1, 0.2, 0.7, 9.0, -1.0], 0.0, 1.0) == [2, 1, 0]


def test_a_strike_outside_the_picture_is_kept_inside() -> None:
    run = runs.good()
    run.strikes.append(Strike(1, "kill", ("c2/etcdlite",), -3.0, -3.0, 99.0))
    root = ElementTree.fromstring(timeline.draw(run))
    for element in root.iter():
        if element.tag.endswith("rect"):
            assert float(element.get("x", "0")) + float(element.get("width", "0")) <= timeline.WIDTH + 1
