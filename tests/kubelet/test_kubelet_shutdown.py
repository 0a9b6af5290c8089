"""Graceful node shutdown: who ends when, and what the cluster is told."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubelet import shutdown as shell
from kubelet.config import ConfigurationError, parse
from kubelet.node.shutdown import CRITICAL, Period, Step, compute_steps, periods
from tests.kubelet.world import NODE, World

HEAD = {"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1"}


def pod(name: str, priority: int | None = None) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "uid": name},
        "spec": {} if priority is None else {"priority": priority},
    }


def test_critical_pods_end_last_and_in_the_end_of_the_time() -> None:
    plain, high, critical = pod("plain"), pod("high", 1000), pod("critical", CRITICAL + 1000)
    assert compute_steps([critical, plain, high], periods(30, 10)) == [
        Step((plain, high), 20),
        Step((critical,), 10),
    ]


def test_pods_below_every_priority_have_the_lowest_ones_time_and_empty_steps_are_left_out() -> None:
    allowed = (Period(1000, 60), Period(100, 10), Period(5000, 5))
    low, middle = pod("low", -5), pod("middle", 4999)
    assert compute_steps([middle, low], allowed) == [Step((low,), 10), Step((middle,), 60)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ()),
        ({"shutdownGracePeriod": "30s"}, (Period(0, 30), Period(CRITICAL, 0))),
        (
            {"shutdownGracePeriod": "30s", "shutdownGracePeriodCriticalPods": "10s"},
            (Period(0, 20), Period(CRITICAL, 10)),
        ),
        (
            {"shutdownGracePeriodByPodPriority": [{"priority": 5, "shutdownGracePeriodSeconds": 3}]},
            (Period(5, 3),),
        ),
    ],
)
def test_configuration(fields: dict[str, Any], expected: tuple[Period, ...]) -> None:
    assert parse({**HEAD, **fields}).shutdown_periods == expected


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"shutdownGracePeriodCriticalPods": "10s"}, "shutdownGracePeriodCriticalPods"),
        ({"shutdownGracePeriod": "500ms"}, "at least 1s"),
        (
            {"shutdownGracePeriod": "5s", "shutdownGracePeriodByPodPriority": [{"priority": 1}]},
            "cannot be combined",
        ),
        ({"shutdownGracePeriodByPodPriority": [{"priority": 1}]}, "shutdownGracePeriodSeconds"),
    ],
)
def test_bad_configuration_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        parse({**HEAD, **fields})


def held(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def test_a_node_that_goes_ends_its_pods_refuses_others_and_comes_back(
    play: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduled, inhibitors = tmp_path / "scheduled", tmp_path / "inhibit"
    monkeypatch.setattr(shell.ShutdownManager.__init__, "__kwdefaults__", {
        "scheduled": scheduled,
        "inhibitors": inhibitors,
    })  # fmt: skip

    async def scenario(world: World) -> None:
        await world.kill()
        world.config = replace(world.config, shutdown_periods=periods(8, 4))
        await world.start()
        await world.pod("plain")
        await world.pod("critical", priority=CRITICAL)
        for name in ("plain", "critical"):
            await world.until_ready(name)
        assert held(inhibitors / "kubelet")
        scheduled.touch()
        await world.api.until(lambda: world.condition(NODE, "Ready") == "False")
        conditions = world.api.objects[NODE]["status"]["conditions"]
        assert "node is shutting down" in [c.get("message") for c in conditions]
        for name in ("plain", "critical"):
            await world.api.until(lambda name=name: world.status(name).get("phase") == "Failed")
            assert world.status(name)["reason"] == "Terminated"
            assert world.status(name)["message"] == (
                "Pod was terminated in response to imminent node shutdown."
            )
        while held(inhibitors / "kubelet"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert not world.living()
        await world.pod("late")
        await world.api.until(lambda: world.status("late").get("reason") == "NodeShutdown")
        scheduled.unlink()
        await world.api.until(lambda: world.condition(NODE, "Ready") == "True")
        await world.pod("later")
        await world.until_ready("later")

    play(scenario)
