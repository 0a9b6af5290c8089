"""The embedded runtime's own promises: images from archives, identity, confinement, lives that outlast the
kubelet, and a network without plugins.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import tarfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.port import NotFound, RuntimeFailure
from kubelet.embedded import isolation, network, spec
from kubelet.embedded.crilog import LINE_LIMIT, Lines
from kubelet.embedded.images import ImageStore, apply_layer
from kubelet.embedded.network import Bridge, PodLink
from kubelet.embedded.root import inside
from kubelet.embedded.runtime import EmbeddedRuntime, parse_endpoint
from tests.kubelet import containerd, embedded
from tests.kubelet.test_kubelet_runtime import CGROUP, container_config, sandbox_config, until_exited

NOW = 1_700_000_000_123_456_789
Scenario = Callable[[EmbeddedRuntime], Awaitable[None]]


# -- logs


def test_lines_are_stamped_and_named_by_their_stream() -> None:
    lines = Lines("stderr")
    assert list(lines.feed(b"one\ntw", NOW)) == [b"2023-11-14T22:13:20.123456789Z stderr F one\n"]
    assert list(lines.feed(b"o\n\n", NOW)) == [
        b"2023-11-14T22:13:20.123456789Z stderr F two\n",
        b"2023-11-14T22:13:20.123456789Z stderr F \n",
    ]
    assert list(lines.finish(NOW)) == []


def test_a_long_line_is_told_in_parts_and_nothing_is_lost() -> None:
    lines = Lines("stdout")
    text = bytes(65 + index % 26 for index in range(3 * LINE_LIMIT + 5))
    out = [line for at in range(0, len(text), 1000) for line in lines.feed(text[at : at + 1000], NOW)]
    out += lines.feed(b"\nrest", NOW)
    out += lines.finish(NOW)
    tags = [line.split(b" ", 3)[2] for line in out]
    assert tags == [b"P", b"P", b"P", b"F", b"F"]
    assert b"".join(line.split(b" ", 3)[3].rstrip(b"\n") for line in out[:4]) == text
    assert out[4].endswith(b" F rest\n")


# -- images


def layer(*entries: tuple[str, bytes | str | None]) -> tarfile.TarFile:
    """A layer of files (bytes), directories (None) and symbolic links (text)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in entries:
            about = tarfile.TarInfo(name)
            if content is None:
                about.type, about.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(about)
            elif isinstance(content, str):
                about.type, about.linkname = tarfile.SYMTYPE, content
                tar.addfile(about)
            else:
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
    out.seek(0)
    return tarfile.open(fileobj=out)


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_layers_lie_over_each_other_and_take_away(tmp_path: Path) -> None:
    apply_layer(
        layer(("a", None), ("a/one", b"1"), ("a/two", b"2"), ("b", None), ("b/three", b"3")), tmp_path
    )
    apply_layer(layer(("a", None), ("a/.wh.one", b""), ("b", None), ("b/.wh..wh..opq", b"")), tmp_path)
    assert tree(tmp_path) == ["a", "a/two", "b"]
    apply_layer(layer(("a", b"now a file"), ("b/four", "../a")), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"now a file"
    assert (tmp_path / "b" / "four").readlink() == Path("../a")


def test_a_layer_cannot_leave_its_tree(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(tarfile.TarError):
        apply_layer(layer(("../outside", b"x")), tmp_path / "tree")
    apply_layer(layer(("way", "..")), tmp_path / "tree")
    with pytest.raises(tarfile.TarError):
        apply_layer(layer(("way/outside", b"x")), tmp_path / "tree")
    assert not (tmp_path / "outside").exists()


def test_an_archive_is_an_image_that_is_present(tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "a.tar").write_bytes(containerd.oci_image(containerd.IMAGE, ["sh"]))
    (tmp_path / "archives" / "broken.tar").write_bytes(b"no archive")
    store = ImageStore(tmp_path / "store", tmp_path / "archives")
    image = store.find("busybox:1.36")
    assert image is not None
    assert store.find(image.id) == store.find(f"docker.io/library/busybox@{image.digest}") == image
    unpacked = store.tree(image)
    assert (unpacked / "bin" / "sh").readlink() == Path("busybox")
    store.remove(image.id)
    assert store.find("busybox:1.36") is None
    assert not unpacked.exists()
    assert store.pull("busybox:1.36") == image
    assert store.present() == [image]
    with pytest.raises(NotFound, match=r"asks no registry, only the archives in"):
        store.pull("busybox:9")


# -- what a container is


ACCOUNTS = spec.Accounts(
    passwd="root:x:0:0:root:/root:/bin/sh\nweb:x:33:44::/srv:/bin/false\n",
    group="root:x:0:\nweb:x:44:\nlog:x:7:web,other\n",
)


def context(**fields: object) -> pb.LinuxContainerSecurityContext:
    made = pb.LinuxContainerSecurityContext()
    for name, value in fields.items():
        if name in ("run_as_user", "run_as_group"):
            getattr(made, name).value = value
        elif name == "supplemental_groups":
            made.supplemental_groups.extend(value)  # type: ignore[arg-type]
        else:
            setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("given", "user", "expected"),
    [
        (context(), "", spec.Identity(0, 0, (0,), "/root")),
        (context(), "web", spec.Identity(33, 44, (44, 7), "/srv")),
        (context(), "33:log", spec.Identity(33, 7, (7,), "/srv")),
        (context(), "1000:1000", spec.Identity(1000, 1000, (1000,), "/")),
        (context(run_as_user=5, supplemental_groups=[9]), "web", spec.Identity(5, 0, (0, 9), "/")),
        (context(run_as_username="web", run_as_group=8), "", spec.Identity(33, 8, (8, 7), "/srv")),
    ],
)
def test_identity(given: pb.LinuxContainerSecurityContext, user: str, expected: spec.Identity) -> None:
    assert spec.identity(given, {"User": user}, ACCOUNTS) == expected


def test_a_user_that_the_image_does_not_know_is_refused() -> None:
    with pytest.raises(RuntimeFailure, match="no user nobody"):
        spec.identity(context(run_as_username="nobody"), {}, ACCOUNTS)


def names(numbers: list[int] | None) -> set[str]:
    assert numbers is not None
    return {spec.CAPABILITIES[number] for number in numbers}


def test_capabilities() -> None:
    assert names(spec.capabilities(context())) == spec.DEFAULT_CAPABILITIES
    assert spec.capabilities(context(privileged=True)) is None
    some = context()
    some.capabilities.add_capabilities.extend(["NET_ADMIN"])
    some.capabilities.drop_capabilities.extend(["CAP_CHOWN"])
    assert names(spec.capabilities(some)) == spec.DEFAULT_CAPABILITIES - {"CHOWN"} | {"NET_ADMIN"}
    some.capabilities.drop_capabilities.extend(["ALL"])
    assert names(spec.capabilities(some)) == {"NET_ADMIN"}
    some.capabilities.add_capabilities.extend(["FLY"])
    with pytest.raises(RuntimeFailure, match="CAP_FLY"):
        spec.capabilities(some)
    assert spec.CAPABILITIES[21] == "SYS_ADMIN"
    assert spec.CAPABILITIES[40] == "CHECKPOINT_RESTORE"


@pytest.mark.parametrize(
    ("config", "argv"),
    [
        (pb.ContainerConfig(), ["/entry", "-x"]),
        (pb.ContainerConfig(args=["-y"]), ["/entry", "-y"]),
        (pb.ContainerConfig(command=["sh"]), ["sh"]),
        (pb.ContainerConfig(command=["sh"], args=["-y"]), ["sh", "-y"]),
    ],
)
def test_the_pods_command_goes_over_the_images(config: pb.ContainerConfig, argv: list[str]) -> None:
    assert spec.command(config, {"Entrypoint": ["/entry"], "Cmd": ["-x"]}) == argv


def test_what_is_not_supported_is_refused_by_name(tmp_path: Path) -> None:
    shared = pb.ContainerConfig(
        mounts=[pb.Mount(container_path="/m", host_path="/", propagation=pb.PROPAGATION_BIDIRECTIONAL)]
    )
    with pytest.raises(RuntimeFailure, match="mount /m: Bidirectional propagation is not supported"):
        spec.mounts(shared, {})
    own = pb.NamespaceOption(userns_options=pb.UserNamespace(mode=pb.POD))
    with pytest.raises(RuntimeFailure, match="user namespaces of pods are not supported"):
        spec.spaces(own, 1, 0)
    for endpoint in ("embedded:///x", "embedded://x/y?images=/i", "embedded:///x?images=/i&colour=red"):
        with pytest.raises(ValueError, match="must be embedded:///"):
            parse_endpoint(endpoint)


def test_outer_mounts_come_first_and_the_pods_own_files_win() -> None:
    config = pb.ContainerConfig(
        mounts=[
            pb.Mount(container_path="/a/b", host_path="/2"),
            pb.Mount(container_path="/a", host_path="/1", readonly=True),
            pb.Mount(container_path="/etc/hostname", host_path="/mine"),
        ]
    )
    own = {"/etc/hostname": Path("/theirs"), "/etc/resolv.conf": Path("/r")}
    found = [(each["target"], each["source"]) for each in spec.mounts(config, own)]
    assert found == [("/a", "/1"), ("/a/b", "/2"), ("/etc/hostname", "/mine"), ("/etc/resolv.conf", "/r")]


def test_links_of_an_image_mean_the_image(tmp_path: Path) -> None:
    """Without this, an image whose /etc is a link to /etc would have the host's written to."""
    (tmp_path / "real").mkdir()
    (tmp_path / "etc").symlink_to("/real")
    (tmp_path / "up").symlink_to("../../../../../..")
    assert inside(str(tmp_path), "/etc/resolv.conf") == f"{tmp_path}/real/resolv.conf"
    assert inside(str(tmp_path), "/up/etc/x") == f"{tmp_path}/real/x"
    assert inside(str(tmp_path), "/../../x") == f"{tmp_path}/x"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="too many symbolic links"):
        inside(str(tmp_path), "/loop/x")


