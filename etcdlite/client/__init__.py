"""The client of the store: all that other rooms may import of etcdlite, besides the messages in
`etcdlite.pb`.
"""

from etcdlite.client.client import EtcdClient
from etcdlite.client.errors import (
    Compacted,
    EtcdError,
    FutureRevision,
    LeaseNotFound,
    OutcomeUnknown,
    RequestFailed,
    Unavailable,
    WatchBroken,
)
from etcdlite.client.ops import (
    compare_create,
    compare_mod,
    compare_value,
    compare_version,
    op_delete,
    op_get,
    op_put,
    op_txn,
    prefix_end,
)
from etcdlite.client.watch import Watch, WatchBatch

__all__ = [
    "Compacted",
    "EtcdClient",
    "EtcdError",
    "FutureRevision",
    "LeaseNotFound",
    "OutcomeUnknown",
    "RequestFailed",
    "Unavailable",
    "Watch",
    "WatchBatch",
    "WatchBroken",
    "compare_create",
    "compare_mod",
    "compare_value",
    "compare_version",
    "op_delete",
    "op_get",
    "op_put",
    "op_txn",
    "prefix_end",
]
