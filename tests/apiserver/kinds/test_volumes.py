"""PersistentVolumeClaims: what of them may change, and when."""

from __future__ import annotations

from typing import Any

from tests.apiserver.kinds.helpers import causes, kind_of, made, update_causes

CLAIM = kind_of("", "persistentvolumeclaims")


def claim(**spec: Any) -> dict[str, Any]:
    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return made(CLAIM, spec=wanted | spec)


def test_a_class_may_be_filled_in_but_not_changed() -> None:
    """A claim made before there was a default class gets it later (KEP-3333)."""
    assert causes(CLAIM, claim()) == []
    assert update_causes(CLAIM, claim(storageClassName="late"), claim()) == []
    for before in ("", "early"):
        found = update_causes(CLAIM, claim(storageClassName="late"), claim(storageClassName=before))
        assert len(found) == 1 and "spec is immutable after creation" in found[0]


def test_a_volume_may_be_named_once() -> None:
    assert update_causes(CLAIM, claim(volumeName="v"), claim()) == []
    assert update_causes(CLAIM, claim(volumeName="w"), claim(volumeName="v")) != []
