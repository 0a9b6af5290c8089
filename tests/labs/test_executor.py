"""Typing into shells: what is kept between blocks, and that a lab which is wrong is found out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.labs import text
from deploy.labs.executor import Record, Terminal, execute, faults, summary
from deploy.labs.session import Session, SessionLost
from deploy.state import State
from deploy.topology import TOPOLOGIES, load

LAB = load(TOPOLOGIES / "lab.yaml")
PATIENCE = 60.0


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session(["bash", "--norc", "--noprofile"], environment=dict(os.environ))
    yield made
    made.close()


def test_variables_functions_and_folders_are_kept(session: Session) -> None:
    session.run("cd /usr; colour=blue; say() { echo it is $1; }", timeout=PATIENCE)
    outcome = session.run("pwd; say $colour", timeout=PATIENCE)
    assert outcome.output.split("\n")[:2] == ["/usr", "it is blue"] and outcome.failed == ""


def test_the_first_command_that_fails_is_named(session: Session) -> None:
    outcome = session.run("true\ngrep nothing /dev/null\nfalse", timeout=PATIENCE)
    assert outcome.failed == "1 grep nothing /dev/null"
    assert session.run("true", timeout=PATIENCE).failed == ""


def test_a_command_that_may_fail_is_no_failure(session: Session) -> None:
    code = "if false; then :; fi\nfalse || true\nuntil true; do false; done"
    assert session.run(code, timeout=PATIENCE).failed == ""


def test_input_comes_from_nowhere_and_heredocs_work(session: Session) -> None:
    assert session.run("cat", timeout=PATIENCE).output.strip() == ""
    assert session.run("cat <<EOF\n$((1 + 1))\nEOF", timeout=PATIENCE).output.strip() == "2"


def test_output_and_errors_are_both_heard(session: Session) -> None:
    assert session.run("echo one; echo two >&2", timeout=PATIENCE).output.split() == ["one", "two"]


def test_a_shell_that_ends_is_lost(session: Session) -> None:
    with pytest.raises(SessionLost, match="the shell ended"):
        session.run("exit 3", timeout=PATIENCE)


def test_a_block_that_does_not_end_is_lost(session: Session) -> None:
    with pytest.raises(SessionLost, match="not finished in time"):
        session.run("sleep 600", timeout=0.2)
    session.abandon()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(TOPOLOGIES / "lab.yaml", LAB, State("lab", tmp_path))
    yield made
    made.close()


def lab(markdown: str) -> text.Lab:
    return text.parse(Path("01-example.md"), f"# 01 Example\n{markdown}")


def reasons(terminal: Terminal, markdown: str) -> list[str]:
    made = lab(markdown)
    return [fault.reason for fault in faults(terminal, made, Record(made))]


def test_a_lab_that_is_right(terminal: Terminal) -> None:
    markdown = (
        "```sh workstation\nx=1\n```\n```sh workstation verify\necho $x\n```\n```text expected\n1\n```\n"
    )
    assert reasons(terminal, markdown) == []


def test_output_that_differs_is_a_fault(terminal: Terminal) -> None:
    markdown = "```sh workstation verify\necho 2\n```\n```text expected\n1\n```\n"
    assert reasons(terminal, markdown) == ["expected '1', found '2'"]


def test_a_command_that_fails_is_a_fault(terminal: Terminal) -> None:
    (reason,) = reasons(terminal, "```sh workstation\necho so; ls /nowhere\n```\n")
    assert reason.startswith("`ls /nowhere` ended with 2") and "so" in reason


def test_what_takes_a_while_is_typed_again(terminal: Terminal, tmp_path: Path) -> None:
    markdown = (
        f"```sh workstation verify within=60\necho x >> {tmp_path}/n; wc -l < {tmp_path}/n\n```\n"
        "```text expected\n3\n```\n"
    )
    assert reasons(terminal, markdown) == []


def test_each_lab_begins_in_new_terminals(terminal: Terminal) -> None:
    assert reasons(terminal, "```sh workstation\nkept=yes\n```\n") == []
    later = '```sh workstation verify\necho "<$kept>"\n```\n```text expected\n<>\n```\n'
    assert reasons(terminal, later) == []


def test_manual_commands_are_not_typed(terminal: Terminal) -> None:
    assert reasons(terminal, "```sh workstation manual\nfalse\n```\n") == []


def test_the_first_lab_with_a_fault_is_the_last_and_the_table_counts_it(terminal: Terminal) -> None:
    good, bad = lab("```sh workstation\ntrue\n```\n"), lab("```sh workstation\nfalse\n```\n")
    lines: list[str] = []
    records = execute(terminal, [good, bad, good], lambda lab: [], lines.append)
    assert [len(record.faults) for record in records] == [0, 1]
    assert any("DIFFERENCE 01-example.md:2 on workstation" in line for line in lines)
    assert summary(records).splitlines()[-1].split()[:4] == ["all", "2", "0", "1"]


def test_what_the_check_says_counts_as_a_difference(terminal: Terminal) -> None:
    records = execute(terminal, [lab("")], lambda lab: ["it is broken"], lambda line: None)
    assert [fault.reason for fault in records[0].faults] == ["it is broken"]


def test_the_address_outside_is_this_labs_own() -> None:
    document = (TOPOLOGIES / "lab.yaml").read_text().replace("127.0.0.1:6443", "127.0.0.1:7443")
    import yaml

    from deploy.topology import parse

    terminal = Terminal(Path("x"), parse(yaml.safe_load(document)), State("lab", Path("/nonexistent")))
    assert terminal.localized("workstation", "https://127.0.0.1:6443/x") == "https://127.0.0.1:7443/x"
    assert terminal.localized("worker-0", "https://127.0.0.1:6443/x") == "https://127.0.0.1:6443/x"
    terminal.close()
