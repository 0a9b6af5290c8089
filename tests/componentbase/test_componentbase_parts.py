"""The smaller parts every daemon uses: back-off, clocks, logging, tasks, health, metrics, identities."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from componentbase import log as logs
from componentbase import metrics, tasks, tlsutil
from componentbase.backoff import Backoff
from componentbase.clock import FakeClock
from componentbase.health import Health
from tests.componentbase.conftest import Certificates


def test_backoff_doubles_to_its_maximum_and_starts_again() -> None:
    backoff = Backoff(1, 10, jitter=0)
    assert [backoff.next() for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    backoff.reset()
    assert backoff.next() == 1


def test_backoff_jitter_only_stretches() -> None:
    backoff = Backoff(1, 1, jitter=0.5, rng=iter([0.0, 1.0, 0.5]).__next__)
    assert [backoff.next() for _ in range(3)] == [1.0, 1.5, 1.25]


@pytest.mark.parametrize("arguments", [(0, 1), (2, 1), (1, 2, 0.5), (1, 2, 2, -1)])
def test_backoff_refuses_nonsense(arguments: Any) -> None:
    with pytest.raises(ValueError, match="back-off needs"):
        Backoff(*arguments)


def test_a_fake_clock_wakes_sleepers_in_order() -> None:
    async def test() -> None:
        clock = FakeClock(1000)
        woken: list[str] = []

        async def sleeper(name: str, seconds: float) -> None:
            await clock.sleep(seconds)
            woken.append(name)

        async with asyncio.TaskGroup() as group:
            for name, seconds in (("c", 3.0), ("a", 1.0), ("b", 1.0)):
                group.create_task(sleeper(name, seconds))
            await clock.settle()
            assert clock.sleeping == 3
            clock.advance(0.5)
            await clock.settle()
            assert woken == []
            clock.advance(2.5)
        assert woken == ["a", "b", "c"]
        assert (clock.now(), clock.monotonic()) == (1003, 3)

    asyncio.run(test())


@pytest.fixture
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("_restored_logging")
def test_log_lines() -> None:
    stream = io.StringIO()
    logs.setup("kubeproxy", stream=stream)
    logging.getLogger("kubeproxy.sync").info("rules programmed", extra={"services": 12, "why": "a b"})
    logging.getLogger("kubeclient.informer").warning("two\nlines")
    logging.getLogger("x").debug("not shown")
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logging.getLogger("kubeproxy").exception("failed")
    first, second, third, *trace = stream.getvalue().splitlines()
    assert first[24:] == ' INFO kubeproxy.sync rules programmed services=12 why="a b"'
    assert first[:24].endswith("Z")
    assert second[24:] == " WARNING kubeproxy.kubeclient.informer two\\nlines"
    assert third[24:] == " ERROR kubeproxy failed"
    assert all(line.startswith("    ") for line in trace)
    assert trace[-1].strip() == "RuntimeError: boom"


def test_forever_goes_on_after_failures_and_backs_off(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        clock = FakeClock()
        outcomes = iter([None, RuntimeError("first"), RuntimeError("second"), None, None])
        times: list[float] = []

        async def step() -> None:
            times.append(clock.monotonic())
            if error := next(outcomes):
                raise error

        async with asyncio.TaskGroup() as group:
            loop = group.create_task(
                tasks.forever(
                    "sync", step, 5.0, backoff=Backoff(1, 60, jitter=0), clock=clock, rng=lambda: 0.0
                )
            )
            for _ in range(20):
                await clock.settle()
                clock.advance(1)
                if len(times) == 5:
                    break
            loop.cancel()
        assert times == [0, 5, 6, 8, 13]

    asyncio.run(test())
    assert "sync failed: RuntimeError: first" in caplog.text


def test_background_tasks_fail_alone_and_end_with_their_owner(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        ended: list[str] = []

        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("waiter")

        async def fail() -> None:
            raise RuntimeError("alone")

        async with tasks.Background("owner") as background:
            background.spawn("waiter", wait())
            background.spawn("failing", fail())
            await FakeClock().settle()
            assert len(background) == 1
        assert ended == ["waiter"]

    asyncio.run(test())
    assert "owner/failing failed: alone" in caplog.text


def test_a_deadline_says_what_was_waited_for() -> None:
    async def test() -> None:
        async with tasks.deadline(0.01, "the dentist"):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match=r"the dentist: no result within 0.01s"):
        asyncio.run(test())


DAEMON = """
import asyncio, sys
from componentbase import log, tasks
log.setup("daemon")
async def main():
    print("up", flush=True)
    try:
        {body}
    finally:
        print("down", flush=True)
