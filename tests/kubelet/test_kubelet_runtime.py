"""One suite, three runtimes: the fake, the real containerd behind CRI v1, and the embedded one, as root and
without.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kubelet.cri.client import CriRuntime
from kubelet.cri.fake import FakeRuntime, normalize
from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.port import NotFound, Runtime, RuntimeFailure, TimedOut, Unavailable
from kubelet.hooks import Outcome, act
from tests.kubelet import containerd, embedded

Scenario = Callable[[Runtime], Awaitable[None]]
Play = Callable[[Scenario], None]
EMBEDDED = ("embedded", "embedded-rootless")
CGROUP = f"kubelet-test-{os.getpid()}"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[containerd.Containerd]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if lacking := containerd.missing():
        pytest.skip(f"needs {lacking}")
    made = containerd.start(tmp_path_factory.mktemp("ctd"), CGROUP)
    yield made
    made.stop()


@pytest.fixture(
    params=["fake", *(pytest.param(name, marks=pytest.mark.root) for name in ("containerd", *EMBEDDED))]
)
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Runs a scenario against one of the runtimes, and leaves no sandbox behind."""
    if request.param in EMBEDDED:
        return play_embedded(tmp_path, rootless=request.param == "embedded-rootless")

    def against(scenario: Scenario) -> None:
        async def run() -> None:
            runtime: Runtime
            if request.param == "fake":
                fake = FakeRuntime(time.time)
                fake.add_images([containerd.IMAGE])
                runtime = fake
            else:
                runtime = CriRuntime(request.getfixturevalue("daemon").endpoint)
            try:
                async with asyncio.timeout(60):
                    await scenario(runtime)
            finally:
                for sandbox in await runtime.list_sandboxes():
                    await runtime.remove_sandbox(sandbox.id)
                await runtime.close()

        asyncio.run(run())

    return against


def play_embedded(tmp_path: Path, *, rootless: bool) -> Play:
    if os.geteuid() != 0:
        pytest.skip("needs root, also to be without it in an orderly way")
    if lacking := embedded.missing():
        pytest.skip(f"needs {lacking}")
    return lambda scenario: embedded.play(scenario, tmp_path, rootless=rootless, group=CGROUP)


def sandbox_config(tmp: Path, name: str = "p", attempt: int = 0) -> pb.PodSandboxConfig:
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="ns", attempt=attempt),
        hostname=name,
        log_directory=str(tmp / name),
        labels={"io.kubernetes.pod.uid": f"uid-{name}"},
        annotations={"a": "b"},
        linux=pb.LinuxPodSandboxConfig(cgroup_parent=f"/{CGROUP}/kubepods/poduid-{name}"),
    )


def container_config(*command: str) -> pb.ContainerConfig:
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c", attempt=3),
        image=pb.ImageSpec(image=containerd.IMAGE),
        command=list(command),
        labels={"io.kubernetes.container.name": "c"},
        annotations={"io.kubernetes.container.restartCount": "3"},
        log_path="c/0.log",
    )


async def until_exited(runtime: Runtime, container_id: str) -> pb.ContainerStatus:
    while (status := await runtime.container_status(container_id)).state != pb.CONTAINER_EXITED:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return status


def test_a_sandbox_from_its_creation_to_its_removal(play: Play, tmp_path: Path) -> None:
    async def scenario(runtime: Runtime) -> None:
        config = sandbox_config(tmp_path)
        sandbox_id = await runtime.run_sandbox(config)
        (listed,) = await runtime.list_sandboxes()
        assert (listed.id, listed.metadata, listed.state) == (sandbox_id, config.metadata, pb.SANDBOX_READY)
        assert dict(listed.labels) == dict(config.labels)
        status = (await runtime.sandbox_status(sandbox_id)).status
        assert status.network.ip.startswith("10.")
        assert dict(status.annotations) == {"a": "b"}
        with pytest.raises(RuntimeFailure):
            await runtime.run_sandbox(config)
        await runtime.stop_sandbox(sandbox_id)
        await runtime.stop_sandbox(sandbox_id)
        assert (await runtime.sandbox_status(sandbox_id)).status.state == pb.SANDBOX_NOTREADY
        second = await runtime.run_sandbox(sandbox_config(tmp_path, attempt=1))
        assert second != sandbox_id
        await runtime.remove_sandbox(sandbox_id)
        await runtime.remove_sandbox(sandbox_id)
        with pytest.raises(NotFound):
            await runtime.sandbox_status(sandbox_id)

    play(scenario)


def test_a_container_runs_answers_and_is_stopped(play: Play, tmp_path: Path) -> None:
    async def scenario(runtime: Runtime) -> None:
        config = sandbox_config(tmp_path)
        sandbox_id = await runtime.run_sandbox(config)
        container_id = await runtime.create_container(sandbox_id, container_config("sleep", "1000"), config)
        assert (await runtime.container_status(container_id)).state == pb.CONTAINER_CREATED
        await runtime.start_container(container_id)
        status = await runtime.container_status(container_id)
        assert status.state == pb.CONTAINER_RUNNING
        assert status.started_at >= status.created_at > 0
        assert status.metadata.attempt == 3
        assert status.annotations["io.kubernetes.container.restartCount"] == "3"
        (listed,) = await runtime.list_containers()
        assert (listed.id, listed.pod_sandbox_id) == (container_id, sandbox_id)
        result = await runtime.exec_sync(container_id, ["echo", "hello"], 5)
        assert (result.stdout, result.exit_code) == (b"hello\n", 0)
        assert (await runtime.exec_sync(container_id, ["false"], 5)).exit_code == 1
        await runtime.stop_container(container_id, 0)
        await runtime.stop_container(container_id, 0)
        ended = await until_exited(runtime, container_id)
        assert ended.exit_code == 137
        assert ended.finished_at >= ended.started_at
        await runtime.remove_container(container_id)
        await runtime.remove_container(container_id)
        with pytest.raises(NotFound):
            await runtime.container_status(container_id)

    play(scenario)


