"""The three loops: approve, sign, clean."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import ClassVar

from controllers import objects as o
from controllers.certificates import signing
from controllers.objects import Object
from controllers.runtime import Context, Controller, Periodic, TryAgain, ignore_not_found
from kubeclient.resources import CERTIFICATESIGNINGREQUESTS, SUBJECTACCESSREVIEWS
from pki.ca import Authority, load_certificate, load_key

SIGNERS = (signing.CLIENT, signing.KUBELET_CLIENT, signing.KUBELET_SERVING, signing.LEGACY)
PERIOD = 600.0
DONE, PENDING = 3600.0, 24 * 3600.0  # seconds that decided and undecided requests are kept
_APPROVALS = (
    ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."),
    ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
)


def has(csr: Object, kind: str) -> bool:
    return o.condition(csr, kind) is not None


def with_condition(csr: Object, kind: str, reason: str, message: str, now: float) -> Object:
    stamp = o.format_time(now)
    new = {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastUpdateTime": stamp,
        "lastTransitionTime": stamp,
    }
    conditions = [*(o.status(csr).get("conditions") or ()), new]
    return o.with_status(csr, {**o.status(csr), "conditions": conditions})


class CSRApprover(Controller):
    """Approves a kubelet's request for its own client certificate if RBAC lets the requestor have one."""

    name: ClassVar[str] = "certificatesigningrequest-approving-controller"
    account: ClassVar[str] = "certificate-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.requests = self.watch(CERTIFICATESIGNINGREQUESTS, self.enqueue)

    async def sync(self, key: str) -> float | None:
        csr = self.requests.store.get(key)
        if csr is None or has(csr, "Approved") or has(csr, "Denied") or o.status(csr).get("certificate"):
            return None
        wish = signing.recognized(csr)
        if wish is None:
            return None
        for subresource, message in _APPROVALS:
            if subresource == "selfnodeclient" and wish.common_name != o.spec(csr).get("username"):
                continue
            if await self._may(csr, subresource):
                approved = with_condition(csr, "Approved", "AutoApproved", message, self.clock.now())
                await ignore_not_found(
                    self.client.update(CERTIFICATESIGNINGREQUESTS, approved, subresource="approval")
                )
                return None
        # Rights may be given later, and no event of the request would tell.
        raise TryAgain(f"recognized csr {key} but subject access review was not approved")

    async def _may(self, csr: Object, subresource: str) -> bool:
        spec = o.spec(csr)
        review = {
            "apiVersion": SUBJECTACCESSREVIEWS.api_version,
            "kind": SUBJECTACCESSREVIEWS.kind,
            "spec": {
                "user": spec.get("username", ""),
                "uid": spec.get("uid", ""),
                "groups": list(spec.get("groups") or ()),
                "extra": dict(spec.get("extra") or {}),
                "resourceAttributes": {
                    "group": CERTIFICATESIGNINGREQUESTS.group,
                    "resource": CERTIFICATESIGNINGREQUESTS.resource,
                    "version": "*",
                    "verb": "create",
                    "subresource": subresource,
                },
            },
        }
        answer = await self.client.create(SUBJECTACCESSREVIEWS, review)
        return bool(o.status(answer).get("allowed"))


class CSRSigner(Controller):
    """Signs what is approved, for the four signers of Kubernetes itself."""

    name: ClassVar[str] = "certificatesigningrequest-signing-controller"
    account: ClassVar[str] = "certificate-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        options = ctx.options
        self.authority = Authority(
            load_certificate(Path(options.cluster_signing_cert_file)),
            load_key(Path(options.cluster_signing_key_file)),
        )
        self.requests = self.watch(CERTIFICATESIGNINGREQUESTS, self.enqueue)

    async def sync(self, key: str) -> float | None:
        csr = self.requests.store.get(key)
        if csr is None or not has(csr, "Approved") or has(csr, "Denied") or has(csr, "Failed"):
            return None
        if o.status(csr).get("certificate") or o.spec(csr).get("signerName") not in SIGNERS:
            return None
        now = self.clock.now()
        try:
            pem = signing.sign(csr, self.authority, self.ctx.options.cluster_signing_duration, now)
        except signing.Refused as refused:
            new = with_condition(csr, "Failed", "SignerValidationFailed", str(refused), now)
        else:
            new = o.with_status(csr, {**o.status(csr), "certificate": base64.b64encode(pem).decode()})
        await ignore_not_found(self.client.update(CERTIFICATESIGNINGREQUESTS, new, subresource="status"))
        return None


def is_due(csr: Object, now: float) -> bool:
    """The request has served: decided an hour ago, undecided for a day, or its certificate has ended."""
    end = signing.expires_at(csr)
    if end is not None and end < now:
        return True
    decided = [
        c for c in o.status(csr).get("conditions") or () if c["type"] in ("Approved", "Denied", "Failed")
    ]
    if not decided:
        return o.created_at(csr) < now - PENDING
    for condition in decided:
        waits = condition["type"] == "Approved" and end is None
        old = o.parse_time(condition.get("lastUpdateTime")) < now - DONE
        if old and not waits:
            return True
    return False


class CSRCleaner(Periodic):
    """Deletes old requests: they are large and nobody else does."""

    name: ClassVar[str] = "certificatesigningrequest-cleaner-controller"
    account: ClassVar[str] = "certificate-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, period=PERIOD)
        self.requests = ctx.informers.informer(CERTIFICATESIGNINGREQUESTS)

    async def step(self) -> None:
        now = self.clock.now()
        for csr in self.requests.store.list():
            if is_due(csr, now):
                options = {"preconditions": {"uid": o.uid(csr)}}
                await ignore_not_found(
                    self.client.delete(CERTIFICATESIGNINGREQUESTS, o.name(csr), options=options)
                )
