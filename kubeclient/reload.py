"""Certificates are rotated by replacing the kubeconfig, or the files it names; this notices it."""

from __future__ import annotations

import logging
from pathlib import Path

from componentbase.clock import Clock
from pki.kubeconfig import Kubeconfig, KubeconfigError, load

log = logging.getLogger(__name__)

INTERVAL = 10.0
"""Seconds between two looks."""


async def replaced(path: Path, clock: Clock, interval: float = INTERVAL) -> None:
    """Until `path` leads to other credentials than now. What cannot be used is passed over."""
    before, complaint = _usable(path), ""
    while True:
        await clock.sleep(interval)
        try:
            now = load(path)
        except FileNotFoundError:  # it is being replaced
            continue
        except (KubeconfigError, OSError) as error:
            if str(error) != complaint:
                log.error("the new kubeconfig is not used: %s", error)
            complaint = str(error)
            continue
        if now != before:
            return


def _usable(path: Path) -> Kubeconfig | None:
    try:
        return load(path)
    except (KubeconfigError, OSError):
        return None
