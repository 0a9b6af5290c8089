"""Who asks for a certificate is written by the server, never by the one who asks."""

from __future__ import annotations

from apiserver.admission.base import Plugin, is_create
from apiserver.registry.call import Call

IDENTITY = ("username", "uid", "groups", "extra")


class CertificateRequestor(Plugin):
    """Always on: approvers trust `spec.username` and its neighbours (certificates.k8s.io/v1)."""

    def handles(self, call: Call) -> bool:
        return call.is_for("certificates.k8s.io", "certificatesigningrequests") and is_create(call)

    async def mutate(self, call: Call) -> None:
        assert call.obj is not None
        spec = call.obj.setdefault("spec", {})
        for field in IDENTITY:
            spec.pop(field, None)
        spec.update(call.user.as_dict())
