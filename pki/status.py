"""What `hardway pki status` prints: every certificate, for whom, by whom, until when, and what is wrong with
it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from pki.ca import PKIError, load_certificate, load_key
from pki.certs import RENEW_BEFORE, flaw, time_flaw
from pki.layout import AUTHORITIES, Inventory, Leaf, leaves


@dataclass(frozen=True)
class Row:
    """One certificate; `problem` is empty when it serves."""

    file: str
    subject: str
    issuer: str
    expires: datetime.datetime | None
    problem: str


def _common_name(name: x509.Name) -> str:
    values = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(values[0].value) if values else name.rfc4514_string()


def _row(inventory: Inventory, stem: str, authority: str, leaf: Leaf | None, now: datetime.datetime) -> Row:
    file = f"{stem}.pem"
    try:
        certificate = load_certificate(inventory.path(file))
        issuer = load_certificate(inventory.path(f"{authority}.pem"))
        key = load_key(inventory.path(f"{stem}-key.pem"))
    except FileNotFoundError as error:
        return Row(file, "", authority, None, f"{error.filename} is absent")
    except PKIError as error:
        return Row(file, "", authority, None, str(error))
    if leaf is None:
        problem = time_flaw(certificate, now, RENEW_BEFORE)
    else:
        problem = flaw(certificate, key.public_key(), leaf.profile, issuer, now=now)
    expires = certificate.not_valid_after_utc
    return Row(
        file, _common_name(certificate.subject), _common_name(certificate.issuer), expires, problem or ""
    )


def rows(inventory: Inventory, now: datetime.datetime) -> list[Row]:
    """Authorities first, then every leaf of the cluster's table."""
    found = [_row(inventory, stem, stem, None, now) for stem in AUTHORITIES]
    return found + [_row(inventory, leaf.stem, leaf.authority, leaf, now) for leaf in leaves(inventory.names)]


def _until(expires: datetime.datetime | None, now: datetime.datetime) -> tuple[str, str]:
    if expires is None:
        return "-", "-"
    return f"{expires:%Y-%m-%d %H:%M}Z", f"{(expires - now).days}d"


def render(table: Sequence[Row], now: datetime.datetime) -> str:
    """The table as aligned text."""
    lines = [("CERTIFICATE", "SUBJECT", "SIGNED BY", "EXPIRES", "LEFT", "STATE")]
    lines += [
        (row.file, row.subject, row.issuer, *_until(row.expires, now), row.problem or "ok") for row in table
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
