"""NamespaceLifecycle: nothing is created in a namespace that does not exist or is ending; some namespaces
never end.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from apimachinery import errors
from apiserver.admission.base import Context, Plugin, forbid
from apiserver.registry.call import Call

IMMORTAL = frozenset({"default", "kube-system", "kube-public"})
REVIEWS = frozenset({"localsubjectaccessreviews"})


LIVE_LOOKUP_SECONDS = 30.0
"""So long after its deletion was asked for here, a namespace is looked up in the store: the cache may lag."""


class NamespaceLifecycle(Plugin):
    def __init__(self, context: Context, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(context)
        self._clock = clock
        self._ending: dict[str, float] = {}  # deleted by way of this server, and until when that matters

    async def mutate(self, call: Call) -> None:
        if (
            call.is_for("", "namespaces")
            or not call.kind.namespaced
            or call.old is not None
            or call.obj is None
        ):
            return
        if call.kind.resource in REVIEWS:
            return
        look_up = self.context.live if call.namespace in self._ending else self.context.current
        namespace = await look_up("", "namespaces", "", call.namespace)
        if namespace is None:
            raise errors.not_found("", "namespaces", call.namespace)
        if (namespace.get("status") or {}).get("phase") == "Terminating" or "deletionTimestamp" in namespace[
            "metadata"
        ]:
            why = f"unable to create new content in namespace {call.namespace} because it is being terminated"
            error = forbid(call, why)
            error.status["details"]["causes"] = [
                {
                    "reason": "NamespaceTerminating",
                    "message": f"namespace {call.namespace} is being terminated",
                    "field": "metadata.namespace",
                }
            ]
            raise error

    async def validate(self, call: Call) -> None:
        if call.verb == "delete" and call.is_for("", "namespaces") and call.name in IMMORTAL:
            raise forbid(call, "this namespace may not be deleted")
        if call.verb == "delete" and call.is_for("", "namespaces"):
            now = self._clock()
            self._ending = {name: until for name, until in self._ending.items() if until > now}
            self._ending[call.name] = now + LIVE_LOOKUP_SECONDS
