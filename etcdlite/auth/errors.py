"""What authentication and authorization refuse. Texts are etcd's; server/errors.py maps them to codes."""

from __future__ import annotations

from etcdlite.mvcc.errors import StoreError


class RootUserNotExist(StoreError):
    text = "etcdserver: root user does not exist"


class RootRoleNotExist(StoreError):
    text = "etcdserver: root user does not have root role"


class UserAlreadyExists(StoreError):
    text = "etcdserver: user name already exists"


class UserEmpty(StoreError):
    """No user name: in a request that needs one, or of a caller who did not say who they are."""

    text = "etcdserver: user name is empty"


class UserNotFound(StoreError):
    text = "etcdserver: user name not found"


class RoleAlreadyExists(StoreError):
    text = "etcdserver: role name already exists"


class RoleEmpty(StoreError):
    text = "etcdserver: role name is empty"


class RoleNotFound(StoreError):
    text = "etcdserver: role name not found"


class AuthFailed(StoreError):
    text = "etcdserver: authentication failed, invalid user ID or password"


class NoPasswordUser(StoreError):
    """The user has no password, so only a certificate can speak for them."""

    text = "auth: authentication failed, password was given for no password user"


class PermissionDenied(StoreError):
    text = "etcdserver: permission denied"


class PermissionNotGiven(StoreError):
    text = "etcdserver: permission not given"


class RoleNotGranted(StoreError):
    text = "etcdserver: role is not granted to the user"


class PermissionNotGranted(StoreError):
    text = "etcdserver: permission is not granted to the role"


class AuthNotEnabled(StoreError):
    text = "etcdserver: authentication is not enabled"


class InvalidAuthToken(StoreError):
    text = "etcdserver: invalid auth token"


class InvalidAuthManagement(StoreError):
    """What would lock everybody out: root or its role cannot go while authentication is on."""

    text = "etcdserver: invalid auth management"


class AuthOldRevision(StoreError):
    """Users or roles have changed between the check of a request and its place in the log; ask again."""

    text = "etcdserver: revision of auth store is old"
