"""Users, roles and permissions as the log has made them, and what they allow. Pure; `save` keeps rows.

`revision` grows with every change; a request carries the one its caller was checked at, and is refused when
its place in the log is behind a later change (etcd's auth/store.go).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from etcdlite.auth import errors
from etcdlite.auth.ranges import Range, covers
from etcdlite.auth.tokens import Tokens
from etcdlite.pb import auth_pb2
from etcdlite.pb import rpc_pb2 as rpc

ROOT: Final = "root"
TABLES: Final = ("auth", "auth_user", "auth_role")
_REVISION, _ENABLED = b"revision", b"enabled"

Save = Callable[[str, bytes, bytes | None], None]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and the auth revision they were recognised at. Nobody has an empty name and revision 0."""

    name: str = ""
    revision: int = 0


NOBODY: Final = Caller()


class AuthStore:
    """See the module. Methods that change something are called from `apply` only."""

    def __init__(self, save: Save) -> None:
        self._save = save
        self.tokens = Tokens()
        self.enabled, self.revision = False, 1
        self.users: dict[str, auth_pb2.User] = {}
        self.roles: dict[str, auth_pb2.Role] = {}

    def restore(self, rows: Callable[[str], Iterable[tuple[bytes, bytes]]]) -> None:
        """Everything as the database has it."""
        settings = dict(rows("auth"))
        self.enabled = bool(settings.get(_ENABLED))
        self.revision = int.from_bytes(settings.get(_REVISION, b"\x01"), "big")
        self.users = {key.decode(): auth_pb2.User.FromString(value) for key, value in rows("auth_user")}
        self.roles = {key.decode(): auth_pb2.Role.FromString(value) for key, value in rows("auth_role")}
        self.tokens.invalidate()

    # -- keeping

    def _bump(self) -> None:
        self.revision += 1
        self._save("auth", _REVISION, self.revision.to_bytes(8, "big"))

    def _keep_user(self, user: auth_pb2.User) -> None:
        name = user.name.decode()
        self.users[name] = user
        self._save("auth_user", user.name, user.SerializeToString())
        self.tokens.invalidate(name)
        self._bump()

    def _keep_role(self, role: auth_pb2.Role) -> None:
        self.roles[role.name.decode()] = role
        self._save("auth_role", role.name, role.SerializeToString())
        self._bump()

    # -- switching

    def enable(self) -> None:
        """From now on everybody must say who they are. Raises RootUserNotExist, RootRoleNotExist."""
        if self.enabled:
            return
        root = self.users.get(ROOT)
        if root is None:
            raise errors.RootUserNotExist
        if ROOT not in root.roles:
            raise errors.RootRoleNotExist
        self.enabled = True
        self._save("auth", _ENABLED, b"\x01")
        self.tokens.invalidate()

    def disable(self) -> None:
        """Everybody may do everything again."""
        if not self.enabled:
            return
        self.enabled = False
        self._save("auth", _ENABLED, None)
        self.tokens.invalidate()
        self._bump()

    # -- users

    def user(self, name: str) -> auth_pb2.User:
        """Raises UserNotFound."""
        found = self.users.get(name)
        if found is None:
            raise errors.UserNotFound
        return found

    def user_add(self, request: rpc.AuthUserAddRequest) -> None:
        """Raises UserEmpty, UserAlreadyExists."""
        if not request.name:
            raise errors.UserEmpty
        if request.name in self.users:
            raise errors.UserAlreadyExists
        user = auth_pb2.User(name=request.name.encode(), password=request.hashedPassword.encode())
        user.options.no_password = request.options.no_password
        self._keep_user(user)

    def user_delete(self, name: str) -> None:
        """Raises InvalidAuthManagement, UserNotFound."""
        if self.enabled and name == ROOT:
            raise errors.InvalidAuthManagement
        self.user(name)
        del self.users[name]
        self._save("auth_user", name.encode(), None)
        self.tokens.invalidate(name)
        self._bump()

    def user_change_password(self, request: rpc.AuthUserChangePasswordRequest) -> None:
        """Raises UserNotFound."""
        user = self.user(request.name)
        user.password = request.hashedPassword.encode()
        self._keep_user(user)

    def user_grant_role(self, name: str, role: str) -> None:
        """Raises UserNotFound, RoleNotFound. A role granted before is no change."""
        user = self.user(name)
        if role != ROOT and role not in self.roles:
            raise errors.RoleNotFound
        if role not in user.roles:
            user.roles[:] = sorted([*user.roles, role])
            self._keep_user(user)

    def user_revoke_role(self, name: str, role: str) -> None:
        """Raises InvalidAuthManagement, UserNotFound, RoleNotGranted."""
        if self.enabled and (name, role) == (ROOT, ROOT):
            raise errors.InvalidAuthManagement
        user = self.user(name)
        if role not in user.roles:
            raise errors.RoleNotGranted
        user.roles.remove(role)
        self._keep_user(user)

    # -- roles

    def role(self, name: str) -> auth_pb2.Role:
        """Raises RoleNotFound."""
        found = self.roles.get(name)
        if found is None:
            raise errors.RoleNotFound
        return found

    def role_add(self, name: str) -> None:
        """Raises RoleEmpty, RoleAlreadyExists."""
        if not name:
            raise errors.RoleEmpty
        if name in self.roles:
            raise errors.RoleAlreadyExists
        self._keep_role(auth_pb2.Role(name=name.encode()))

    def role_delete(self, name: str) -> None:
        """Take it from all its users too. Raises InvalidAuthManagement, RoleNotFound."""
        if self.enabled and name == ROOT:
            raise errors.InvalidAuthManagement
        self.role(name)
        del self.roles[name]
        self._save("auth_role", name.encode(), None)
        for user in self.users.values():
            if name in user.roles:
                user.roles.remove(name)
                self._save("auth_user", user.name, user.SerializeToString())
                self.tokens.invalidate(user.name.decode())
        self._bump()

    def role_grant_permission(self, name: str, permission: auth_pb2.Permission) -> None:
        """A permission on the same range is replaced. Raises RoleNotFound."""
        role = self.role(name)
        kept = [each for each in role.keyPermission if _range(each) != _range(permission)]
        kept.append(permission)
        fresh = auth_pb2.Role(name=role.name, keyPermission=sorted(kept, key=_range))
        self._keep_role(fresh)

    def role_revoke_permission(self, request: rpc.AuthRoleRevokePermissionRequest) -> None:
        """Raises RoleNotFound, PermissionNotGranted."""
        role = self.role(request.role)
        kept = [each for each in role.keyPermission if _range(each) != (request.key, request.range_end)]
        if len(kept) == len(role.keyPermission):
            raise errors.PermissionNotGranted
        self._keep_role(auth_pb2.Role(name=role.name, keyPermission=kept))

    # -- what is allowed

    def check_admin(self, caller: Caller) -> None:
        """Raises UserEmpty, PermissionDenied."""
        if not self.enabled:
            return
        if not caller.name:
            raise errors.UserEmpty
        user = self.users.get(caller.name)
        if user is None or ROOT not in user.roles:
            raise errors.PermissionDenied

    def check_read(self, caller: Caller, key: bytes, end: bytes = b"") -> None:
        """Raises UserEmpty, PermissionDenied, AuthOldRevision."""
        self._check(caller, key, end, auth_pb2.Permission.READ)

    def check_write(self, caller: Caller, key: bytes, end: bytes = b"") -> None:
        """Raises UserEmpty, PermissionDenied, AuthOldRevision."""
        self._check(caller, key, end, auth_pb2.Permission.WRITE)

    def _check(self, caller: Caller, key: bytes, end: bytes, kind: int) -> None:
        if not self.enabled:
            return
        if not caller.revision:
            raise errors.UserEmpty
        if caller.revision < self.revision:
            raise errors.AuthOldRevision
        user = self.users.get(caller.name)
        if user is None:
            raise errors.PermissionDenied
        if ROOT not in user.roles and not covers(self._granted(user, kind), key, end):
            raise errors.PermissionDenied

    def _granted(self, user: auth_pb2.User, kind: int) -> Iterable[Range]:
        for name in user.roles:
            role = self.roles.get(name)
            for each in role.keyPermission if role is not None else ():
                if each.permType in (kind, auth_pb2.Permission.READWRITE):
                    yield _range(each)


def _range(permission: Any) -> Range:
    return permission.key, permission.range_end
