"""Certificates are rotated by replacing the kubeconfig; this notices it."""

from __future__ import annotations

import logging
from pathlib import Path

from componentbase.clock import Clock
from pki.kubeconfig import KubeconfigError, load

log = logging.getLogger(__name__)

INTERVAL = 30.0
"""Seconds between two looks; certificates live for months."""


async def replaced(path: Path, clock: Clock, interval: float = INTERVAL) -> None:
    """Until `path` holds another kubeconfig than now. One that cannot be used is passed over."""
    before = _content(path)
    bad = b""
    while True:
        await clock.sleep(interval)
        now = _content(path)
        if now in (b"", before, bad):
            continue
        try:
            load(path)
        except (KubeconfigError, OSError) as error:
            log.error("the new kubeconfig is not used: %s", error)
            bad = now
            continue
        return


def _content(path: Path) -> bytes:
    """Nothing while the file is being replaced, or is not there."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
