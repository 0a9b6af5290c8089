"""Users, roles and what they allow; ranges, passwords and tokens."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcdlite.auth import errors, guard
from etcdlite.auth.passwords import hash_password, matches
from etcdlite.auth.ranges import covers, interval
from etcdlite.auth.store import AuthStore, Caller
from etcdlite.auth.tokens import IDLE_SECONDS, Tokens
from etcdlite.mvcc.errors import StoreError
from etcdlite.pb import auth_pb2
from etcdlite.pb import internal_pb2 as internal
from etcdlite.pb import rpc_pb2 as rpc

Rows = dict[tuple[str, bytes], bytes]
LETTERS = [b"a", b"b", b"c", b"d", b"e"]
ranges = st.tuples(st.sampled_from(LETTERS), st.sampled_from([b"", b"\0", *LETTERS]))


def make(rows: Rows | None = None) -> AuthStore:
    kept: Rows = {} if rows is None else rows

    def save(table: str, row: bytes, value: bytes | None) -> None:
        if value is None:
            kept.pop((table, row), None)
        else:
            kept[table, row] = value

    return AuthStore(save)


def permission(kind: int, key: bytes, end: bytes = b"") -> auth_pb2.Permission:
    return auth_pb2.Permission(permType=kind, key=key, range_end=end)  # type: ignore[arg-type]


def enabled(rows: Rows | None = None) -> AuthStore:
    """Root, and ann who reads [p, q) and reads and writes o."""
    auth = make(rows)
    for name in ("root", "ann"):
        auth.user_add(rpc.AuthUserAddRequest(name=name, hashedPassword="x"))
    auth.user_grant_role("root", "root")
    auth.role_add("reader")
    auth.role_grant_permission("reader", permission(auth_pb2.Permission.READ, b"p", b"q"))
    auth.role_grant_permission("reader", permission(auth_pb2.Permission.READWRITE, b"o"))
    auth.user_grant_role("ann", "reader")
    auth.enable()
    return auth


def by(auth: AuthStore, name: str) -> Caller:
    return Caller(name, auth.revision)


@given(st.lists(ranges, max_size=4), ranges)
def test_a_range_is_covered_when_each_of_its_keys_is(
    granted: list[tuple[bytes, bytes]], asked: tuple[bytes, bytes]
) -> None:
    """Against a model: all keys of one or two letters, and whether one beyond the last could be asked for."""
    keys = [*LETTERS, *(a + b for a, b in itertools.product(LETTERS, [b"\0", b"z"])), b"zz"]

    def within(key: bytes, given: tuple[bytes, bytes]) -> bool:
        first, last = interval(*given)
        return first <= key and (last is None or key < last)

    wanted = all(any(within(key, each) for each in granted) for key in keys if within(key, asked))
    assert covers(granted, *asked) == wanted


def test_who_may_what() -> None:
    auth = enabled()
    ann = by(auth, "ann")
    auth.check_read(ann, b"p")
    auth.check_read(ann, b"p", b"q")
    auth.check_write(ann, b"o")
    refusals: list[Callable[[], None]] = [
        lambda: auth.check_read(ann, b"p", b"r"),
        lambda: auth.check_write(ann, b"p"),
        lambda: auth.check_read(by(auth, "bob"), b"p"),
        lambda: auth.check_admin(ann),
    ]
    for refused in refusals:
        with pytest.raises(errors.PermissionDenied):
            refused()
    with pytest.raises(errors.UserEmpty):
        auth.check_read(Caller(), b"p")
    auth.check_write(by(auth, "root"), b"\0", b"\0")
    auth.check_admin(by(auth, "root"))


def test_a_caller_checked_before_a_change_is_checked_again() -> None:
    auth = enabled()
    before = by(auth, "ann")
    auth.role_revoke_permission(rpc.AuthRoleRevokePermissionRequest(role="reader", key=b"o"))
    with pytest.raises(errors.AuthOldRevision):
        auth.check_write(before, b"o")
    with pytest.raises(errors.PermissionDenied):
        auth.check_write(by(auth, "ann"), b"o")


def test_everything_comes_back_from_the_rows() -> None:
    rows: Rows = {}
    auth = enabled(rows)
    again = make()
    again.restore(lambda table: [(row, value) for (name, row), value in rows.items() if name == table])
    assert (again.enabled, again.revision, again.users, again.roles) == (
        auth.enabled,
        auth.revision,
        auth.users,
        auth.roles,
    )


def _grant(user: str, role: str) -> Callable[[AuthStore], None]:
    return lambda auth: auth.user_grant_role(user, role)


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda a: a.user_add(rpc.AuthUserAddRequest(name="ann")), errors.UserAlreadyExists),
        (lambda a: a.user_add(rpc.AuthUserAddRequest()), errors.UserEmpty),
        (lambda a: a.user_delete("bob"), errors.UserNotFound),
        (lambda a: a.user_delete("root"), errors.InvalidAuthManagement),
        (lambda a: a.user_revoke_role("root", "root"), errors.InvalidAuthManagement),
        (lambda a: a.user_revoke_role("ann", "root"), errors.RoleNotGranted),
        (_grant("ann", "nothing"), errors.RoleNotFound),
        (_grant("bob", "reader"), errors.UserNotFound),
        (lambda a: a.role_add("reader"), errors.RoleAlreadyExists),
        (lambda a: a.role_add(""), errors.RoleEmpty),
        (lambda a: a.role_delete("nothing"), errors.RoleNotFound),
        (lambda a: a.role_delete("root"), errors.InvalidAuthManagement),
        (
            lambda a: a.role_revoke_permission(rpc.AuthRoleRevokePermissionRequest(role="reader", key=b"x")),
            errors.PermissionNotGranted,
        ),
    ],
)
def test_what_is_refused_changes_nothing(act: Callable[[AuthStore], None], error: type[StoreError]) -> None:
    rows: Rows = {}
    auth = enabled(rows)
    before = dict(rows)
    with pytest.raises(error):
        act(auth)
    assert rows == before


def test_enabling_needs_a_root_that_is_root() -> None:
    auth = make()
    with pytest.raises(errors.RootUserNotExist):
        auth.enable()
    auth.user_add(rpc.AuthUserAddRequest(name="root"))
    with pytest.raises(errors.RootRoleNotExist):
        auth.enable()
    auth.user_grant_role("root", "root")
    auth.enable()
    revision = auth.revision
    auth.disable()
    assert not auth.enabled and auth.revision == revision + 1


def test_a_lease_is_only_for_who_may_write_all_its_keys() -> None:
    auth = enabled()
    ann = by(auth, "ann")
    put = rpc.PutRequest(key=b"o", lease=7)
    guard.check_put(auth, ann, put, lambda lease: [b"o"])
    with pytest.raises(errors.PermissionDenied):
        guard.check_put(auth, ann, put, lambda lease: [b"o", b"secret"])


@pytest.mark.parametrize(
    "op",
    [
        rpc.RequestOp(request_range=rpc.RangeRequest(key=b"s")),
        rpc.RequestOp(request_put=rpc.PutRequest(key=b"p")),
        rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=b"p", range_end=b"q")),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_transaction_is_judged_by_all_its_parts(op: rpc.RequestOp, nested: bool) -> None:
    auth = enabled()
    request = rpc.TxnRequest(failure=[op])
    if nested:
        request = rpc.TxnRequest(success=[rpc.RequestOp(request_txn=request)])
    entry = internal.InternalRaftRequest(txn=request, username="ann", auth_revision=auth.revision)
    with pytest.raises(errors.PermissionDenied):
        guard.check_applied(auth, "txn", entry, lambda lease: [])
    entry.internal = True
    guard.check_applied(auth, "txn", entry, lambda lease: [])


def test_passwords() -> None:
    stored = hash_password("secret")
    assert matches("secret", stored) and not matches("Secret", stored)
    assert hash_password("secret") != stored
    assert not matches("secret", "") and "secret" not in stored


def test_tokens_end_when_idle_or_when_their_user_changes() -> None:
    tokens = Tokens()
    tokens.assign("t", "ann", 0.0)
    assert tokens.user("t", IDLE_SECONDS - 1) == "ann"
    assert tokens.user("t", 2 * IDLE_SECONDS - 2) == "ann"  # used meanwhile
    assert tokens.user("t", 4 * IDLE_SECONDS) is None
    tokens.assign("t", "ann", 0.0)
    tokens.invalidate("bob")
    assert tokens.user("t", 1.0) == "ann"
    tokens.invalidate("ann")
    assert tokens.user("t", 1.0) is None
