"""A headless Chromium, driven by the WebDriver protocol (W3C recommendation) through `chromedriver`."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.ports import free_port

TIMEOUT = 60.0
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ENTER, TAB = "\ue007", "\ue004"


@dataclass(frozen=True)
class Browser:
    """One session."""

    url: str

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One command of the protocol; its value. Raises AssertionError with the browser's words."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode(errors='replace')[:500]}") from None

    def open(self, url: str) -> None:
        self.call("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """The value of a JavaScript function's body."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        """The text of the first element that fits, "" when there is none."""
        found: str = self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        return found

    def all(self, selector: str) -> list[str]:
        """The texts of all elements that fit."""
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText)"
        found: list[str] = self.run(script, selector)
        return found

    def complaints(self) -> list[str]:
        """What the browser's console holds against the page: errors of scripts, refused loads."""
        entries = self.call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def click(self, selector: str) -> None:
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        self.call("POST", f"/element/{found[ELEMENT]}/click", {})

    def press(self, keys: str) -> None:
        """Type into whatever has the focus."""
        pressed = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": pressed}]})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def until(self, what: str, probe: Callable[[], Any], timeout: float = TIMEOUT) -> Any:
        """Wait for a true answer, and return it."""
        deadline = time.monotonic() + timeout
        while not (found := probe()):
            assert time.monotonic() < deadline, (
                f"{what}: not within {timeout:g} s; the page shows:\n{self.text('body')}"
            )
            time.sleep(0.05)
        return found


@contextlib.contextmanager
def chromium(width: int = 1280, height: int = 1500) -> Iterator[Browser]:
    """A browser with a profile of its own, ended with the block."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="hardway-chromium-") as profile:
        driver = subprocess.Popen(
            ["chromedriver", f"--port={port}", "--log-level=SEVERE"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # the browser's many processes end with it, as one group
        )
        try:
            browser = _session(Browser(f"http://127.0.0.1:{port}"), profile, width, height)
            try:
                yield browser
            finally:
                browser.call("DELETE", "")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
            driver.wait(TIMEOUT)


def _session(driver: Browser, profile: str, width: int, height: int) -> Browser:
    driver.until("chromedriver", lambda: _ready(driver))
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
    ]
    flags += [
        f"--user-data-dir={profile}",
        f"--window-size={width},{height}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ]
    wanted = {"alwaysMatch": {"goog:chromeOptions": {"args": flags}, "goog:loggingPrefs": {"browser": "ALL"}}}
    made = driver.call("POST", "/session", {"capabilities": wanted})
    return Browser(f"{driver.url}/session/{made['sessionId']}")


def _ready(driver: Browser) -> bool:
    try:
        return bool(driver.call("GET", "/status")["ready"])
    except OSError:
        return False
