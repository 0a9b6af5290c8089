"""The program that runs a command in a running container: `enter <descriptor of a specification>`.

Its standard descriptors are the command's, unless `terminal` names the socket that takes our end of a new
one. Its exit status is the command's, 128 and the signal's number when a signal ended it; killed, it takes
the command along. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import Any, NoReturn

from componentbase import linux
from kubelet.embedded import detach, process


def _command(spec: dict[str, Any]) -> NoReturn:
    code = process.COMMAND_NOT_FOUND
    try:
        os.setsid()
        if spec["terminal"] is not None:
            process.new_terminal(spec["terminal"], spec["process"]["uid"])
        process.execute(spec["process"])
    except (OSError, process.CannotStart) as error:
        if isinstance(error, OSError) or "not found" not in str(error):
            code = process.NOT_EXECUTABLE
        with contextlib.suppress(OSError):
            os.write(2, f"{error}\n".encode())
    finally:
        os._exit(code)


def main() -> NoReturn:
    """Run with the number of an open file that holds the specification."""
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        spec = json.load(file)
    terminal = spec["terminal"]
    detach.forget_descriptors(set() if terminal is None else {terminal})
    process.join_groups(spec["cgroups"])
    for path in spec["enter"]:
        linux.join(path)
    pid = os.fork()
    if pid == 0:
        _command(spec)
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda number, frame: os.kill(pid, number))
    if terminal is not None:
        os.close(terminal)
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)  # whoever reads must see the end when the command ends
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)
