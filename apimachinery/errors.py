"""The one exception that crosses the API: a Kubernetes `Status` that says what went wrong.

Reasons and codes follow `meta/v1` `StatusReason` of Kubernetes. Every constructor returns an exception
ready to raise; its `status` is the object that goes on the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cause:
    """One entry of `status.details.causes`: what is wrong with which field."""

    reason: str
    message: str
    field: str = ""

    def as_dict(self) -> dict[str, str]:
        out = {"reason": self.reason, "message": self.message}
        if self.field:
            out["field"] = self.field
        return out


class StatusError(Exception):
    """An API call failed with this `Status` object."""

    def __init__(self, status: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(status.get("message", ""))
        self.status = status
        self.headers = headers or {}

    @property
    def code(self) -> int:
        return int(self.status.get("code", 500))

    @property
    def reason(self) -> str:
        return str(self.status.get("reason", ""))

    @property
    def message(self) -> str:
        return str(self.status.get("message", ""))


def status(
    code: int,
    reason: str,
    message: str,
    *,
    details: dict[str, Any] | None = None,
    retry_after: int = 0,
) -> StatusError:
    """Build a failure `Status`."""
    body: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    headers: dict[str, str] = {}
    if retry_after:
        details = {**(details or {}), "retryAfterSeconds": retry_after}
        headers["Retry-After"] = str(retry_after)
    if details:
        body["details"] = details
    return StatusError(body, headers)


def _qualified(group: str, resource: str) -> str:
    return f"{resource}.{group}" if group else resource


def _details(group: str, kind: str, name: str) -> dict[str, Any]:
    out = {"name": name, "group": group, "kind": kind}
    return {key: value for key, value in out.items() if value}


def not_found(group: str, resource: str, name: str) -> StatusError:
    return status(
        404,
        "NotFound",
        f'{_qualified(group, resource)} "{name}" not found',
        details=_details(group, resource, name),
    )


def already_exists(group: str, resource: str, name: str) -> StatusError:
    return status(
        409,
        "AlreadyExists",
        f'{_qualified(group, resource)} "{name}" already exists',
        details=_details(group, resource, name),
    )


def conflict(group: str, resource: str, name: str, why: str) -> StatusError:
    return status(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {_qualified(group, resource)} "{name}": {why}',
        details=_details(group, resource, name),
    )


def invalid(group: str, kind: str, name: str, causes: Sequence[Cause]) -> StatusError:
    """422: the object does not pass validation; every cause names its field."""
    texts = [f"{cause.field}: {cause.message}" for cause in causes]
    listed = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    kind_name = f"{kind}.{group}" if group else kind
    return status(
        422,
        "Invalid",
        f'{kind_name} "{name}" is invalid: {listed}',
        details={**_details(group, kind, name), "causes": [cause.as_dict() for cause in causes]},
    )


def bad_request(message: str) -> StatusError:
    return status(400, "BadRequest", message)


def unauthorized(message: str = "Unauthorized") -> StatusError:
    return status(401, "Unauthorized", message)


def forbidden(group: str, resource: str, name: str, why: str) -> StatusError:
    target = f'{_qualified(group, resource)} "{name}"' if name else _qualified(group, resource)
    return status(403, "Forbidden", f"{target} is forbidden: {why}", details=_details(group, resource, name))


def method_not_supported(group: str, resource: str, verb: str) -> StatusError:
    return status(
        405,
        "MethodNotAllowed",
        f"{verb} is not supported on resources of kind {_qualified(group, resource)!r}".replace("'", '"'),
        details=_details(group, resource, ""),
    )


def not_acceptable(message: str) -> StatusError:
    return status(406, "NotAcceptable", message)


def unsupported_media_type(message: str) -> StatusError:
    return status(415, "UnsupportedMediaType", message)


def gone(message: str) -> StatusError:
    """410 `Expired`: the asked-for resourceVersion or continue token is too old."""
    return status(410, "Expired", message)


def too_large(message: str) -> StatusError:
    return status(413, "RequestEntityTooLarge", message)


def too_many_requests(message: str, retry_after: int = 1) -> StatusError:
    return status(429, "TooManyRequests", message, retry_after=retry_after)


def timeout(message: str) -> StatusError:
    return status(504, "Timeout", message)


def service_unavailable(message: str, retry_after: int = 1) -> StatusError:
    return status(503, "ServiceUnavailable", message, retry_after=retry_after)


def internal_error(message: str) -> StatusError:
    return status(500, "InternalError", f"Internal error occurred: {message}")


def is_not_found(error: BaseException) -> bool:
    return isinstance(error, StatusError) and error.reason == "NotFound"


def is_already_exists(error: BaseException) -> bool:
    return isinstance(error, StatusError) and error.reason == "AlreadyExists"


def is_conflict(error: BaseException) -> bool:
    return isinstance(error, StatusError) and error.reason == "Conflict"


def is_gone(error: BaseException) -> bool:
    return isinstance(error, StatusError) and error.code == 410
