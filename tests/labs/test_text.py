"""Reading a lab's Markdown, and that every lab of this repository is well formed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.labs import text
from deploy.labs.text import Command, LabError
from deploy.topology import TOPOLOGIES, load

LABS = text.load()
LAB = load(TOPOLOGIES / "lab.yaml")
SECTIONS = re.compile(r"^## (.+)$", re.MULTILINE)


def commands(markdown: str) -> list[Command]:
    return list(text.commands(markdown, "x.md"))


def test_blocks_become_commands() -> None:
    markdown = """# 01 Title
```sh controller-0
one
two
```
```yaml
not: typed
```
```sh workstation manual
zero
```
```sh workers verify within=30 check="it is broken"
three
```
Words between do not matter.
```text expected
output
```
"""
    assert commands(markdown) == [
        Command(2, "controller-0", "one\ntwo\n"),
        Command(9, "workstation", "zero\n", manual=True),
        Command(12, "workers", "three\n", "output\n", 30.0, "it is broken"),
    ]


@pytest.mark.parametrize(
    ("markdown", "why"),
    [
        ("```sh\nx\n```", "x.md:1: on which host"),
        ("```sh h verify\nx\n```", "x.md:1: no `text expected` block follows"),
        ("```sh h verify\nx\n```\n```sh h\ny\n```", "x.md:1: no `text expected` block follows"),
        ("```text expected\nx\n```", "x.md:1: expected output of which command"),
        ("```sh h within=3\nx\n```", "only a `verify` block"),
        ("```sh h verify withn=3\nx\n```", "'withn=3' is not a mark"),
        ("```sh h\nx", "x.md:1: the block does not end"),
    ],
)
def test_bad_marks_are_refused_by_name(markdown: str, why: str) -> None:
    with pytest.raises(LabError, match=re.escape(why)):
        commands(markdown)


def test_a_missing_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "01-a.md").write_text("# 01 A\n")
    (tmp_path / "03-c.md").write_text("# 03 C\n")
    with pytest.raises(LabError, match="numbers"):
        text.load(tmp_path)


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.path.stem)
def test_every_lab_has_the_parts_of_a_lab(lab: text.Lab) -> None:
    content = lab.path.read_text()
    sections = SECTIONS.findall(content)
    for section in ("Verify", "Look at", "Question"):
        assert section in sections, f"{lab.path.name} has no section {section!r}"
    assert "<details><summary>Answer</summary>\n\n" in content and "\n\n</details>" in content
    assert lab.verifications > 0
    following = next((other for other in LABS if other.number == lab.number + 1), None)
    last = content.rstrip().splitlines()[-1]
    if following is not None:
        assert last == f"Next: [{following.path.stem[:2]} {following.title}]({following.path.name})"


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.path.stem)
def test_every_command_names_a_host_there_is(lab: text.Lab) -> None:
    known = {text.WORKSTATION, "router", *text.GROUPS, *(host.name for host in LAB.hosts)}
    for command in lab.commands:
        assert set(command.where.split(",")) <= known | {"worker-3"}, f"{lab.path.name}:{command.line}"


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.path.stem)
def test_the_host_of_a_block_can_be_read(lab: text.Lab) -> None:
    """Who reads the rendered text does not see info strings."""
    lines = lab.path.read_text().splitlines()
    for command in lab.commands:
        assert lines[command.line - 2] == text.heading(command.where), f"{lab.path.name}:{command.line}"


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.path.stem)
def test_info_strings_are_legal_markdown(lab: text.Lab) -> None:
    """CommonMark: the info string of a fence of backticks contains none, or there is no block."""
    for line in lab.path.read_text().splitlines():
        assert not (line.startswith("```") and "`" in line[3:]), line


def test_the_index_lists_every_lab() -> None:
    index = (text.DIRECTORY / "README.md").read_text()
    for lab in LABS:
        assert f"| [{lab.number:02}]({lab.path.name}) | {lab.title} |" in index


def test_links_lead_somewhere() -> None:
    for path in text.DIRECTORY.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+?)\)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"
