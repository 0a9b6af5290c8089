"""CertificateSigningRequests. Who asks (`spec.username` ...) is written by the registry."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any

from apimachinery import field
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apimachinery.table import human_duration
from apiserver.kinds import common
from apiserver.kinds.common import NONE, column, spec_of, status_of

MIN_SECONDS = 600
USAGES = frozenset(
    (
        "signing",
        "digital signature",
        "content commitment",
        "key encipherment",
        "key agreement",
        "data encipherment",
        "cert sign",
        "crl sign",
        "encipher only",
        "decipher only",
        "any",
        "server auth",
        "client auth",
        "code signing",
        "email protection",
        "s/mime",
        "ipsec end system",
        "ipsec tunnel",
        "ipsec user",
        "timestamping",
        "ocsp signing",
        "microsoft sgc",
        "netscape sgc",
    )
)
_PEM = re.compile(rb"-----BEGIN CERTIFICATE REQUEST-----.+-----END CERTIFICATE REQUEST-----", re.DOTALL)


def _validate(request: Object) -> Iterator[Cause]:
    spec = spec_of(request)
    if not _PEM.search(base64.b64decode(spec.get("request", ""))):
        detail = "PEM block type must be CERTIFICATE REQUEST"
        yield field.invalid("spec.request", spec.get("request", ""), detail)
    usages = spec.get("usages") or ()
    if not usages:
        yield field.required("spec.usages")
    for at, usage in enumerate(usages):
        if usage not in USAGES:
            yield field.not_supported(f"spec.usages[{at}]", usage, sorted(USAGES))
    yield from _signer(spec.get("signerName", ""))
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < MIN_SECONDS:
        detail = "may not specify a duration less than 600 seconds (10 minutes)"
        yield field.invalid("spec.expirationSeconds", seconds, detail)


def _signer(name: str) -> Iterator[Cause]:
    if not name:
        yield field.required("spec.signerName")
        return
    domain, slash, path = name.partition("/")
    if not slash or not path:
        detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        yield field.invalid("spec.signerName", name, detail)
    elif "." not in domain:
        detail = "should be a domain with at least two segments separated by dots"
        yield field.invalid("spec.signerName", domain, detail)
    else:
        yield from common.subdomain("spec.signerName", domain)


def _prepare_update(new: Object, old: Object) -> None:
    """Nothing but metadata changes after a request is made."""
    common.restore(new, old, "spec")
    common.keep_status(new, old)


def _status_validate(new: Object, old: Object) -> Iterator[Cause]:
    before, after = _conditions(old), _conditions(new)
    for name in ("Approved", "Denied", "Failed"):
        if name in before and name not in after:
            yield field.forbidden(
                "status.conditions", f"updates may not remove a condition of type {field.quote(name)}"
            )
    if "Approved" in after and "Denied" in after:
        detail = "Approved and Denied conditions are mutually exclusive"
        yield field.invalid("status.conditions", "Denied", detail)
    stored = status_of(old).get("certificate")
    if stored and stored != status_of(new).get("certificate"):
        yield field.forbidden(
            "status.certificate", "updates may not modify a certificate that is already set"
        )


def _conditions(request: Mapping[str, Any]) -> set[str]:
    return {item.get("type", "") for item in status_of(request).get("conditions") or ()}


def _condition_cell(request: Object) -> str:
    found = _conditions(request)
    shown: list[str] = [name for name in ("Approved", "Denied", "Failed") if name in found]
    shown = shown or ["Pending"]
    if status_of(request).get("certificate"):
        shown.append("Issued")
    return ",".join(shown)


def _duration_cell(request: Object) -> str:
    seconds = spec_of(request).get("expirationSeconds")
    return NONE if seconds is None else human_duration(seconds)


KINDS = (
    Kind(
        group="certificates.k8s.io",
        version="v1",
        kind="CertificateSigningRequest",
        resource="certificatesigningrequests",
        namespaced=False,
        storage_prefix="certificatesigningrequests",
        singular="certificatesigningrequest",
        short_names=("csr",),
        subresources=("approval", "status"),
        columns=(
            common.NAME,
            common.AGE,
            column("SignerName", common.text("spec", "signerName")),
            column("Requestor", common.text("spec", "username")),
            column("RequestedDuration", _duration_cell),
            column("Condition", _condition_cell),
        ),
        strategy=Strategy(
            prepare_create=common.drop_status,
            prepare_update=_prepare_update,
            validate=_validate,
            status_prepare_update=common.keep_spec,
            status_validate_update=_status_validate,
            fields=common.status_fields("spec.signerName"),
            has_generation=False,
        ),
        selectable_fields=("spec.signerName",),
    ),
)
