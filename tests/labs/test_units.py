"""The service files start what the bring-up starts: the same programs with the same flags, on every host."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy import configs, steps, systemd
from deploy.configs import Machine
from deploy.labs import text
from deploy.systemd import unitfile
from deploy.systemd.unitfile import UnitFileError
from deploy.topology import TOPOLOGIES, Host, load
from deploy.units import OUTSIDE_FD_VARIABLE, TABLE, units_for

LAB = load(TOPOLOGIES / "lab.yaml")
MACHINE = Machine(restrict_oom=False)
GROUP = "/hardway/x/worker"
SERVICES = sorted(path.stem for path in systemd.HERE.glob("*.service"))
HEREDOC = re.compile(
    r"cat > /etc/systemd/system/(\w+)\.service <<'EOF'\n(.*?)^EOF$", re.DOTALL | re.MULTILINE
)


def read_on(host: Host) -> unitfile.Read:
    """Files of a host as the bring-up writes them."""
    files = configs.files_for(LAB, host, MACHINE, cgroup_root=GROUP)

    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    return read


@pytest.mark.parametrize("host", LAB.hosts, ids=lambda host: host.name)
def test_command_lines_are_those_of_the_bring_up(host: Host) -> None:
    for planned in units_for(LAB, host, cgroup_root=GROUP):
        content = (systemd.HERE / f"{planned.name}.service").read_text()
        unit = unitfile.parse(planned.name, content, read_on(host), {OUTSIDE_FD_VARIABLE: "5"})
        assert (unit.program, *unit.arguments) == unitfile.command_line(planned)
        assert unit.log == planned.log
        assert unit.grace == planned.grace


def test_there_is_a_service_file_for_every_unit_and_no_other() -> None:
    assert sorted(name for names in TABLE.values() for name in names) == SERVICES


def test_the_labs_have_the_reader_write_exactly_these_files() -> None:
    bootstrap = [lab for lab in text.load() if lab.number <= steps.STEPS[-1].lab]
    found = [pair for lab in bootstrap for pair in HEREDOC.findall(lab.path.read_text())]
    for name, content in found:
        assert content == (systemd.HERE / f"{name}.service").read_text(), f"{name}.service"
    assert sorted(name for name, _ in found) == SERVICES


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_takes_them(tmp_path: Path) -> None:
    for path in systemd.HERE.glob("*.service"):
        (tmp_path / path.name).write_text(path.read_text())
    files = [str(path) for path in sorted(tmp_path.glob("*.service"))]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    mine = [line for line in done.stderr.splitlines() if str(tmp_path) in line or ".service:" in line]
    complaints = [line for line in mine if any(f"{name}.service" in line for name in SERVICES)]
    assert complaints == []


# -- what a host refuses
# ------------------------------------------------------------------------------------------------


def parse(content: str, *, environment: str = "") -> object:
    def read(path: str) -> str:
        if not environment:
            raise FileNotFoundError(path)
        return environment

    return unitfile.parse("thing", content, read, {})


def test_variables_and_continued_lines() -> None:
    content = (
        "[Service]\nEnvironmentFile=/e\nExecStart=/bin/x --a=${A} \\\n    '--b=${B} c'\nTimeoutStopSec=2min\n"
    )
    unit = unitfile.parse("thing", content, lambda path: 'A=1\nB="two 2"\n', {})
    assert (unit.program, unit.arguments, unit.grace) == ("/bin/x", ("--a=1", "--b=two 2 c"), 120.0)
    assert unit.environment == {"A": "1", "B": "two 2"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[Service]\nExecStart=/bin/x\nUser=nobody\n", "[Service] User is not supported"),
        ("[Service]\nExecStart=/bin/x\nRestart=no\n", "Restart=no"),
        ("[Service]\nExecStart=x\n", "absolute path"),
        ("[Service]\nRestart=always\n", "0 times ExecStart"),
        ("[Service]\nExecStart=/bin/x\nExecStart=/bin/y\n", "2 times ExecStart"),
        ("[Service]\nExecStart=/bin/x ${NOT_THERE}\n", "${NOT_THERE} is not set"),
        ("[Service]\nEnvironmentFile=/e\nExecStart=/bin/x\n", "EnvironmentFile /e is absent"),
        ("[Service]\nStandardOutput=journal\nExecStart=/bin/x\n", "StandardOutput=journal"),
        ("[Timer]\nOnCalendar=daily\n", "[Timer] OnCalendar is not supported"),
        ("nonsense\n", "neither a section nor a setting"),
    ],
)
def test_what_a_host_cannot_do_is_refused_by_name(content: str, why: str) -> None:
    with pytest.raises(UnitFileError, match=re.escape(why)):
        parse(content)


def test_an_optional_environment_file_may_be_absent() -> None:
    parse("[Service]\nEnvironmentFile=-/e\nExecStart=/bin/x\n")
