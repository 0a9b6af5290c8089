"""Service Auth: proving who one is, and managing who may do what."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Final

from etcdlite.auth import errors as refused
from etcdlite.auth.passwords import hash_password, matches
from etcdlite.auth.store import AuthStore
from etcdlite.pb import internal_pb2
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.server.context import Member

Request = internal_pb2.InternalRaftRequest

_HASHES_AT_ONCE: Final = 2  # each takes 16 MiB and a core
_ATTEMPTS: Final = 5  # to be authenticated while users are being changed


class Auth:
    """etcdserverpb.Auth."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._requests = member.requests
        self._hashing = asyncio.Semaphore(_HASHES_AT_ONCE)

    @property
    def _auth(self) -> AuthStore:
        return self._member.machine.auth

    async def _change(self, answer: Any, **request: Any) -> bytes:
        await self._requests.submit(Request(**request))
        answer.header.CopyFrom(self._member.response_header())
        return bytes(answer.SerializeToString())

    # -- switching

    async def enable(self, request: rpc.AuthEnableRequest) -> bytes:
        """Turn authentication on."""
        return await self._change(rpc.AuthEnableResponse(), auth_enable=request)

    async def disable(self, request: rpc.AuthDisableRequest) -> bytes:
        """Turn it off."""
        return await self._change(rpc.AuthDisableResponse(), auth_disable=request)

    async def status(self, request: rpc.AuthStatusRequest) -> bytes:
        """Whether it is on, and the revision of users and roles."""
        await self._requests.confirm()
        self._auth.check_admin(self._member.caller())
        header = self._member.response_header()
        return rpc.AuthStatusResponse(
            header=header, enabled=self._auth.enabled, authRevision=self._auth.revision
        ).SerializeToString()

    async def authenticate(self, request: rpc.AuthenticateRequest) -> bytes:
        """A token for a name and password, known to all members when this returns."""
        await self._requests.confirm()
        for _ in range(_ATTEMPTS):
            revision = self._auth.revision
            await self._check_password(request)
            token = f"{secrets.token_hex(8)}.{self._member.machine.applied_index}"
            proven = internal_pb2.Authenticated(user=request.name, token=token, revision=revision)
            try:
                await self._requests.submit(Request(authenticated=proven), internal=True)
            except refused.AuthOldRevision:
                continue  # the password may have been changed while it was checked
            header = self._member.response_header()
            return rpc.AuthenticateResponse(header=header, token=token).SerializeToString()
        raise refused.AuthOldRevision

    async def _check_password(self, request: rpc.AuthenticateRequest) -> None:
        if not self._auth.enabled:
            raise refused.AuthNotEnabled
        user = self._auth.users.get(request.name)
        if user is None:
            raise refused.AuthFailed
        if user.options.no_password:
            raise refused.NoPasswordUser
        async with self._hashing:
            right = await asyncio.to_thread(matches, request.password, user.password.decode())
        if not right:
            raise refused.AuthFailed

    async def _hashed(self, password: str) -> str:
        async with self._hashing:
            return await asyncio.to_thread(hash_password, password)

    # -- users

    async def user_add(self, request: rpc.AuthUserAddRequest) -> bytes:
        """Add a user; the log gets the hash of the password."""
        if not request.options.no_password:
            request.hashedPassword = await self._hashed(request.password)
        request.password = ""
        return await self._change(rpc.AuthUserAddResponse(), auth_user_add=request)

    async def user_get(self, request: rpc.AuthUserGetRequest) -> bytes:
        """A user's roles; everybody may see their own."""
        await self._requests.confirm()
        caller = self._member.caller()
        if caller.name != request.name or not caller.name:
            self._auth.check_admin(caller)
        roles = self._auth.user(request.name).roles
        return rpc.AuthUserGetResponse(header=self._member.response_header(), roles=roles).SerializeToString()

    async def user_list(self, request: rpc.AuthUserListRequest) -> bytes:
        """All users."""
        await self._requests.confirm()
        self._auth.check_admin(self._member.caller())
        header = self._member.response_header()
        return rpc.AuthUserListResponse(header=header, users=sorted(self._auth.users)).SerializeToString()

    async def user_delete(self, request: rpc.AuthUserDeleteRequest) -> bytes:
        """Remove a user."""
        return await self._change(rpc.AuthUserDeleteResponse(), auth_user_delete=request)

    async def user_change_password(self, request: rpc.AuthUserChangePasswordRequest) -> bytes:
        """Set a user's password."""
        request.hashedPassword = await self._hashed(request.password)
        request.password = ""
        answer = rpc.AuthUserChangePasswordResponse()
        return await self._change(answer, auth_user_change_password=request)

    async def user_grant_role(self, request: rpc.AuthUserGrantRoleRequest) -> bytes:
        """Give a user a role."""
        return await self._change(rpc.AuthUserGrantRoleResponse(), auth_user_grant_role=request)

    async def user_revoke_role(self, request: rpc.AuthUserRevokeRoleRequest) -> bytes:
        """Take a role from a user."""
        return await self._change(rpc.AuthUserRevokeRoleResponse(), auth_user_revoke_role=request)

    # -- roles

    async def role_add(self, request: rpc.AuthRoleAddRequest) -> bytes:
        """Add a role."""
        return await self._change(rpc.AuthRoleAddResponse(), auth_role_add=request)

    async def role_get(self, request: rpc.AuthRoleGetRequest) -> bytes:
        """A role's permissions; everybody may see those of their own roles."""
        await self._requests.confirm()
        caller = self._member.caller()
        user = self._auth.users.get(caller.name)
        if user is None or request.role not in user.roles:
            self._auth.check_admin(caller)
        perm = self._auth.role(request.role).keyPermission
        return rpc.AuthRoleGetResponse(header=self._member.response_header(), perm=perm).SerializeToString()

    async def role_list(self, request: rpc.AuthRoleListRequest) -> bytes:
        """All roles."""
        await self._requests.confirm()
        self._auth.check_admin(self._member.caller())
        header = self._member.response_header()
        return rpc.AuthRoleListResponse(header=header, roles=sorted(self._auth.roles)).SerializeToString()

    async def role_delete(self, request: rpc.AuthRoleDeleteRequest) -> bytes:
        """Remove a role."""
        return await self._change(rpc.AuthRoleDeleteResponse(), auth_role_delete=request)

    async def role_grant_permission(self, request: rpc.AuthRoleGrantPermissionRequest) -> bytes:
        """Let a role read or write a range."""
        if not request.HasField("perm"):
            raise refused.PermissionNotGiven
        answer = rpc.AuthRoleGrantPermissionResponse()
        return await self._change(answer, auth_role_grant_permission=request)

    async def role_revoke_permission(self, request: rpc.AuthRoleRevokePermissionRequest) -> bytes:
        """Take that back."""
        answer = rpc.AuthRoleRevokePermissionResponse()
        return await self._change(answer, auth_role_revoke_permission=request)