def test_what_is_not_isolated_is_said() -> None:
    assert isolation.several_identities("0 1000 1\n1 100000 65536\n")
    assert not isolation.several_identities("         0       1000          1\n")
    poor = isolation.lacking(isolation.Abilities(limits=False, identities=False))
    rich = isolation.lacking(isolation.Abilities(limits=True, identities=True))
    assert set(poor) - set(rich) == {isolation.NO_LIMITS, isolation.ONE_IDENTITY}
    assert any("seccomp" in sentence for sentence in rich)


# -- the network without plugins


CONFLIST = {
    "name": "n",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/29"}]]},
        },
        {"type": "portmap"},
    ],
}
LINK = PodLink("abcdef0123456789", 42, "p", "ns")


def test_addresses_are_given_once_and_given_back(tmp_path: Path) -> None:
    bridge = Bridge(CONFLIST, tmp_path)
    given = [bridge.lease(f"s{number}") for number in range(5)]
    assert given == [f"10.9.0.{number}" for number in range(2, 7)]
    with pytest.raises(OSError, match=r"no IP addresses available in 10\.9\.0\.0/29"):
        bridge.lease("s6")
    bridge.release("s2")
    assert bridge.lease("s7") == "10.9.0.4"


def test_a_pod_is_cabled_to_the_bridge(tmp_path: Path) -> None:
    bridge = Bridge(CONFLIST, tmp_path)
    assert network.host_plan(bridge, LINK)[1] == "address add 10.9.0.1/29 dev cni0"
    assert network.cable_plan(bridge, LINK)[0] == "link add vethabcdef01 type veth peer name eth0 netns 42"
    assert "link set vethabcdef01 type bridge_slave hairpin on" in network.cable_plan(bridge, LINK)
    assert network.pod_plan(bridge, "10.9.0.2/29")[-1] == "route add default via 10.9.0.1"


