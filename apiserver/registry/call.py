"""One call to the registry: who does what to which object. Admission plugins see the same value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from apimachinery.scheme import Kind
from apiserver.auth.user import User

Object = dict[str, Any]


class Writer(NamedTuple):
    """Whose the changed fields will be: a field manager, and the subresource it writes through."""

    name: str
    subresource: str = ""


SELF = Writer("kube-apiserver")  # writes of the server's own


@dataclass(slots=True)
class Call:
    """`obj` is what will be written (None for deletions), `old` what is stored (None for creations).

    `writer` is None where nobody comes to own what changes: an apply has settled that before, a binding or an
    eviction never does.
    """

    verb: str
    kind: Kind
    namespace: str
    name: str
    user: User
    subresource: str = ""
    dry_run: bool = False
    obj: Object | None = None
    old: Object | None = None
    options: Any = None
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)  # for the audit log
    writer: Writer | None = SELF

    def is_for(self, group: str, resource: str) -> bool:
        return self.kind.group == group and self.kind.resource == resource
