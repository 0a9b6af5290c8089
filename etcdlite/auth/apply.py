"""Entries of the log that are about users, roles and tokens."""

from __future__ import annotations

from etcdlite.auth import errors as refused
from etcdlite.auth.store import AuthStore
from etcdlite.pb import internal_pb2

Request = internal_pb2.InternalRaftRequest


def apply(auth: AuthStore, kind: str, request: Request, now: float) -> bool:
    """Carry out an entry of the log that is about users or roles; False if it is about something else.

    `now` only says how long a token lives here. Raises what `auth` refuses.
    """
    match kind:
        case "auth_enable":
            auth.enable()
        case "auth_disable":
            auth.disable()
        case "auth_user_add":
            auth.user_add(request.auth_user_add)
        case "auth_user_delete":
            auth.user_delete(request.auth_user_delete.name)
        case "auth_user_change_password":
            auth.user_change_password(request.auth_user_change_password)
        case "auth_user_grant_role":
            auth.user_grant_role(request.auth_user_grant_role.user, request.auth_user_grant_role.role)
        case "auth_user_revoke_role":
            auth.user_revoke_role(request.auth_user_revoke_role.name, request.auth_user_revoke_role.role)
        case "auth_role_add":
            auth.role_add(request.auth_role_add.name)
        case "auth_role_delete":
            auth.role_delete(request.auth_role_delete.role)
        case "auth_role_grant_permission":
            granted = request.auth_role_grant_permission
            auth.role_grant_permission(granted.name, granted.perm)
        case "auth_role_revoke_permission":
            auth.role_revoke_permission(request.auth_role_revoke_permission)
        case "authenticated":
            _apply_authenticated(auth, request.authenticated, now)
        case _:
            return False
    return True


def _apply_authenticated(auth: AuthStore, proven: internal_pb2.Authenticated, now: float) -> None:
    if not auth.enabled:
        raise refused.AuthNotEnabled
    if proven.revision != auth.revision:
        raise refused.AuthOldRevision
    auth.tokens.assign(proven.token, proven.user, now)
