"""The command line: what users type, and the one line they get when it cannot be done."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from deploy import packages
from deploy.api import APIError, Unreachable
from deploy.cli import main, signal_number, state_for
from deploy.packages import Package, install_command
from deploy.trace import TraceError
from deploy.up import ROOT


@pytest.mark.parametrize(
    ("text", "number"), [("KILL", 9), ("sigstop", 19), ("15", 15), ("CONT", signal.SIGCONT)]
)
def test_signals(text: str, number: int) -> None:
    assert signal_number(text) == number


def test_an_unknown_signal_is_named() -> None:
    with pytest.raises(ValueError, match="no signal is called 'BOOM'"):
        signal_number("BOOM")


def test_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARDWAY_STATE", raising=False)
    assert state_for(None, "lab").root == ROOT / ".state" / "lab"
    monkeypatch.setenv("HARDWAY_STATE", str(tmp_path / "env"))
    assert state_for(None, "lab").root == tmp_path / "env"
    assert state_for(tmp_path / "flag", "lab").root == tmp_path / "flag"


def run(tmp_path: Path, *arguments: str) -> int:
    return main(["--state", str(tmp_path / "state"), *arguments])


def test_pki_is_made_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "pki", "generate") == 0
    assert "apiserver.pem: absent" in capsys.readouterr().out
    assert run(tmp_path, "pki", "generate") == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert run(tmp_path, "pki", "status") == 0
    assert "system:node:worker-2" in capsys.readouterr().out
    (tmp_path / "state" / "pki" / "scheduler.pem").unlink()
    assert run(tmp_path, "pki", "status") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("exec", "controller-9", "--", "true"),
            "no host 'controller-9' in topology 'lab' (there are controller-0",
        ),
        (("exec", "controller-0", "--", "true"), "host controller-0 is not up"),
        (("exec", "controller-0"), "exec: a command is needed"),
        (("kill", "controller-0", "etcdlite"), "host controller-0 is not up"),
        (("logs", "worker-0", "nothing"), "units of worker-0: supervisor, containerd, kubelet, kubeproxy"),
        (("kill", "worker-0", "kubelet", "--signal", "X"), "no signal is called 'X'"),
    ],
)
def test_troubles_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(tmp_path, *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("hardway: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_broken_topology_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: lab\n")
    assert main(["--topology", str(path), "status"]) == 1
    assert capsys.readouterr().err == f"hardway: {path}: network: required\n"


def test_status_of_a_cluster_that_is_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "status") == 0
    out = capsys.readouterr().out
    assert out.count("host ") >= 7
    assert out.endswith("Cluster 'lab' is down.\n")


def test_packages_are_installed_without_starting_services(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], str]] = []

    class Done:
        returncode = 0

    def fake_run(command: list[str], *, env: dict[str, str], check: bool) -> Done:
        calls.append((command, env["RUNLEVEL"]))
        return Done()

    monkeypatch.setattr("deploy.packages.subprocess.run", fake_run)
    package = Package("haproxy", "/absent", "balances")
    assert not package.present()
    assert packages.install([package]) == 0
    assert calls == [(["apt-get", "update"], "1"), (install_command([package]), "1")]
    calls.clear()
    assert packages.install([]) == 0
    assert calls == []


def test_doctor_names_absent_packages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "PACKAGES", (Package("haproxy", "/absent", "balances the apiservers"),))
    assert run(tmp_path, "doctor") == 1
    out = capsys.readouterr().out
    assert "FAIL  packages          absent: haproxy (balances the apiservers)" in out
    assert "apt-get install haproxy" in out


@pytest.mark.parametrize(
    "refusal",
    [TraceError("no pod a/b"), Unreachable("no answer"), APIError(403, "pods is forbidden")],
    ids=lambda each: type(each).__name__,
)
def test_what_cannot_be_traced_is_said_in_one_line(
    refusal: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object) -> int:
        raise refusal

    monkeypatch.setattr("deploy.trace.trace", refuse)
    assert run(tmp_path, "trace", "a/b", "svc/c") == 1
    assert capsys.readouterr().err == f"hardway: trace: {refusal}\n"
