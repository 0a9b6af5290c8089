"""The order of API versions: stable before beta before alpha, higher numbers first, odd names last. Pure."""

from __future__ import annotations

import re

_VERSION = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")
_STABILITY = {None: 0, "beta": 1, "alpha": 2}


def version_order(version: str) -> tuple[int, int, int, str]:
    """A sort key (apimachinery/pkg/version.CompareKubeAwareVersionStrings, highest priority first)."""
    match = _VERSION.fullmatch(version)
    if match is None:
        return 3, 0, 0, version
    return _STABILITY[match[2]], -int(match[1]), -int(match[3] or 0), version
