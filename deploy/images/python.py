"""Packing one of our daemons with the Python it runs on: interpreter, standard library, shared libraries,
packages.

What a daemon needs is not guessed from its text: an interpreter imports it and tells which distributions its
modules came from. Paths inside the image are our own (`/usr/lib/hardway`), so the image does not depend on
where this machine keeps its environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from deploy.images.oci import Entry, Image

HOME = "/usr/lib/hardway"
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
STDLIB = f"{HOME}/lib/{VERSION}"
SITE = f"{HOME}/site"
# Parts of the standard library that no daemon imports and that are large.
LEFT_OUT = frozenset(
    {
        *("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data", "venv"),
        *("site-packages", "dist-packages", "__pycache__"),
    }
)
# Extension modules that only its own tests, or a display, would load.
UNUSED = re.compile(r"(_tkinter|_test\w*|_ctypes_test|_xx\w*|xx\w*)\.cpython-")
TIMEOUT = 60.0
# Run in a fresh interpreter: every loaded module's file, so that namespace packages and extensions are
# found too.
PROBE = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted({getattr(m, "__file__", None) or "" for m in list(sys.modules.values())})))
"""


class PackingError(Exception):
    """An image could not be packed; says what was missing."""


def loaded_files(modules: Sequence[str], root: Path) -> list[Path]:
    """The files of every module that importing `modules` (found from `root`) loads. Raises PackingError."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *modules],
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(root), *(entry for entry in sys.path if entry)]),
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise PackingError(f"cannot import {', '.join(modules)}: {last[0]}")
    return [Path(name) for name in json.loads(done.stdout.splitlines()[-1]) if name]


def site_directories() -> list[Path]:
    """Where third-party packages are installed, resolved."""
    names = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    names.update(entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages")))
    return [Path(name).resolve() for name in sorted(names) if Path(name).is_dir()]


def top_level(files: Iterable[Path], sites: Sequence[Path]) -> list[Path]:
    """The outermost packages (or single modules) of `sites` that `files` belong to."""
    found: set[Path] = set()
    for file in files:
        for site in sites:
            resolved = file.resolve()
            if resolved.is_relative_to(site):
                found.add(site / resolved.relative_to(site).parts[0])
    return sorted(found)


def required_names(requirements: Iterable[str]) -> list[str]:
    """The distributions that requirement lines (PEP 508) name, without those of optional extras."""
    names: list[str] = []
    for line in requirements:
        name = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line)
        if name is not None and not re.search(r"\bextra\s*==", line):
            names.append(name.group())
    return names


def with_requirements(packages: Iterable[Path]) -> list[Path]:
    """`packages` and all of the distributions they belong to and require, recursively: much is imported only
    when it is first used. A requirement that is not installed belongs to another platform or Python and is
    left out."""
    owners = metadata.packages_distributions()
    found = set(packages)
    pending = {owner for package in found for owner in owners.get(package.name.partition(".")[0], ())}
    done: set[str] = set()
    while pending:
        name = pending.pop()
        done.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found.update(_content(distribution))
        pending.update(set(required_names(distribution.requires or ())) - done)
    return sorted(found)


def _content(distribution: metadata.Distribution) -> set[Path]:
    """The outermost packages, modules and library folders that a distribution brought."""
    tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
    paths = {
        Path(str(distribution.locate_file(top))) for top in tops if not top.endswith((".dist-info", ".pth"))
    }
    return {path.resolve() for path in paths if path.exists()}


def _tree(source: Path, target: str, left_out: frozenset[str]) -> Iterator[Entry]:
    if source.is_file():
        yield Entry(f"{target}/{source.name}", 0o644, source=source)
        return
    for directory, names, files in os.walk(source):
        names[:] = sorted(name for name in names if name not in left_out and not name.startswith("config-"))
        inside = Path(directory).relative_to(source.parent)
        for name in sorted(files):
            if not name.endswith((".pyc", ".pyi", ".a", ".pxd", ".c", ".h")) and not UNUSED.match(name):
                yield Entry(f"{target}/{inside}/{name}", 0o644, source=Path(directory) / name)


def _stdlib_entries() -> Iterator[Entry]:
    stdlib = Path(sysconfig.get_path("stdlib"))
    for child in sorted(stdlib.iterdir()):
        if child.name in LEFT_OUT or child.name.startswith("config-") or child.name.endswith(".a"):
            continue
        yield from _tree(child, STDLIB, LEFT_OUT)


def parse_ldd(output: str) -> list[Path]:
    """The libraries that `ldd` resolved, the dynamic linker included."""
    found = re.findall(r"(?:=>\s+)?(/\S+)\s+\(0x[0-9a-f]+\)", output)
    return [Path(name) for name in found]


def libraries(binaries: Sequence[Path]) -> list[Path]:
    """Every shared library the `binaries` need, as ldd sees it."""
    done = subprocess.run(
        ["ldd", *map(str, binaries)], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    return sorted(set(parse_ldd(done.stdout)))


def _library_entries(binaries: Sequence[Path], packed: set[Path]) -> Iterator[Entry]:
    """System libraries keep their own path, where the linker's built-in search finds them; the interpreter's
    own library goes to HOME/lib, where LD_LIBRARY_PATH points."""
    for library in libraries(binaries):
        resolved = library.resolve()
        if resolved in packed:
            continue
        system = str(library).startswith(("/lib", "/usr/lib"))
        place = str(library) if system else f"{HOME}/lib/{library.name}"
        yield Entry(place, 0o755, source=resolved)


def _own_packages(packages: Sequence[str], root: Path) -> Iterator[Entry]:
    for package in packages:
        if not (root / package).is_dir():
            raise PackingError(f"package {package} is not in {root}")
        yield from _tree(root / package, SITE, frozenset({"__pycache__"}))


def python_entries(modules: Sequence[str], packages: Sequence[str], root: Path) -> list[Entry]:
    """Everything that running `python -m <module>` takes. Raises PackingError."""
    interpreter = Path(sys.executable).resolve()
    entries = [Entry(f"{HOME}/bin/python3", 0o755, source=interpreter), *_stdlib_entries()]
    for package in with_requirements(top_level(loaded_files(modules, root), site_directories())):
        entries += _tree(package, SITE, frozenset({"__pycache__", "tests", "test"}))
    entries += _own_packages(packages, root)
    sources = [entry.source for entry in entries if entry.source is not None]
    binaries = [source for source in sources if re.search(r"\.so(\.\d+)*$", source.name)]
    packed = {source.resolve() for source in binaries}
    entries += _library_entries([interpreter, *binaries], packed)
    entries += [Entry("/etc/passwd", 0o644, content=b"root:x:0:0:root:/:/bin/false\n"), Entry("/tmp", 0o1777)]
    return entries


def fingerprint(packages: Sequence[str], root: Path) -> str:
    """Twelve digits that change when our sources, the interpreter or its environment change."""
    digest = hashlib.sha256(sys.version.encode())
    for site in site_directories():
        digest.update("".join(sorted(path.name for path in site.glob("*.dist-info"))).encode())
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    for path in (Path(__file__), Path(__file__).with_name("oci.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def daemon_image(reference: str, package: str, packages: Sequence[str], root: Path) -> Image:
    """An image whose entrypoint is `python -m <package>`. Raises PackingError."""
    return Image(
        references=(reference,),
        entries=python_entries([f"{package}.app"], packages, root),
        machine=platform.machine(),
        entrypoint=(f"{HOME}/bin/python3", "-m", package),
        environment={
            "PATH": f"{HOME}/bin:/bin",
            "PYTHONHOME": HOME,
            "PYTHONPATH": SITE,
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LD_LIBRARY_PATH": f"{HOME}/lib",
            "SSL_CERT_FILE": "/etc/ssl/none",
        },
    )
