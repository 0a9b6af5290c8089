"""How a container's first processes outlive the kubelet: started apart, known by a lock, told of by a line.

The kubelet starts a small program and reads its report; the program goes on in a child that belongs to
nobody (the host's pid 1 collects it). While it lives it holds the lock of its directory, so a later kubelet
sees who is alive without trusting process numbers. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

LOCK = "lock"
SPEC = "spec.json"
STARTED = "started.json"
EXITED = "exited.json"
STARTED_LINE = b"started\n"


def write_whole(path: str, document: dict[str, Any]) -> None:
    """The old content or the new, whatever happens meanwhile."""
    fresh = f"{path}.new"
    with open(fresh, "w") as file:
        json.dump(document, file)
    os.replace(fresh, path)


def held(directory: str) -> bool:
    """Whether the process that keeps this directory's container or sandbox lives."""
    try:
        with open(f"{directory}/{LOCK}", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def forget_descriptors(keep: set[int]) -> None:
    """Close whatever this process inherited beyond the standard three."""
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number > 2 and number not in keep:
            with contextlib.suppress(OSError):
                os.close(number)


def detached(directory: str, live: Callable[[dict[str, Any], int, int], int]) -> NoReturn:
    """Go on in a child as `live(spec, lock, report)`, whose result is its exit status.

    `report` is the pipe that the kubelet reads: STARTED_LINE when the program runs, else one line that says
    why not.
    """
    # An event loop may leave further ends of the same pipes to its children (uvloop does).
    forget_descriptors(set())
    report = os.dup(1)
    with open(f"{directory}/{SPEC}") as file:
        spec = json.load(file)
    lock = os.open(f"{directory}/{LOCK}", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.fork():
        os._exit(0)
    code = 1
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1):
            os.dup2(null, number)
        code = live(spec, lock, report)
    except BaseException as error:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            os.write(report, f"{type(error).__name__}: {error}\n".encode())
    finally:
        sys.stderr.flush()
        os._exit(code)


def first_process(become: Callable[[set[int]], NoReturn], keep: set[int]) -> tuple[int, str]:
    """Fork what will become the program; its number, and why it did not, or nothing. Standard descriptors
    are `become`'s to set.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            become(keep | {writing})
        except BaseException as error:
            os.write(writing, str(error).encode()[:4000] or b"failed")
        finally:
            os._exit(128)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        problem = pipe.read().decode(errors="replace")
    return pid, problem