@pytest.mark.parametrize(("code", "reason"), [(0, "Completed"), (3, "Error")])
def test_a_container_ends_by_itself(play: Play, tmp_path: Path, code: int, reason: str) -> None:
    async def scenario(runtime: Runtime) -> None:
        config = sandbox_config(tmp_path)
        sandbox_id = await runtime.run_sandbox(config)
        made = container_config("sh", "-c", f"exit {code}")
        container_id = await runtime.create_container(sandbox_id, made, config)
        await runtime.start_container(container_id)
        ended = await until_exited(runtime, container_id)
        assert (ended.exit_code, ended.reason) == (code, reason)
        with pytest.raises(RuntimeFailure):
            await runtime.exec_sync(container_id, ["true"], 5)

    play(scenario)


def test_a_command_that_takes_too_long_times_out(play: Play, tmp_path: Path) -> None:
    async def scenario(runtime: Runtime) -> None:
        if isinstance(runtime, FakeRuntime):
            return  # its commands take no time
        config = sandbox_config(tmp_path, "slow")
        sandbox_id = await runtime.run_sandbox(config)
        container_id = await runtime.create_container(sandbox_id, container_config("sleep", "1000"), config)
        await runtime.start_container(container_id)
        with pytest.raises(TimedOut):
            await runtime.exec_sync(container_id, ["sleep", "30"], 1)
        outcome = await act(
            runtime, {"name": "c"}, container_id, "", {"exec": {"command": ["sleep", "30"]}}, 1.0
        )
        assert outcome == Outcome(False, "timeout: no answer within 1s")

    play(scenario)


def test_stopping_a_sandbox_ends_its_containers(play: Play, tmp_path: Path) -> None:
    async def scenario(runtime: Runtime) -> None:
        config = sandbox_config(tmp_path)
        sandbox_id = await runtime.run_sandbox(config)
        container_id = await runtime.create_container(sandbox_id, container_config("sleep", "1000"), config)
        await runtime.start_container(container_id)
        await runtime.stop_sandbox(sandbox_id)
        assert (await until_exited(runtime, container_id)).exit_code == 137

    play(scenario)


def test_images_by_any_of_their_names(play: Play, tmp_path: Path) -> None:
    async def scenario(runtime: Runtime) -> None:
        image = await runtime.image_status("busybox:1.36")
        assert image is not None
        by_id = await runtime.image_status(image.id)
        assert by_id is not None
        assert containerd.IMAGE in by_id.repo_tags
        assert await runtime.image_status("no-such-image:1") is None
        assert image.id in {listed.id for listed in await runtime.list_images()}
        with pytest.raises(RuntimeFailure):
            await runtime.pull_image("registry.invalid/none:1", None, sandbox_config(tmp_path))

    play(scenario)


def test_what_is_unknown_is_not_found(play: Play, tmp_path: Path) -> None:
    async def scenario(runtime: Runtime) -> None:
        await runtime.stop_sandbox("none")
        await runtime.stop_container("none", 0)
        with pytest.raises(NotFound):
            await runtime.start_container("none")
        with pytest.raises(NotFound):
            await runtime.create_container("none", container_config("true"), sandbox_config(tmp_path))

    play(scenario)


def test_the_runtime_says_that_it_is_ready(play: Play) -> None:
    async def scenario(runtime: Runtime) -> None:
        assert (await runtime.version()).runtime_api_version == "v1"
        conditions = {condition.type: condition.status for condition in (await runtime.status()).conditions}
        assert conditions == {"RuntimeReady": True, "NetworkReady": True}

    play(scenario)


def test_a_runtime_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    async def scenario() -> None:
        runtime = CriRuntime(f"unix://{tmp_path}/absent.sock")
        with pytest.raises(Unavailable):
            await runtime.version()
        await runtime.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("user/app:1", "docker.io/user/app:1"),
        ("localhost/app", "localhost/app:latest"),
        ("host:5000/app", "host:5000/app:latest"),
        ("ghcr.io/a/b@sha256:00", "ghcr.io/a/b@sha256:00"),
    ],
)
def test_image_names(given: str, full: str) -> None:
    assert normalize(given) == full


def check_streams(front: Sequence[str], endpoint: str, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    program = [sys.executable, "-m", "tests.kubelet.streams_check", endpoint, str(tmp_path), CGROUP]
    done = subprocess.run(
        [*front, "env", "-C", str(root), *program], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [
        "exit code",
        "standard input ends",
        "v4",
        "terminal is resized",
        "port-forward",
        "port-forward tells what failed",
    ]


@pytest.mark.root
def test_streams_reach_a_real_container(daemon: containerd.Containerd, tmp_path: Path) -> None:
    check_streams(daemon.inside(), daemon.endpoint, tmp_path)


@pytest.mark.root
def test_streams_reach_an_embedded_container(tmp_path: Path) -> None:
    ground = embedded.Ground(tmp_path / "embedded")
    ground.prepare()
    own = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        check_streams([*own, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"], ground.endpoint, tmp_path)
    finally:
        embedded.remove_groups(CGROUP)
