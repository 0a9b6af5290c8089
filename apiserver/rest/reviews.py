"""Resources that are only asked: access reviews, token reviews, self reviews; and impersonation, which uses
the same checks.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from apimachinery import errors, meta
from apimachinery.errors import Cause
from apimachinery.schema.decode import decode
from apiserver.auth.authorize import Attributes, Decision, Union, refusal
from apiserver.auth.rbac import RBAC
from apiserver.auth.tokens import Verifier
from apiserver.auth.user import AUTHENTICATED, SERVICE_ACCOUNT_PREFIX, User, service_account
from apiserver.rest import negotiate
from apiserver.rest.discovery import Extra
from apiserver.rest.message import Answer, Request, ok

Object = dict[str, Any]

AUTHN, AUTHZ = "authentication.k8s.io", "authorization.k8s.io"

EXTRAS = (
    Extra("", "v1", "bindings", "Binding", True),
    Extra("", "v1", "componentstatuses", "ComponentStatus", False, ("get", "list"), ("cs",)),
    Extra(AUTHN, "v1", "selfsubjectreviews", "SelfSubjectReview", False),
    Extra(AUTHN, "v1", "tokenreviews", "TokenReview", False),
    Extra(AUTHZ, "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", True),
    Extra(AUTHZ, "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False),
    Extra(AUTHZ, "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", False),
    Extra(AUTHZ, "v1", "subjectaccessreviews", "SubjectAccessReview", False),
)


class Reviews:
    def __init__(self, authorizer: Union, rbac: RBAC, verifier: Verifier | None) -> None:
        self._authorizer = authorizer
        self._rbac = rbac
        self._verifier = verifier

    def table(self) -> Mapping[tuple[str, str, str], Callable[[Request], Awaitable[Answer]]]:
        return {
            (AUTHN, "v1", "selfsubjectreviews"): self.self_review,
            (AUTHN, "v1", "tokenreviews"): self.token,
            (AUTHZ, "v1", "localsubjectaccessreviews"): self.access_of,
            (AUTHZ, "v1", "selfsubjectaccessreviews"): self.own_access,
            (AUTHZ, "v1", "selfsubjectrulesreviews"): self.own_rules,
            (AUTHZ, "v1", "subjectaccessreviews"): self.access_of,
        }

    async def self_review(self, request: Request) -> Answer:
        review = await self._read(request, AUTHN, "SelfSubjectReview")
        made = meta.now_rfc3339(time.time())
        return ok(
            {
                **review,
                "metadata": {"creationTimestamp": made},
                "status": {"userInfo": request.user.as_dict()},
            },
            201,
        )

    async def token(self, request: Request) -> Answer:
        review = await self._read(request, AUTHN, "TokenReview")
        spec = review.get("spec") or {}
        if not spec.get("token"):
            raise errors.bad_request("token is required for TokenReview in authentication")
        audiences = spec.get("audiences") or []
        user = self._verifier.user(spec["token"], audiences or None) if self._verifier else None
        status: Object = {"authenticated": False, "error": "invalid bearer token"}
        if user is not None and self._verifier is not None:
            accepted = self._verifier.accepted_audiences(spec["token"], audiences or self._verifier.audiences)
            status = {"authenticated": True, "user": user.as_dict(), "audiences": accepted}
        return ok({**review, "status": status}, 201)

    async def own_access(self, request: Request) -> Answer:
        review = await self._read(request, AUTHZ, "SelfSubjectAccessReview")
        return self._decide(review, request.user, "SelfSubjectAccessReview")

    async def access_of(self, request: Request) -> Answer:
        local = request.info.resource == "localsubjectaccessreviews"
        name = "LocalSubjectAccessReview" if local else "SubjectAccessReview"
        review = await self._read(request, AUTHZ, name)
        spec = review.get("spec") or {}
        if not spec.get("user") and not spec.get("groups"):
            raise _invalid(name, "spec.user", "at least one of user or group must be specified")
        if local:
            where = (spec.get("resourceAttributes") or {}).get("namespace", "")
            if where != request.info.namespace:
                raise _invalid(
                    name,
                    "spec.resourceAttributes.namespace",
                    f"must match the request's namespace {request.info.namespace}",
                )
        user = User(
            spec.get("user", ""),
            tuple(spec.get("groups") or ()),
            spec.get("uid", ""),
            spec.get("extra") or {},
        )
        return self._decide(review, user, name)

    async def own_rules(self, request: Request) -> Answer:
        review = await self._read(request, AUTHZ, "SelfSubjectRulesReview")
        namespace = (review.get("spec") or {}).get("namespace", "")
        if not namespace:
            raise errors.bad_request("no namespace on request")
        rules = [rule.as_dict() for rule in self._rbac.rules_for(request.user, namespace)]
        status = {
            "resourceRules": [rule for rule in rules if rule.get("resources")],
            "nonResourceRules": [rule for rule in rules if rule.get("nonResourceURLs")],
            "incomplete": False,
        }
        return ok({**review, "status": status}, 201)

    def _decide(self, review: Object, user: User, name: str) -> Answer:
        spec = review.get("spec") or {}
        resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if (resource is None) == (path is None):
            raise _invalid(
                name,
                "spec.resourceAttributes",
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            )
        wanted = (
            Attributes(user, path.get("verb", ""), path=path.get("path", ""))
            if path is not None
            else _asked(user, resource or {})
        )
        decision, reason = self._authorizer.authorize(wanted)
        status: Object = {"allowed": decision is Decision.ALLOW}
        if decision is Decision.DENY:
            status["denied"] = True
        if reason:
            status["reason"] = reason
        return ok({**review, "status": status}, 201)

    @staticmethod
    async def _read(request: Request, group: str, kind: str) -> Object:
        body, _ = negotiate.read_object(await request.body(), request.headers.get("content-type", ""))
        area = group.partition(".")[0]
        review, _ = decode(f"io.k8s.api.{area}.v1.{kind}", body, strict=_strictness(request))
        return {
            "kind": kind,
            "apiVersion": f"{group}/v1",
            "metadata": {"creationTimestamp": None},
            **_without_type(review),
        }


def _strictness(request: Request) -> Any:
    value = request.info.first("fieldValidation")
    return value if value in ("Ignore", "Warn", "Strict") else "Warn"


def _without_type(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in ("kind", "apiVersion")}


def _asked(user: User, spec: Mapping[str, Any]) -> Attributes:
    names = ("verb", "group", "resource", "namespace", "name", "subresource")
    verb, group, resource, namespace, name, subresource = (spec.get(key, "") for key in names)
    fields = _field_selector(spec.get("fieldSelector") or {})
    return Attributes(user, verb, group, resource or "*", namespace, name, subresource, field_selector=fields)


def _field_selector(given: Mapping[str, Any]) -> str:
    """A review's selector as a request would spell it; what has no such spelling narrows nothing."""
    parts = [given["rawSelector"]] if given.get("rawSelector") else []
    for requirement in given.get("requirements") or ():
        if len(requirement.get("values") or ()) == 1 and requirement.get("operator") in ("In", "NotIn"):
            sign = "=" if requirement["operator"] == "In" else "!="
            parts.append(f"{requirement.get('key', '')}{sign}{requirement['values'][0]}")
    return ",".join(parts)


