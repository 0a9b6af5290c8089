"""NamespaceLifecycle: nothing is created in a namespace that does not exist or is ending; some namespaces
never end.
"""

from __future__ import annotations

from apimachinery import errors
from apiserver.admission.base import Plugin, forbid
from apiserver.registry.call import Call

IMMORTAL = frozenset({"default", "kube-system", "kube-public"})
REVIEWS = frozenset({"localsubjectaccessreviews"})


class NamespaceLifecycle(Plugin):
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
        namespace = await self.context.current("", "namespaces", "", call.namespace)
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
