"""Plugins for CertificateSigningRequests: who asks is written by the server, and who may approve and sign is
asked of the authorizer, signer by signer.
"""

from __future__ import annotations

import base64

from cryptography import x509
from cryptography.x509.oid import NameOID

from apiserver.admission.base import Plugin, forbid, is_create
from apiserver.auth.authorize import Attributes
from apiserver.auth.user import MASTERS
from apiserver.registry.call import Call

GROUP, RESOURCE = "certificates.k8s.io", "certificatesigningrequests"
IDENTITY = ("username", "uid", "groups", "extra")
API_CLIENT = "kubernetes.io/kube-apiserver-client"


class CertificateRequestor(Plugin):
    """Always on: approvers trust `spec.username` and its neighbours (certificates.k8s.io/v1)."""

    def handles(self, call: Call) -> bool:
        return call.is_for(GROUP, RESOURCE) and is_create(call)

    async def mutate(self, call: Call) -> None:
        assert call.obj is not None
        spec = call.obj.setdefault("spec", {})
        for field in IDENTITY:
            spec.pop(field, None)
        spec.update(call.user.as_dict())


class SignerPlugin(Plugin):
    """What needs a verb on the `signers` of a request."""

    verb, done = "", ""

    def _may(self, call: Call) -> None:
        """Raises 403 unless the user holds the verb for this signer, or all of its domain."""
        assert call.old is not None
        signer = str((call.old.get("spec") or {}).get("signerName", ""))
        names = (signer, f"{signer.partition('/')[0]}/*")
        wanted = (Attributes(call.user, self.verb, GROUP, "signers", "", name, version="*") for name in names)
        if not any(self.context.authorizer.allows(each) for each in wanted):
            raise forbid(call, f'user not permitted to {self.done} requests with signerName "{signer}"')


class CertificateApproval(SignerPlugin):
    verb, done = "approve", "approve"

    def handles(self, call: Call) -> bool:
        updates = call.obj is not None and call.old is not None
        return updates and call.is_for(GROUP, RESOURCE) and call.subresource == "approval"

    async def validate(self, call: Call) -> None:
        self._may(call)


class CertificateSigning(SignerPlugin):
    """A certificate, or word that there will be none, comes from who may sign."""

    verb, done = "sign", "sign"

    def handles(self, call: Call) -> bool:
        updates = call.obj is not None and call.old is not None
        return updates and call.is_for(GROUP, RESOURCE) and call.subresource == "status"

    async def validate(self, call: Call) -> None:
        assert call.obj is not None and call.old is not None
        new, old = call.obj.get("status") or {}, call.old.get("status") or {}
        if new.get("certificate") != old.get("certificate") or new.get("conditions") != old.get("conditions"):
            self._may(call)


class CertificateSubjectRestriction(Plugin):
    """Nobody gets a client certificate of the administrators' group by request."""

    def handles(self, call: Call) -> bool:
        return call.is_for(GROUP, RESOURCE) and is_create(call)

    async def validate(self, call: Call) -> None:
        assert call.obj is not None
        spec = call.obj.get("spec") or {}
        if spec.get("signerName") != API_CLIENT:
            return
        try:
            request = x509.load_pem_x509_csr(base64.b64decode(spec.get("request", "")))
        except ValueError as error:
            raise forbid(call, f"unable to parse request: {error}") from error
        organizations = request.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        if any(each.value == MASTERS for each in organizations):
            raise forbid(call, f"use of {API_CLIENT} signer with {MASTERS} group is not allowed")
