"""The three patch formats of the API. Each module has `apply(original, patch, ...)`, which never changes
its inputs.

The result shares every part that the patch does not touch with the original: only the path to a change is
copied.
"""

from __future__ import annotations

from apimachinery.errors import Cause, StatusError, status


def rejected(why: str) -> StatusError:
    """422 as the apiserver answers a well-formed patch that cannot be applied; `why` goes into the causes."""
    return status(
        422,
        "Invalid",
        "the server rejected our request due to an error in our request",
        details={"causes": [Cause("UnexpectedServerResponse", why, "patch").as_dict()]},
    )
