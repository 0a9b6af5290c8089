"""Authorization: attributes of a request, the authorizers asked in order, and Kubernetes' words for a
refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from apimachinery import errors
from apimachinery.errors import StatusError
from apiserver.auth.user import MASTERS, User
from apiserver.rest.info import RequestInfo


class Decision(Enum):
    ALLOW = "allow"
    DENY = "deny"
    NO_OPINION = "no opinion"


@dataclass(slots=True)
class Attributes:
    """What is decided about (`authorization/v1` ResourceAttributes / NonResourceAttributes plus the user).
    Nobody changes one; see RequestInfo.
    """

    user: User
    verb: str
    group: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    path: str = ""
    version: str = ""
    field_selector: str = ""  # as it was asked with; only authorizers that allow less without one look at it

    @property
    def is_resource(self) -> bool:
        return bool(self.resource)


def attributes_of(user: User, info: RequestInfo) -> Attributes:
    if not info.is_resource:
        return Attributes(user, info.verb, path=info.path)
    return Attributes(
        user,
        info.verb,
        info.group,
        info.resource,
        info.namespace,
        info.name,
        info.subresource,
        info.path,
        info.version,
        info.first("fieldSelector") if info.query else "",
    )


class Authorizer(Protocol):
    def authorize(self, wanted: Attributes) -> tuple[Decision, str]:
        """A decision and the reason for it."""


class AlwaysAllow:
    def authorize(self, wanted: Attributes) -> tuple[Decision, str]:
        return Decision.ALLOW, ""


class AlwaysDeny:
    def authorize(self, wanted: Attributes) -> tuple[Decision, str]:
        return Decision.NO_OPINION, "Everything is forbidden."


class Union:
    """Members of system:masters may do everything; then the first authorizer that has an opinion decides."""

    def __init__(self, authorizers: Sequence[Authorizer]) -> None:
        self._authorizers = tuple(authorizers)

    def authorize(self, wanted: Attributes) -> tuple[Decision, str]:
        if MASTERS in wanted.user.groups:
            return Decision.ALLOW, ""
        reasons = []
        for authorizer in self._authorizers:
            decision, reason = authorizer.authorize(wanted)
            if decision is not Decision.NO_OPINION:
                return decision, reason
            if reason:
                reasons.append(reason)
        return Decision.NO_OPINION, ", ".join(reasons)

    def allows(self, wanted: Attributes) -> bool:
        return self.authorize(wanted)[0] is Decision.ALLOW


def refusal(wanted: Attributes, reason: str = "") -> StatusError:
    """403 in the words of Kubernetes."""
    who = f'User "{wanted.user.name}" cannot {wanted.verb}'
    if not wanted.is_resource:
        text = f'{who} path "{wanted.path}"'
    else:
        resource = f"{wanted.resource}/{wanted.subresource}" if wanted.subresource else wanted.resource
        where = f' in the namespace "{wanted.namespace}"' if wanted.namespace else " at the cluster scope"
        text = f'{who} resource "{resource}" in API group "{wanted.group}"{where}'
    if reason:
        text += f": {reason}"
    if wanted.is_resource:
        return errors.forbidden(wanted.group, wanted.resource, wanted.name, text)
    return errors.status(403, "Forbidden", f"forbidden: {text}", details={})
