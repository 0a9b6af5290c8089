"""What every cluster of this kind runs on itself, as plain manifests with a few `${NAMES}` filled in."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DIRECTORY = Path(__file__).parent


def load(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """The objects of all manifests, in the order of file names. Raises KeyError for a name without a
    value."""
    objects: list[dict[str, Any]] = []
    for path in sorted(DIRECTORY.glob("*.yaml")):
        text = string.Template(path.read_text()).substitute(values)
        objects += [document for document in yaml.safe_load_all(text) if document]
    return objects
