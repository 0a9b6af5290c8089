"""`python -m bench.sampled OUTPUT PACKAGE FLAGS...`: run a daemon and sample where its CPU goes.

A timer of CPU time (not of the wall) interrupts the process a few hundred times a second; each sample is the
stack of Python functions at that moment, innermost first, with C code counted at the function that called it.
The counts are written to OUTPUT as JSON when the daemon ends.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

INTERVAL = 0.002
DEPTH = 60

Stack = tuple[str, ...]


def _name(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_filename}:{code.co_qualname}"


def sampler(samples: Counter[Stack]) -> None:
    """Count a stack at every tick from now on."""

    def tick(_: int, frame: FrameType | None) -> None:
        stack: list[str] = []
        while frame is not None and len(stack) < DEPTH:
            stack.append(_name(frame))
            frame = frame.f_back
        samples[tuple(stack)] += 1

    signal.signal(signal.SIGPROF, tick)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)


def main(argv: list[str]) -> int:
    output, package, *flags = argv
    application = importlib.import_module(f"{package}.app")
    samples: Counter[Stack] = Counter()
    # A reset tells the part of interest from what came before it.
    signal.signal(signal.SIGUSR2, lambda *_: samples.clear())
    sampler(samples)
    try:
        status: int = application.main(flags)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        rows = [[count, *stack] for stack, count in samples.most_common()]
        Path(output).write_text(json.dumps(rows))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
