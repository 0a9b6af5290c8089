"""Service files on a host: what its supervisor loads and starts, and the `systemctl` that asks for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import systemd
from deploy.control import Control, HostDown, Refused
from deploy.supervisor import Supervisor
from deploy.systemd import systemctl
from deploy.systemd.systemctl import UsageError
from deploy.units import Unit

SERVICE = "[Service]\nEnvironmentFile={env}\nExecStart=/bin/thing --name=${{HOST}}\nRestart=always\n"


class Quiet(Supervisor):
    """Decides as the real one does, and starts nothing: `started` has what it would have."""

    def __init__(self, units: list[Unit], listener: socket.socket, **options: Any) -> None:
        super().__init__("h", units, listener, **options)
        self.started: list[Unit] = []

    def start(self, name: str) -> None:
        self.started.append(self.units[name])
        self.lives[name].become_running(1000 + len(self.started), 0.0)

    def send(self, name: str, number: int) -> None:
        """The process obeys at once."""
        self.lives[name].become_dead(0, 0.0)


class Direct:
    """A control socket without the socket."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        answer = self.supervisor.command({"command": command, **arguments})
        if "error" in answer:
            raise Refused(answer["error"])
        return answer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(systemd, "DIRECTORY", str(tmp_path))
    monkeypatch.setattr(systemd, "WANTS", str(tmp_path / "multi-user.target.wants"))
    monkeypatch.setattr(systemctl, "DIRECTORY", str(tmp_path))
    monkeypatch.setattr(systemctl, "WANTS", str(tmp_path / "multi-user.target.wants"))
    (tmp_path / "host.env").write_text("HOST=here\n")
    (tmp_path / "thing.service").write_text(SERVICE.format(env=tmp_path / "host.env"))
    return tmp_path


@pytest.fixture
def host(folder: Path) -> Iterator[Quiet]:
    with socket.socket() as listener:
        yield Quiet([], listener, descriptors={"FD": 7})


def run(host: Quiet, *argv: str) -> int:
    return systemctl.run(Direct(host), argv)  # type: ignore[arg-type]


def test_a_service_is_loaded_when_it_is_first_started(host: Quiet) -> None:
    assert run(host, "start", "thing") == 0
    (unit,) = host.started
    assert (unit.program, unit.arguments) == ("/bin/thing", ("--name=here",))
    assert unit.environment["FD"] == "7" and unit.inherits == (7,)


def test_a_changed_file_counts_after_daemon_reload_and_restart(host: Quiet, folder: Path) -> None:
    run(host, "start", "thing")
    file = folder / "thing.service"
    file.write_text(file.read_text().replace("--name", "--other"))
    run(host, "restart", "thing")
    assert host.started[-1].arguments == ("--name=here",)
    run(host, "daemon-reload")
    run(host, "restart", "thing")
    assert host.started[-1].arguments == ("--other=here",)


def test_a_bad_file_is_an_answer_and_leaves_what_was_loaded(host: Quiet, folder: Path) -> None:
    run(host, "start", "thing")
    (folder / "thing.service").write_text("[Service]\nExecStart=/bin/x\nUser=me\n")
    with pytest.raises(Refused, match="User is not supported"):
        run(host, "daemon-reload")
    assert host.units["thing"].program == "/bin/thing"


def test_a_removed_file_is_forgotten_once_it_does_not_run(host: Quiet, folder: Path) -> None:
    run(host, "start", "thing")
    (folder / "thing.service").unlink()
    run(host, "daemon-reload")
    assert "thing" in host.units
    run(host, "stop", "thing")
    run(host, "daemon-reload")
    assert "thing" not in host.units
    with pytest.raises(Refused, match="no unit 'thing'"):
        run(host, "start", "thing")


def test_enable_is_a_link_that_counts_at_boot(host: Quiet, folder: Path) -> None:
    host.boot()
    assert host.started == []
    assert run(host, "enable", "thing.service") == 0
    assert (folder / "multi-user.target.wants" / "thing.service").is_symlink()
    host.boot()
    assert [unit.name for unit in host.started] == ["thing"]
    run(host, "disable", "--now", "thing")
    assert not (folder / "multi-user.target.wants" / "thing.service").exists()
    assert run(host, "is-active", "thing") == 3


def test_what_a_host_was_given_is_not_replaced_by_a_file(folder: Path) -> None:
    given = Unit(name="thing", program="/bin/given")
    with socket.socket() as listener:
        host = Quiet([given], listener)
        run(host, "enable", "thing")
        host.boot()
        run(host, "daemon-reload")
        assert host.started == [given] and host.units["thing"] is given


def test_one_bad_file_does_not_keep_the_others_down_at_boot(host: Quiet, folder: Path) -> None:
    (folder / "bad.service").write_text("[Service]\nUser=me\n")
    run(host, "enable", "bad", "thing")
    host.boot()
    assert [unit.name for unit in host.started] == ["thing"]


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("mask", "thing"), "command mask is not supported"),
        (("start", "--no-block", "thing"), "option --no-block of start"),
        (("start",), "which service"),
        (("start", "../etc/passwd"), "not the name of a service"),
        (("enable", "nowhere"), "does not exist"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(host: Quiet, argv: tuple[str, ...], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        run(host, *argv)


def test_states_in_systemds_words(host: Quiet, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(host, "is-active", "thing") == 3
    run(host, "start", "thing")
    assert run(host, "is-active", "thing") == 0
    assert capsys.readouterr().out.split() == ["inactive", "active"]
    assert run(host, "status", "thing") == 0
    assert run(host, "status", "other") == 3
    assert "Unit other.service could not be found." in capsys.readouterr().out


def test_a_supervisor_that_is_slow_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[dict[str, Any] | None] = [None, None, {"units": {}}]

    def call(self: Control, command: str, **arguments: Any) -> dict[str, Any]:
        answer = answers.pop(0)
        if answer is None:
            raise HostDown("did not answer")
        return answer

    monkeypatch.setattr(Control, "call", call)
    monkeypatch.setattr(systemctl, "POLL", 0.0)
    assert systemctl.Patient("h", Path("/nowhere")).call("status") == {"units": {}}
    answers.append(None)
    monkeypatch.setattr(systemctl, "ANSWER_TIMEOUT", -1.0)
    with pytest.raises(HostDown):
        systemctl.Patient("h", Path("/nowhere")).call("status")
