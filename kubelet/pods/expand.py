"""`$(NAME)` in commands, arguments and environment values, by the rules of Kubernetes' container API.

`$(NAME)` becomes the variable's value; `$$` becomes `$`, so `$$(NAME)` stays `$(NAME)`; a reference to an
unknown variable stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace the references in `text`."""

    def value(match: re.Match[str]) -> str:
        if match.group(0) == "$$":
            return "$"
        return variables.get(match.group(1), match.group(0))

    return _REFERENCE.sub(value, text)