def _invalid(kind: str, path: str, text: str) -> errors.StatusError:
    return errors.invalid(AUTHZ, kind, "", [Cause("FieldValueInvalid", f"Invalid value: {text}", path)])


class Impersonation:
    """`Impersonate-*` headers: act as someone else, if RBAC lets you (verb `impersonate` on users, groups,
    ...).
    """

    def __init__(self, authorizer: Union) -> None:
        self._authorizer = authorizer

    def __call__(self, request: Request) -> User:
        name = request.headers.get("impersonate-user", "")
        groups = [
            group.strip()
            for group in request.headers.get("impersonate-group", "").split(",")
            if group.strip()
        ]
        uid = request.headers.get("impersonate-uid", "")
        extra = {
            key[len("impersonate-extra-") :]: [value]
            for key, value in request.headers.items()
            if key.startswith("impersonate-extra-")
        }
        if not name:
            if groups or uid or extra:
                raise errors.bad_request("requested impersonation without impersonating a user")
            return request.user
        self._check(request.user, name, groups, uid, extra)
        if name.startswith(SERVICE_ACCOUNT_PREFIX) and name.count(":") == 3 and not groups:
            _, _, namespace, account = name.split(":")
            return replace(service_account(namespace, account), uid=uid, extra=extra)
        return User(name, tuple(dict.fromkeys([*groups, AUTHENTICATED])), uid, extra)

    def _check(
        self, user: User, name: str, groups: list[str], uid: str, extra: Mapping[str, list[str]]
    ) -> None:
        if name.startswith(SERVICE_ACCOUNT_PREFIX) and name.count(":") == 3:
            _, _, namespace, account = name.split(":")
            wanted = [Attributes(user, "impersonate", "", "serviceaccounts", namespace, account)]
        else:
            wanted = [Attributes(user, "impersonate", "", "users", name=name)]
        wanted += [Attributes(user, "impersonate", "", "groups", name=group) for group in groups]
        if uid:
            wanted.append(Attributes(user, "impersonate", AUTHN, "uids", name=uid))
        wanted += [
            Attributes(user, "impersonate", AUTHN, "userextras", name=value, subresource=key)
            for key, values in extra.items()
            for value in values
        ]
        for each in wanted:
            decision, reason = self._authorizer.authorize(each)
            if decision is not Decision.ALLOW:
                raise refusal(each, reason)
