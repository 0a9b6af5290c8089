"""ServiceAccounts. Tokens are made by the `token` subresource, never stored in the object."""

from __future__ import annotations

from apimachinery.scheme import Kind, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import column

KINDS = (
    Kind(
        group="",
        version="v1",
        kind="ServiceAccount",
        resource="serviceaccounts",
        namespaced=True,
        storage_prefix="serviceaccounts",
        singular="serviceaccount",
        short_names=("sa",),
        subresources=("token",),
        columns=(
            common.NAME,
            column("Secrets", lambda account: str(len(account.get("secrets") or ()))),
            common.AGE,
        ),
        strategy=Strategy(has_generation=False),
    ),
)
