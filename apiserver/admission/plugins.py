"""The admission plugins by name, their order, and the chain the registry calls."""

from __future__ import annotations

from collections.abc import Sequence

from apiserver.admission.base import Context, Plugin
from apiserver.admission.certificates import (
    CertificateApproval,
    CertificateRequestor,
    CertificateSigning,
    CertificateSubjectRestriction,
)
from apiserver.admission.escalation import EscalationCheck
from apiserver.admission.lifecycle import NamespaceLifecycle
from apiserver.admission.limits import LimitRanger
from apiserver.admission.mutatingpolicies import MutatingAdmissionPolicy
from apiserver.admission.noderestriction import NodeRestriction
from apiserver.admission.pods import DefaultTolerationSeconds, Priority, RuntimeClass, TaintNodesByCondition
from apiserver.admission.podsecurity.plugin import PodSecurity
from apiserver.admission.policies import ValidatingAdmissionPolicy
from apiserver.admission.quotas import ResourceQuota
from apiserver.admission.serviceaccount import ServiceAccount
from apiserver.admission.storage import (
    DefaultIngressClass,
    DefaultStorageClass,
    PersistentVolumeClaimResize,
    StorageObjectInUseProtection,
)
from apiserver.admission.webhooks import MutatingAdmissionWebhook, ValidatingAdmissionWebhook
from apiserver.registry.call import Call

# In the order they run, as in Kubernetes.
ORDER: tuple[type[Plugin], ...] = (
    NamespaceLifecycle,
    LimitRanger,
    ServiceAccount,
    NodeRestriction,
    TaintNodesByCondition,
    PodSecurity,
    Priority,
    DefaultTolerationSeconds,
    DefaultStorageClass,
    StorageObjectInUseProtection,
    PersistentVolumeClaimResize,
    RuntimeClass,
    CertificateApproval,
    CertificateSigning,
    CertificateSubjectRestriction,
    DefaultIngressClass,
    MutatingAdmissionPolicy,
    MutatingAdmissionWebhook,
    ValidatingAdmissionPolicy,
    ValidatingAdmissionWebhook,
    ResourceQuota,  # the last to speak: what it charges should be created
)
DEFAULT_OFF = frozenset({"NodeRestriction"})


def unknown(enabled: Sequence[str], disabled: Sequence[str]) -> list[str]:
    """Complaints about names that are no plugin here."""
    names = {plugin.__name__ for plugin in ORDER}
    out = [
        f'--enable-admission-plugins: unknown admission plugin "{name}"'
        for name in enabled
        if name not in names
    ]
    out += [
        f'--disable-admission-plugins: unknown admission plugin "{name}"'
        for name in disabled
        if name not in names
    ]
    return out


def build(enabled: Sequence[str], disabled: Sequence[str], context: Context) -> AdmissionChain:
    chosen = [
        plugin(context)
        for plugin in ORDER
        if plugin.__name__ in enabled
        or (plugin.__name__ not in DEFAULT_OFF and plugin.__name__ not in disabled)
    ]
    return AdmissionChain([CertificateRequestor(context), *chosen, EscalationCheck(context)])


class AdmissionChain:
    """All enabled plugins, asked in order."""

    def __init__(self, members: Sequence[Plugin]) -> None:
        self._members = tuple(members)

    async def mutate(self, call: Call) -> None:
        for plugin in self._members:
            if plugin.handles(call):
                await plugin.mutate(call)

    async def validate(self, call: Call) -> None:
        for plugin in self._members:
            if plugin.handles(call):
                await plugin.validate(call)


__all__ = ["AdmissionChain", "Context", "build", "unknown"]
