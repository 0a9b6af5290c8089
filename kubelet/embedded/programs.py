"""Starting the small programs of this folder, each in an interpreter of its own, and talking to shims."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from kubelet.cri.port import RuntimeFailure
from kubelet.embedded import detach
from kubelet.embedded.shim import SOCKET

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60.0


def program(name: str, argument: str) -> list[str]:
    """The command line of `kubelet.embedded.<name>`. Without site packages, which it does not need, an
    interpreter is there in some milliseconds.
    """
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from kubelet.embedded.{name} import main; main()"
    return [sys.executable, "-I", "-S", "-B", "-c", code, argument]


async def start(name: str, directory: Path) -> None:
    """Start a holder or a shim and read its report. Raises `RuntimeFailure` with why it did not start."""
    environment = {"PATH": os.environ.get("PATH", "")}
    with (directory / "errors").open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *program(name, str(directory)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=environment,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT):
            report = await process.stdout.read()
    except TimeoutError as error:
        raise RuntimeFailure(f"{name}: no report within {TIMEOUT:.0f}s") from error
    finally:
        await process.wait()
    if report != detach.STARTED_LINE:
        said = report.decode(errors="replace").strip()
        raise RuntimeFailure(said or f"{name} died: {(directory / 'errors').read_text()[-500:]}")


class ShimGone(Exception):
    """The container's shim does not listen: the container has ended."""


async def dial_shim(
    directory: Path, asked: dict[str, object]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask a shim for something it obeys; the connection stays open, and ends when the shim ends.

    Raises `ShimGone`.
    """
    try:
        folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ShimGone(str(error)) from error
    try:
        # Paths of sockets are short; the way through the open directory is shorter than any.
        path = f"/proc/self/fd/{folder}/{SOCKET}"
        reader, writer = await asyncio.open_unix_connection(path)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ShimGone(str(error)) from error
    finally:
        os.close(folder)
    try:
        writer.write(json.dumps(asked).encode() + b"\n")
        async with asyncio.timeout(TIMEOUT):
            answer = await reader.readline()
    except (ConnectionError, TimeoutError) as error:
        writer.close()
        raise ShimGone(str(error)) from error
    if answer != b"ok\n":
        writer.close()
        raise ShimGone("the shim ended")
    return reader, writer


async def tell_shim(directory: Path, asked: dict[str, object]) -> None:
    """Ask, and hang up. Raises `ShimGone`."""
    _, writer = await dial_shim(directory, asked)
    writer.close()


def specification(document: dict[str, object]) -> int:
    """An open file in memory that holds a specification: environments may be long, and are nobody else's."""
    descriptor = os.memfd_create("specification", os.MFD_CLOEXEC)
    os.write(descriptor, json.dumps(document).encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
