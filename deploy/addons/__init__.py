"""What every cluster of this kind runs on itself, as plain manifests with a few `${NAMES}` filled in."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DIRECTORY = Path(__file__).parent


def names() -> list[str]:
    """The add-ons, in the order in which they are applied."""
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def load(name: str, values: Mapping[str, str]) -> list[dict[str, Any]]:
    """The objects of one add-on. Raises KeyError for a `${NAME}` without a value."""
    text = string.Template((DIRECTORY / f"{name}.yaml").read_text()).substitute(values)
    return [document for document in yaml.safe_load_all(text) if document]