def test_other_networks_need_the_plugins(tmp_path: Path) -> None:
    vlan = {"name": "n", "plugins": [{"type": "macvlan", "ipam": {"type": "dhcp"}}]}
    with pytest.raises(ValueError, match="only bridge with host-local is supported"):
        Bridge(vlan, tmp_path)
    tuned = {"name": "n", "plugins": [CONFLIST["plugins"][0], {"type": "tuning"}]}  # type: ignore[index]
    with pytest.raises(ValueError, match="plugin tuning is not installed"):
        Bridge(tuned, tmp_path)
    mapped = replace(LINK, ports=({"hostPort": 80},))
    with pytest.raises(ValueError, match="hostPort needs the CNI plugin portmap"):
        asyncio.run(Bridge(CONFLIST, tmp_path).add(mapped))


# -- real processes


@pytest.fixture(params=["embedded", "embedded-rootless"])
def live(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Scenario], None]:
    if os.geteuid() != 0:
        pytest.skip("needs root, also to be without it in an orderly way")
    if lacking := embedded.missing():
        pytest.skip(f"needs {lacking}")
    rootless = request.param == "embedded-rootless"
    return lambda scenario: embedded.play(scenario, tmp_path, rootless=rootless, group=CGROUP)


async def running(runtime: EmbeddedRuntime, tmp: Path, config: pb.ContainerConfig) -> tuple[str, str]:
    """A sandbox and a started container."""
    made = sandbox_config(tmp)
    made.linux.security_context.namespace_options.pid = pb.CONTAINER
    sandbox = await runtime.run_sandbox(made)
    container = await runtime.create_container(sandbox, config, made)
    await runtime.start_container(container)
    return sandbox, container


