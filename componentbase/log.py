"""Logging: one line per record on stderr, with the fields after the message.

    2026-01-02T03:04:05.678Z INFO kubeproxy.sync rules programmed services=12 seconds=0.031

Fields are given as `extra={"services": 12}`. A traceback follows its record on indented lines.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
# These libraries report every request at INFO; that is detail here.
_CHATTY = ("httpx", "httpcore", "asyncio", "uvicorn.access", "hpack")
_DEBUG_VERBOSITY = 4


class LineFormatter(logging.Formatter):
    """Formats a record as described above; control characters in messages are escaped."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = f"{stamp}.{int(record.msecs):03d}Z {record.levelname} {self._origin(record.name)} "
        fields = [f"{key}={_field(value)}" for key, value in vars(record).items() if key not in _STANDARD]
        line = " ".join([head + _one_line(record.getMessage()), *fields])
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n" + _indented(self.formatException(record.exc_info))
        if record.stack_info:
            line += "\n" + _indented(record.stack_info)
        return line

    def _origin(self, name: str) -> str:
        if name == self._component or name.startswith(self._component + "."):
            return name
        return f"{self._component}.{name}" if name != "root" else self._component


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def _field(value: object) -> str:
    text = _one_line(str(value))
    if text and " " not in text and '"' not in text:
        return text
    return '"' + text.replace('"', '\\"') + '"'


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def setup(component: str, verbosity: int = 0, stream: TextIO | None = None) -> None:
    """Send all logging of this process to `stream` (stderr). Verbosity 4 and more shows debug records
    (klog's `-v`).
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(LineFormatter(component))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbosity >= _DEBUG_VERBOSITY else logging.INFO)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(
            logging.DEBUG if verbosity >= 2 * _DEBUG_VERBOSITY else logging.WARNING
        )
    logging.captureWarnings(True)
