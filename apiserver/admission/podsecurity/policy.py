"""Levels and versions of the Pod Security Standards, and what a namespace's labels ask for. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from apimachinery import field
from apimachinery.errors import Cause
from apiserver.admission.podsecurity.checks import BASELINE, CHECKS, RESTRICTED, Check

Object = Mapping[str, Any]

PREFIX = "pod-security.kubernetes.io/"
PRIVILEGED, LATEST = "privileged", "latest"
LEVELS = (PRIVILEGED, BASELINE, RESTRICTED)
NEWEST = 34
_VERSION = re.compile(r"v1\.(0|[1-9]\d*)")


class Standard(NamedTuple):
    """A level of a version (`latest`, or `v1.<minor>`)."""

    level: str = PRIVILEGED
    version: str = LATEST

    def __str__(self) -> str:
        return f"{self.level}:{self.version}"


class Policy(NamedTuple):
    """What a namespace asks for. `wrong` are labels that cannot be read: for them, enforcement is
    restricted, the rest privileged.
    """

    enforce: Standard
    audit: Standard
    warn: Standard
    wrong: tuple[Cause, ...] = ()


def policy_of(labels: Mapping[str, str]) -> Policy:
    found: dict[str, Standard] = {}
    wrong: list[Cause] = []
    for mode in ("enforce", "audit", "warn"):
        key, fallback = PREFIX + mode, RESTRICTED if mode == "enforce" else PRIVILEGED
        level, version = labels.get(key, PRIVILEGED), labels.get(f"{key}-version", LATEST)
        if level not in LEVELS:
            detail = f"must be one of {', '.join(LEVELS)}"
            wrong.append(field.invalid(f"metadata.labels[{key}]", level, detail))
            level = fallback
        if version != LATEST and not _VERSION.fullmatch(version):
            detail = 'must be "latest" or "v1.x"'
            wrong.append(field.invalid(f"metadata.labels[{key}-version]", version, detail))
            version = LATEST
        found[mode] = Standard(level, version)
    warn = found["warn"] if PREFIX + "warn" in labels else Standard()
    return Policy(found["enforce"], found["audit"], warn, tuple(wrong))


@lru_cache(64)
def checks_of(standard: Standard) -> tuple[Check, ...]:
    """The checks of a standard, by id."""
    if standard.level == PRIVILEGED:
        return ()
    match = _VERSION.fullmatch(standard.version)
    minor = min(int(match[1]), NEWEST) if match else NEWEST
    chosen: dict[str, Check] = {}
    for check in CHECKS:
        if check.since <= minor and (check.level == BASELINE or standard.level == RESTRICTED):
            known = chosen.get(check.id)
            if known is None or known.since < check.since:
                chosen[check.id] = check
    overridden = {name for check in chosen.values() for name in check.overrides}
    return tuple(chosen[name] for name in sorted(chosen) if name not in overridden)


def violations(standard: Standard, metadata: Object, spec: Object) -> str:
    """What a pod does that the standard forbids, as `reason (detail), ...`; "" when nothing."""
    found = ((check.reason, check.run(metadata, spec)) for check in checks_of(standard))
    return ", ".join(f"{reason} ({detail})" for reason, detail in found if detail)