async def said(runtime: EmbeddedRuntime, container: str, *argv: str) -> str:
    result = await runtime.exec_sync(container, list(argv), 20)
    return (result.stdout + result.stderr).decode().strip()


def stat_of(pid: int) -> list[str]:
    """State, parent, ... of a process (proc(5)); the first is empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return [""]


def alone(*command: str) -> pb.ContainerConfig:
    """A container with its own processes."""
    made = container_config(*command)
    made.linux.security_context.namespace_options.pid = pb.CONTAINER
    return made


@pytest.mark.root
def test_a_kubelet_that_starts_anew_finds_everything(
    live: Callable[[Scenario], None], tmp_path: Path
) -> None:
    async def scenario(runtime: EmbeddedRuntime) -> None:
        sandbox, container = await running(runtime, tmp_path, alone("sh", "-c", "sleep 1000"))
        ended = await runtime.create_container(sandbox, alone("sh", "-c", "exit 9"), sandbox_config(tmp_path))
        await runtime.start_container(ended)
        await until_exited(runtime, ended)
        again = embedded.Ground(tmp_path / "embedded").runtime()
        assert [each.id for each in await again.list_sandboxes()] == [sandbox]
        before, after = [await each.sandbox_status(sandbox) for each in (runtime, again)]
        assert after.status.network.ip == before.status.network.ip != ""
        assert (await again.container_status(container)).state == pb.CONTAINER_RUNNING
        assert (await again.container_status(ended)).exit_code == 9
        assert await said(again, container, "echo", "still") == "still"
        await again.stop_container(container, 0)
        assert (await runtime.container_status(container)).exit_code == 137

    live(scenario)


@pytest.mark.root
def test_without_its_shim_a_container_is_over(live: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def scenario(runtime: EmbeddedRuntime) -> None:
        _, container = await running(runtime, tmp_path, alone("sh", "-c", "sleep 1000"))
        pid = runtime.records.containers[container].pid
        shim = int(stat_of(pid)[1])
        os.kill(shim, signal.SIGKILL)
        ended = await until_exited(runtime, container)
        assert (ended.exit_code, ended.reason) == (255, "Unknown")
        while stat_of(pid)[0] not in ("", "Z"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    live(scenario)


@pytest.mark.root
def test_what_a_container_sees(live: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def scenario(runtime: EmbeddedRuntime) -> None:
        config = alone("sh", "-c", "sleep 1000")
        security = config.linux.security_context
        security.readonly_rootfs = True
        security.masked_paths.append("/proc/keys")
        security.readonly_paths.append("/proc/sys")
        secret = tmp_path / "embedded" / "volume"
        secret.mkdir()
        (secret / "file").write_text("content")
        config.mounts.append(pb.Mount(container_path="/deep/volume", host_path=str(secret), readonly=True))
        config.mounts.append(
            pb.Mount(container_path="/tmp", host_path=str(tmp_path / "embedded" / "scratch"))
        )
        sandbox, container = await running(runtime, tmp_path, config)
        script = (
            "cat /deep/volume/file; echo; cat /proc/keys; "
            "(echo x > /deep/volume/file) 2>/dev/null || echo volume-kept; "
            "(echo x > /bin/x) 2>/dev/null || echo root-kept; "
            "(echo x > /proc/sys/kernel/hostname) 2>/dev/null || echo sysctl-kept; "
            "echo $$; echo x > /tmp/x && cat /tmp/x"
        )
        lines = (await said(runtime, container, "sh", "-c", script)).splitlines()
        assert lines[:4] == ["content", "volume-kept", "root-kept", "sysctl-kept"]
        assert int(lines[4]) < 100  # processes of its own
        assert lines[5] == "x"
        # What is of the host's files is not there.
        assert await said(runtime, container, "sh", "-c", "echo /home /usr /root") == "/home /usr /root"
        assert str(tmp_path) not in await said(runtime, container, "cat", "/proc/self/cmdline")
        assert (await runtime.sandbox_status(sandbox)).status.state == pb.SANDBOX_READY

    live(scenario)


@pytest.mark.root
def test_a_program_that_is_not_there_says_so(live: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def scenario(runtime: EmbeddedRuntime) -> None:
        with pytest.raises(RuntimeFailure, match='exec: "no-such": executable file not found'):
            await running(runtime, tmp_path, alone("no-such"))
        (container,) = await runtime.list_containers()
        ended = await runtime.container_status(container.id)
        assert (ended.exit_code, ended.reason) == (128, "StartError")

    live(scenario)


@pytest.mark.root
def test_a_log_that_was_moved_is_opened_anew(live: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def scenario(runtime: EmbeddedRuntime) -> None:
        config = alone("sh", "-c", "echo first; while [ ! -e /go ]; do sleep 0.05; done; echo second; exit 0")
        _, container = await running(runtime, tmp_path, config)
        log = tmp_path / "p" / "c" / "0.log"
        while "first" not in log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        log.rename(log.with_suffix(".old"))
        await runtime.reopen_log(container)
        await said(runtime, container, "sh", "-c", "echo > /go")
        await until_exited(runtime, container)
        assert log.read_text().endswith(" stdout F second\n")
        assert "second" not in log.with_suffix(".old").read_text()

    live(scenario)


@pytest.mark.root
def test_a_stopped_container_had_its_time(live: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def scenario(runtime: EmbeddedRuntime) -> None:
        obeys = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done"
        _, container = await running(runtime, tmp_path, alone("sh", "-c", obeys))
        log = tmp_path / "p" / "c" / "0.log"
        while "up" not in log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await runtime.stop_container(container, 60)
        assert (await runtime.container_status(container)).exit_code == 5
        assert "bye" in log.read_text()

    live(scenario)


@pytest.mark.root
def test_more_memory_than_allowed_is_an_end(tmp_path: Path) -> None:
    """Only where control groups can be made; elsewhere the lack is said, not hidden."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not isolation.examine().limits:
        pytest.skip("needs control groups")

    async def scenario(runtime: EmbeddedRuntime) -> None:
        config = alone("sh", "-c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done")
        config.linux.resources.memory_limit_in_bytes = 32 << 20
        _, container = await running(runtime, tmp_path, config)
        ended = await until_exited(runtime, container)
        assert (ended.exit_code, ended.reason) == (137, "OOMKilled")

    embedded.play(scenario, tmp_path, rootless=False, group=CGROUP)


@pytest.mark.root
def test_a_limit_that_cannot_be_set_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be without it")

    async def scenario(runtime: EmbeddedRuntime) -> None:
        _, container = await running(runtime, tmp_path, alone("sh", "-c", "sleep 1000"))
        with pytest.raises(RuntimeFailure, match="limits are not enforced"):
            await runtime.update_container(container, pb.LinuxContainerResources(cpu_shares=100))
        (stats,) = await runtime.container_stats()
        assert stats.attributes.id == container
        assert stats.memory.working_set_bytes.value > 0
        with pytest.raises(RuntimeFailure, match='no runtime for "crun" is configured'):
            await runtime.run_sandbox(sandbox_config(tmp_path, "other"), "crun")

    embedded.play(scenario, tmp_path, rootless=True)