sys.exit(tasks.run(main, shutdown_grace=0.3))
"""


@pytest.mark.parametrize(
    ("body", "signals", "status", "said"),
    [
        ("await asyncio.Event().wait()", [signal.SIGTERM], 0, "shutting down signal=SIGTERM"),
        ("await asyncio.Event().wait()", [signal.SIGINT], 0, "signal=SIGINT"),
        ("raise RuntimeError('bad')", [], 1, "RuntimeError: bad"),
        ("return", [], 0, ""),
        (
            "while True:\n            try: await asyncio.sleep(60)\n            except BaseException: pass",
            [signal.SIGTERM],
            1,
            "still running after the shutdown grace",
        ),
    ],
)
def test_a_daemon_ends(body: str, signals: list[signal.Signals], status: int, said: str) -> None:
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", DAEMON.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        for each in signals:
            process.send_signal(each)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == status, errors
    assert said in errors


def healthy(path: str, query: bytes = b"") -> tuple[int, str]:
    async def refuse() -> None:
        raise RuntimeError("secret reason")

    health = Health()
    health.add("etcd", refuse, live=False)
    health.add("fine", lambda: None)
    status, body, _ = asyncio.run(health.answer(path, query))
    return status, body.decode()


@pytest.mark.parametrize(
    ("path", "query", "status", "body"),
    [
        ("/livez", b"", 200, "ok"),
        ("/livez", b"verbose", 200, "[+]ping ok\n[+]fine ok\nlivez check passed\n"),
        (
            "/readyz",
            b"",
            500,
            "[+]ping ok\n[-]etcd failed: reason withheld\n[+]fine ok\nreadyz check failed\n",
        ),
        ("/readyz", b"exclude=etcd", 200, "ok"),
        ("/readyz/fine", b"", 200, "ok"),
        ("/readyz/etcd", b"", 500, "internal server error: reason withheld\n"),
        ("/livez/etcd", b"", 404, "404 page not found\n"),
        ("/other", b"", 404, "404 page not found\n"),
    ],
)
def test_health(path: str, query: bytes, status: int, body: str) -> None:
    assert healthy(path, query) == (status, body)


def test_version_and_metrics_pages() -> None:
    metrics.counter("componentbase_test_total", "A test.", ["kind"]).labels("x").inc(3)
    assert metrics.counter("componentbase_test_total", "A test.", ["kind"]) is not None
    assert 'componentbase_test_total{kind="x"} 3.0' in healthy("/metrics")[1]
    assert '"gitVersion": "v1.34.0+hardway"' in healthy("/version")[1]


def test_identity_of_a_certificate(certificates: Certificates) -> None:
    der = ssl.PEM_cert_to_DER_cert(certificates.client.cert.read_text())
    found = tlsutil.identity(der)
    assert (found.common_name, found.organizations) == ("admin", ("system:masters", "devs"))


def test_unusable_certificates_are_named(certificates: Certificates, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"missing\.pem"):
        tlsutil.server_context(tmp_path / "missing.pem", certificates.server.key)
    with pytest.raises(OSError, match=r"server\.pem with its key"):
        tlsutil.server_context(certificates.server.cert, certificates.client.key)
    with pytest.raises(OSError, match="missing-ca"):
        tlsutil.client_context(tmp_path / "missing-ca.pem")
    with pytest.raises(ValueError, match="without a CA"):
        tlsutil.server_context(certificates.server.cert, certificates.server.key, require_client=True)


def test_all_of_raises_what_the_first_failure_was_and_ends_the_others() -> None:
    ended: list[str] = []

    async def fails() -> None:
        raise LookupError("mine")

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("waits")
            raise

    async def test() -> None:
        with pytest.raises(LookupError, match="mine"):
            await tasks.all_of([waits(), fails()])
        await tasks.all_of([])

    asyncio.run(test())
    assert ended == ["waits"]
