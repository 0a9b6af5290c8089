"""Query parameters and bodies that steer a call: ListOptions, DeleteOptions, write options. Pure; raise 400
by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from apimachinery import errors, field
from apimachinery.errors import Cause
from apimachinery.managedfields.owners import NAME_LIMIT as MANAGER_LIMIT
from apiserver.rest.info import RequestInfo

PROPAGATIONS = ("Orphan", "Background", "Foreground")
FIELD_VALIDATIONS = ("", "Ignore", "Warn", "Strict")


@dataclass(frozen=True, slots=True)
class ListOptions:
    """`meta/v1` ListOptions."""

    label_selector: str = ""
    field_selector: str = ""
    resource_version: str = ""
    match: str = ""
    limit: int = 0
    token: str = ""
    bookmarks: bool = False
    send_initial_events: bool | None = None
    timeout_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Create-, Update- and PatchOptions."""

    dry_run: bool = False
    field_validation: str = "Warn"
    field_manager: str = ""
    force: bool = False  # PatchOptions of an apply


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """`meta/v1` DeleteOptions."""

    dry_run: bool = False
    grace_seconds: int | None = None
    propagation: str = ""
    uid: str = ""
    resource_version: str = ""


def list_options(info: RequestInfo) -> ListOptions:
    """Parse and cross-check, with Kubernetes' rules for which parameters may stand together."""
    send = info.flag("sendInitialEvents") if "sendInitialEvents" in info.query else None
    timeout = _integer(info, "timeoutSeconds") if info.first("timeoutSeconds") else None
    options = ListOptions(
        info.first("labelSelector"),
        info.first("fieldSelector"),
        info.first("resourceVersion"),
        info.first("resourceVersionMatch"),
        _integer(info, "limit"),
        info.first("continue"),
        info.flag("allowWatchBookmarks"),
        send,
        timeout,
    )
    parse_version(options.resource_version)
    _check_match(options, watching=info.verb == "watch")
    return options


def parse_version(text: str) -> int:
    """A resourceVersion as a number ("" is 0)."""
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        message = f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise errors.invalid("", "ListOptions", "", [Cause("FieldValueInvalid", message, "resourceVersion")])
    return int(text)


def _check_match(options: ListOptions, *, watching: bool) -> None:
    def refuse(name: str, message: str) -> None:
        raise errors.invalid(
            "meta.k8s.io", "ListOptions", "", [Cause("FieldValueForbidden", f"Forbidden: {message}", name)]
        )

    match = options.match
    if watching:
        if options.send_initial_events is not None and match != "NotOlderThan":
            refuse(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )
        if options.send_initial_events is None and match:
            refuse(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )
        return
    if options.send_initial_events is not None:
        refuse("sendInitialEvents", "sendInitialEvents is forbidden for list")
    if not match:
        return
    if match not in ("Exact", "NotOlderThan"):
        refuse("resourceVersionMatch", f'"{match}" is not one of Exact, NotOlderThan')
    if not options.resource_version:
        refuse("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided")
    if options.token:
        refuse("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided")
    if match == "Exact" and options.resource_version == "0":
        refuse("resourceVersionMatch", 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')


_WRITE_KINDS = {"create": "CreateOptions", "update": "UpdateOptions"}


def write_options(info: RequestInfo, *, applies: bool = False) -> WriteOptions:
    """Create-, Update- or PatchOptions. Raises 400 and 422."""
    validation = info.first("fieldValidation")
    if validation not in FIELD_VALIDATIONS:
        raise errors.bad_request(
            f'fieldValidation: Unsupported value: "{validation}": supported values: "Ignore", '
            '"Strict", "Warn"'
        )
    manager = info.first("fieldManager")
    causes = list(_manager_causes(manager))
    if info.verb == "patch":
        if applies and not manager:
            causes.insert(0, field.required("fieldManager", "is required for apply patch"))
        if not applies and "force" in info.query:
            causes.insert(0, field.forbidden("force", "may not be specified for non-apply patch"))
    if causes:
        raise errors.invalid("meta.k8s.io", _WRITE_KINDS.get(info.verb, "PatchOptions"), "", causes)
    force = applies and info.flag("force")
    return WriteOptions(_dry_run(info.query.get("dryRun")), validation or "Warn", manager, force)


def _manager_causes(manager: str) -> Iterator[Cause]:
    if len(manager.encode()) > MANAGER_LIMIT:
        yield field.too_long("fieldManager", MANAGER_LIMIT)
    for at, letter in enumerate(manager):
        if not letter.isprintable():
            shown = f"U+{ord(letter):04X}"
            yield field.invalid("fieldManager", manager, f"invalid character {shown} (at position {at})")


def delete_options(info: RequestInfo, body: dict[str, Any] | None) -> DeleteOptions:
    """From the body, or from the query where there is no body, as DELETE allows both."""
    if body is None:
        body = {}
        if info.first("gracePeriodSeconds"):
            body["gracePeriodSeconds"] = _integer(info, "gracePeriodSeconds")
        if info.first("propagationPolicy"):
            body["propagationPolicy"] = info.first("propagationPolicy")
    elif body.get("kind", "DeleteOptions") != "DeleteOptions":
        raise errors.bad_request(f'the body of a DELETE must be DeleteOptions, not "{body.get("kind")}"')
    grace, propagation = body.get("gracePeriodSeconds"), body.get("propagationPolicy") or ""
    if body.get("orphanDependents") is not None:
        propagation = "Orphan" if body["orphanDependents"] else "Background"
    if propagation not in ("", *PROPAGATIONS):
        listed = ", ".join(f'"{value}"' for value in sorted(PROPAGATIONS))
        message = f'Invalid value: "{propagation}": must be one of {listed} or nil'
        raise errors.invalid(
            "", "DeleteOptions", "", [Cause("FieldValueInvalid", message, "propagationPolicy")]
        )
    if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool)):
        raise errors.bad_request("gracePeriodSeconds: must be an integer")
    preconditions = body.get("preconditions") or {}
    if not isinstance(preconditions, dict):
        raise errors.bad_request("preconditions: must be an object")
    dry = _dry_run(body.get("dryRun") or info.query.get("dryRun"))
    uid, version = str(preconditions.get("uid") or ""), str(preconditions.get("resourceVersion") or "")
    return DeleteOptions(dry, None if grace is None else max(grace, 0), propagation, uid, version)


def _dry_run(values: list[str] | None) -> bool:
    if not values or values == [""]:
        return False
    if values != ["All"]:
        raise errors.bad_request(f'dryRun: Unsupported value: "{values[0]}": supported values: "All"')
    return True


def _integer(info: RequestInfo, name: str) -> int:
    text = info.first(name)
    if not text:
        return 0
    try:
        value = int(text)
    except ValueError:
        raise errors.bad_request(f'{name}: Invalid value: "{text}": must be an integer') from None
    if name == "limit" and value < 0:
        raise errors.bad_request("limit: Invalid value: must not be negative")
    return value
