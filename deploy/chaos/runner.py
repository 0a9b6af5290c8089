"""One scenario on a running cluster: steady work, the schedule of faults, recovery, and what was recorded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apimachinery import errors
from componentbase.backoff import Backoff
from deploy import probes
from deploy.chaos import active, targets
from deploy.chaos.lab import Lab
from deploy.chaos.load import api, service, setup
from deploy.chaos.record import Run, Sample, Strike
from deploy.chaos.schema import Scenario, Step
from deploy.control import HostDown, Refused
from deploy.faults.fault import FaultError
from deploy.judge.history import from_json
from kubeclient.resources import NAMESPACES
from kubeclient.rest import ConnectionFailed, RestClient

READY_TIMEOUT = 90.0
RECOVERY_TIMEOUT = 120.0
CHOICE_TIMEOUT = 20.0
STOP_TIMEOUT = 120.0
TIDY_TIMEOUT = 30.0
STEADY = 2.0  # seconds of work before the schedule begins, and after everything is back
# A fault that its scenario does not undo in time (because this process hangs) is undone by the keeper.
MARGIN = 180.0
POLL = 0.1
INJECTING = (FaultError, HostDown, Refused, OSError, ValueError)
Say = Callable[[str], None]


class NotReady(Exception):
    """The cluster did not come to the state in which a scenario can begin; says what was lacking."""


@dataclass
class Execution:
    """One scenario under way. `say` gets a line for every strike."""

    lab: Lab
    scenario: Scenario
    seed: int
    client: RestClient
    say: Say

    def __post_init__(self) -> None:
        work = self.scenario.work
        self.namespace = f"chaos-{self.scenario.name}-{os.getpid()}"
        self.run = Run(
            self.scenario,
            self.seed,
            members=self.lab.hosts("controller"),
            workers=self.lab.hosts("worker"),
        )
        self.api = api.Load(
            self.client, self.namespace, writers=work.api_writers, pause=work.pause, seed=self.seed
        )
        self.service = service.Load(
            self.lab, self.client, self.namespace, replicas=work.replicas, toleration=work.toleration
        )
        self.prefix = f"/hardway-chaos/{self.namespace}/"

    async def execute(self) -> Run:
        """All of it. Raises NotReady and the API client's errors, when there is no run to record them in."""
        await self.wait_for("the members", self.members_lacking, READY_TIMEOUT)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        await setup.create(self.client, NAMESPACES, namespace)
        prepared: list[active.Handle] = []
        try:
            for step in self.scenario.prepare:
                prepared += await self.prepare(step)
            with tempfile.TemporaryDirectory(prefix="hardway-chaos-") as folder:
                await self.work(Path(folder) / "store.json")
            self.run.stored = await self.api.stored()
        finally:
            for handle in reversed(prepared):
                await asyncio.to_thread(handle.undo)
            await self.tidy()
        return self.run

    async def prepare(self, step: Step) -> list[active.Handle]:
        """Put a lasting condition in place on every target, each healthy before the next."""
        handles = []
        view = await asyncio.to_thread(self.lab.view)
        for target in targets.resolve(step.target, targets.Choice(view, random.Random(self.seed))):
            handles.append(await self.inject(step, (target,), None))
            await self.wait_for(f"{target} after {step.fault}", self.members_lacking, READY_TIMEOUT)
        return handles

    async def work(self, out: Path) -> None:
        async with self.service.running(), self.api.running(), self.store_load(out):
            await self.wait_for("the Deployment", self.service_lacking, READY_TIMEOUT)
            await asyncio.sleep(STEADY)
            self.run.start = time.monotonic()
            await self.schedule()
            await self.recover()
            await asyncio.sleep(STEADY)
            self.run.end = time.monotonic()
        self.run.counters, self.run.service = self.api.counters, self.service.seen

    # -- the schedule --------------------------------------------------------------------------------------

    async def schedule(self) -> None:
        """Every step in its own task; ends when the last fault is over and the length has passed."""
        async with asyncio.TaskGroup() as steps:
            for index, step in enumerate(self.scenario.steps):
                steps.create_task(self.follow(index, step), name=f"faults[{index}]")
            steps.create_task(self.sleep_until(self.scenario.length), name="length")

    async def sleep_until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, self.run.start + at - time.monotonic()))

    async def follow(self, index: int, step: Step) -> None:
        """One line of the schedule, as often as it says."""
        chance = random.Random(f"{self.seed}/{index}")
        struck: list[str] = []
        for number in range(step.times):
            await self.sleep_until(step.at + number * step.every)
            chosen = await self.choose(step, chance, struck)
            strike = Strike(index, step.fault, tuple(str(target) for target in chosen), time.monotonic())
            self.run.strikes.append(strike)
            struck += strike.hosts
            if chosen:
                await self.strike(step, strike, chosen)
            else:
                strike.error = f"nobody was {step.target} for {CHOICE_TIMEOUT:g} s"

    async def choose(
        self, step: Step, chance: random.Random, struck: list[str]
    ) -> tuple[targets.Target, ...]:
        """Who it is now; waits a while for a leader if there is none. Nobody: an empty tuple."""
        deadline = time.monotonic() + CHOICE_TIMEOUT
        leaders = targets.needs_leaders([step.target])
        while True:
            view = await asyncio.to_thread(self.lab.view, leaders=leaders)
            try:
                return targets.resolve(step.target, targets.Choice(view, chance, struck))
            except targets.TargetError:
                if time.monotonic() > deadline:
                    return ()
            await asyncio.sleep(POLL)

    async def strike(self, step: Step, strike: Strike, chosen: tuple[targets.Target, ...]) -> None:
        """Inject, wait, undo. Errors become the strike's: they are violations, not the end of the run."""
        self.say(f"{strike.asked - self.run.start:6.1f} s  {strike}")
        duration = None if step.duration is None else step.duration + MARGIN
        handle: active.Handle | None = None
        try:
            handle = await self.inject(step, chosen, duration)
            strike.began = time.monotonic()
            if step.duration is not None:
                strike.met = await self.hold(step, strike)
        except INJECTING as error:
            strike.error = f"{type(error).__name__}: {error}"
        finally:
            strike.ended = time.monotonic()  # for what is judged while it was in force
            if handle is not None:
                await self.end(handle, strike)
            strike.began = strike.began or strike.ended

    async def inject(
        self, step: Step, chosen: tuple[targets.Target, ...], duration: float | None
    ) -> active.Handle:
        values: dict[str, Any] = dict(step.values)
        return await asyncio.to_thread(active.inject, self.lab, step.fault, chosen, duration, **values)

    async def hold(self, step: Step, strike: Strike) -> bool | None:
        """Keep the fault in force for its time, or until its condition comes true; whether it did."""
        deadline = strike.began + (step.duration or 0.0)
        while time.monotonic() < deadline:
            if step.until == "pods-moved" and self.moved(strike):
                return True
            await asyncio.sleep(min(POLL, max(0.0, deadline - time.monotonic())))
        return None if step.until is None else False

    def moved(self, strike: Strike) -> bool:
        look = self.service.seen.looks[-1] if self.service.seen.looks else None
        if look is None or look.at < strike.began or look.nodes is None or not self.service.whole(look):
            return False
        return not strike.hosts & set(look.nodes.values())

    async def end(self, handle: active.Handle, strike: Strike) -> None:
        try:
            await asyncio.to_thread(handle.undo)
        except INJECTING as error:
            strike.error = f"could not be undone: {type(error).__name__}: {error}"

    # -- recovery ------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Wait until everything works again, or say what does not."""
        healed = time.monotonic()

        def lacking() -> str | None:
            if not any(seen.began >= healed for seen in self.api.counters.writes):
                return "no write through the API was acknowledged"
            return self.members_lacking() or self.service_lacking(healed)

        try:
            await self.wait_for("recovery", lacking, RECOVERY_TIMEOUT)
        except NotReady as error:
            self.run.lacking = str(error)

    def members_lacking(self) -> str | None:
        """Which member is not part of a working store."""
        for host in self.lab.hosts("controller"):
            try:
                found = probes.etcd_lacking(self.lab.network(host))
            except HostDown as error:
                found = str(error)
            if found is not None:
                return f"{host}: {found}"
        return None

    def service_lacking(self, since: float = 0.0) -> str | None:
        """What the Deployment or its Service lacks, by looks since `since`."""
        look = self.service.seen.looks[-1] if self.service.seen.looks else None
        if look is None or look.at < since or not self.service.whole(look):
            ready = "unknown" if look is None or look.nodes is None else len(look.nodes)
            return f"Deployment: {ready} of {self.service.replicas} pods ready"
        for worker in self.lab.hosts("worker"):
            last = [good for at, host, good in self.service.seen.answers if host == worker and at >= since]
            if not last or not last[-1]:
                return f"the Service does not answer on {worker}"
        return None

    async def wait_for(self, what: str, lacking: Callable[[], str | None], timeout: float) -> None:
        """Until nothing is lacking. Raises NotReady."""
        deadline = time.monotonic() + timeout
        while (found := await asyncio.to_thread(lacking)) is not None:
            if time.monotonic() > deadline:
                raise NotReady(f"{what}: not within {timeout:g} s: {found}")
            await asyncio.sleep(POLL)

    # -- the store's clients, and the end --------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def store_load(self, out: Path) -> AsyncIterator[None]:
        """Clients of the store in a process of their own, inside the lab's network."""
        process = await asyncio.create_subprocess_exec(
            *self.store_command(out), stdout=asyncio.subprocess.PIPE, env=active.child_environment()
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(READY_TIMEOUT):
                if (await process.stdout.readline()).strip() != b"ready":
                    raise NotReady("the store's clients did not start")
            yield
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_TIMEOUT):
                code = await process.wait()
            if code != 0:
                self.run.broken = f"the store's clients ended with {code}"
                return
            self.take(json.loads(await asyncio.to_thread(out.read_bytes)))
        except TimeoutError:
            self.run.broken = "the store's clients did not end"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def store_command(self, out: Path) -> list[str]:
        work = self.scenario.work
        members = [f"--member={host}=https://{self.lab.address(host)}:2379" for host in self.run.members]
        return [
            sys.executable,
            "-m",
            "deploy.chaos.load.store",
            f"--namespace={self.lab.state.router_netns}",
            f"--pki={self.lab.state.root / 'pki'}",
            f"--prefix={self.prefix}",
            f"--pods=/registry/pods/{self.namespace}/",
            f"--clients={work.store_clients}",
            f"--keys={work.store_keys}",
            f"--pause={work.pause}",
            f"--seed={self.seed}",
            f"--out={out}",
            *members,
        ]

    def take(self, document: dict[str, Any]) -> None:
        self.run.store = from_json(document["history"])
        self.run.samples = [Sample(*sample) for sample in document["samples"]]
        self.run.bindings = [(int(revision), uid, node) for revision, uid, node in document["bindings"]]

    async def tidy(self) -> None:
        """Remove the namespace; a cluster that is not well yet is asked again."""
        backoff = Backoff(0.2, 2.0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TIDY_TIMEOUT):
                while True:
                    try:
                        await self.client.delete(NAMESPACES, self.namespace)
                        return
                    except (errors.StatusError, ConnectionFailed) as error:
                        if errors.is_not_found(error):
                            return
                    await asyncio.sleep(backoff.next())


def run_scenario(lab: Lab, scenario: Scenario, seed: int, say: Say) -> Run:
    """Run one scenario to its end. Raises NotReady and the API client's errors when it cannot even begin."""

    async def main() -> Run:
        async with RestClient.from_kubeconfig(lab.kubeconfig, user_agent="hardway-chaos") as client:
            execution = Execution(lab, scenario, seed, client, say)
            return await _whole(execution.execute)

    return asyncio.run(main())


async def _whole(action: Callable[[], Awaitable[Run]]) -> Run:
    """A group of one error is that error."""
    try:
        return await action()
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None
