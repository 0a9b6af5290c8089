"""Packing a daemon with its Python: what is found, and (as root) that it runs with nothing else around it."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from deploy.images import python
from deploy.images.oci import write_layer

ROOT = Path(python.__file__).resolve().parents[2]
LDD = """\
	linux-vdso.so.1 (0x00007ffd)
	libpython3.11.so.1.0 => /opt/py/lib/libpython3.11.so.1.0 (0x00007f01)
	libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f02)
	libgone.so.1 => not found
	/lib64/ld-linux-x86-64.so.2 (0x00007f03)
"""


def test_ldd_output() -> None:
    assert python.parse_ldd(LDD) == [
        Path("/opt/py/lib/libpython3.11.so.1.0"),
        Path("/lib/x86_64-linux-gnu/libm.so.6"),
        Path("/lib64/ld-linux-x86-64.so.2"),
    ]


def test_whole_packages_are_taken(tmp_path: Path) -> None:
    for name in ("numpy/core/x.py", "six.py", "unused/y.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = [tmp_path / "numpy" / "core" / "x.py", tmp_path / "six.py", Path("/usr/lib/other.py")]
    assert [path.name for path in python.top_level(files, [tmp_path])] == ["numpy", "six.py"]


@pytest.mark.parametrize(
    ("requirements", "names"),
    [
        (["httpcore==1.*", "anyio (>=3)", "a.b-c"], ["httpcore", "anyio", "a.b-c"]),
        (["h2<5,>=3; extra == 'http2'", 'x; extra=="y"', "z; python_version<'4'"], ["z"]),
    ],
)
def test_requirements(requirements: list[str], names: list[str]) -> None:
    assert python.required_names(requirements) == names


def test_what_is_imported_late_is_packed_too() -> None:
    [site, *_] = python.site_directories()
    names = {path.name for path in python.with_requirements([site / "httpx"])}
    assert {"httpx", "httpcore", "h11", "anyio", "certifi", "idna"} <= names
    assert not any(name.endswith(".dist-info") for name in names)


def test_a_module_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(python.PackingError, match="cannot import no_such_module: ModuleNotFoundError"):
        python.loaded_files(["no_such_module"], ROOT)


def test_the_fingerprint_follows_the_sources(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text("x = 1\n")
    before = python.fingerprint(["room"], tmp_path)
    assert python.fingerprint(["room"], tmp_path) == before
    (tmp_path / "room" / "a.py").write_text("x = 2\n")
    assert python.fingerprint(["room"], tmp_path) != before


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
def test_the_packed_interpreter_needs_nothing_of_the_machine(tmp_path: Path) -> None:
    entries = python.python_entries(["pki.layout"], ["pki"], ROOT)
    archive, tree = tmp_path / "layer.tar", tmp_path / "tree"
    with archive.open("wb") as file:
        write_layer(entries, file)
    with tarfile.open(archive) as layer:
        layer.extractall(tree, filter="fully_trusted")
    code = "import ssl, sqlite3, pki.layout; print(pki.layout.__file__)"
    environment = {
        "PYTHONHOME": python.HOME,
        "PYTHONPATH": python.SITE,
        "LD_LIBRARY_PATH": f"{python.HOME}/lib",
    }
    command = ["/usr/sbin/chroot", str(tree), f"{python.HOME}/bin/python3", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{python.SITE}/pki/layout.py\n", "")
