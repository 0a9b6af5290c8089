"""The console in a browser: what it shows, and the leader killed from the page."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.console.webdriver import ENTER, TAB, Browser, chromium
from tests.e2e.lab import Lab

LEADER = '[data-role="leader"]'


@pytest.fixture(scope="module")
def address(lab: Lab) -> Iterator[str]:
    """Where the page is: `hardway console` runs as a user would start it, and ends by Ctrl-C."""
    where = ["--topology", str(lab.topology), "--state", str(lab.state)]
    command = [sys.executable, "-m", "deploy", *where, "console", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None, "the console did not say where it is"
        yield found.group()
    finally:
        process.send_signal(2)
        assert process.wait(60) == 0
        process.stdout.close()


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Browser]:
    with chromium() as browser:
        browser.open(address)
        browser.until("a leader on the page", lambda: browser.text(f"{LEADER} strong"))
        yield browser
        # A refused order is logged by the browser too; anything else is a fault of the page.
        assert [each for each in browser.complaints() if "/faults" not in each] == []


def test_the_page_shows_the_cluster(lab: Lab, page: Browser) -> None:
    for host in ("controller-0", "worker-2", "balancer"):
        assert page.text(f'[data-host="{host}"] strong') == host
    page.until("three nodes, ready", lambda: len(page.all("[data-node].good")) == 3)
    names = lab.get("pods", "-n", "kube-system")["items"]
    for name in (pod["metadata"]["name"] for pod in names):
        page.until(f"pod {name}", lambda name=name: name in page.text("#nodes"))  # type: ignore[misc]
    page.until("the API is ready", lambda: page.text("#connection") == "API ready")


def test_a_new_pod_and_its_events_appear_without_reloading(lab: Lab, page: Browser) -> None:
    lab.kubectl("run", "seen", "--image=busybox:1.35", "--restart=Never", "--", "sleep", "300")
    try:
        page.until("the pod", lambda: "seen" in page.text("#nodes"))
        page.until("its event", lambda: "pod/seen" in page.text("#events"))
    finally:
        lab.kubectl("delete", "pod", "seen", "--now")
    page.until("the pod is gone", lambda: "seen" not in page.text("#nodes"))


def test_the_leader_is_killed_from_the_page_and_the_election_is_seen(page: Browser) -> None:
    before = page.text(f"{LEADER} strong")
    page.click(f"{LEADER} button")
    after = page.until("another leader", lambda: _another(page, before))
    page.until("three members again", lambda: len(page.all("#members > .good, #members > .lead")) == 3)
    page.until("both in the leader's lane", lambda: all(name in _lane(page) for name in (before, after)))
    page.until("it is announced", lambda: page.text("#announcer").startswith(after))


def _lane(page: Browser) -> str:
    titles = "return [...document.querySelectorAll('.span.leader title')].map((each) => each.textContent)"
    return "; ".join(page.run(titles))


def _another(page: Browser, before: str) -> str:
    found = page.text(f"{LEADER} strong")
    return found if found != before else ""


def test_a_fault_by_keyboard_and_its_undoing(page: Browser) -> None:
    page.run(
        "const f = document.getElementById('fault'); f.value = 'pause'; f.dispatchEvent(new Event('change'))"
    )
    page.run(
        "document.getElementById('target').value = 'worker-0/kubelet';"
        "document.getElementById('fault').focus()"
    )
    page.press(TAB * 3)
    assert page.run("return document.activeElement.textContent") == "Break"
    page.press(ENTER)
    page.until("the fault is in force", lambda: "pause worker-0/kubelet" in page.text("#active"))
    page.until(
        "it is drawn",
        lambda: "pause worker-0/kubelet" in str(page.run("return document.querySelector('svg').innerHTML")),
    )
    page.click("#active button")
    page.until("it is undone", lambda: page.text("#active") == "")


def test_a_refusal_is_shown(page: Browser) -> None:
    page.run(
        "const f = document.getElementById('fault'); f.value = 'delay'; f.dispatchEvent(new Event('change'))"
    )
    page.run("document.querySelector('#settings [name=ms]').value = 'soon'")
    page.click("#break button")
    page.until("the refusal", lambda: "'soon' is not a number" in page.text("#refusal"))


def test_light_and_dark(page: Browser) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    first = page.run(colour)
    page.click("#theme")
    assert page.run(colour) != first
    page.click("#theme")
    assert page.run(colour) == first


def test_without_the_key_nothing_is_shown(address: str) -> None:
    with chromium() as stranger:
        stranger.open(address.partition("?")[0])
        assert "the key is missing" in stranger.text("body")


def test_the_pictures_in_the_docs_are_there() -> None:
    """They are taken by hand, as the page itself says; without them it would be half a description."""
    docs = Path(__file__).parents[2] / "docs"
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (docs / "console.md").read_text()):
        assert (docs / name).stat().st_size > 10_000
