"""`serviceaccounts/token`: TokenRequest (authentication/v1), the way every pod gets its identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apimachinery import errors, meta
from apimachinery.errors import Cause
from apimachinery.schema.decode import decode
from apimachinery.scheme import Kind, Scheme
from apiserver.auth.tokens import Issuer
from apiserver.registry.registry import Registry
from apiserver.rest import negotiate
from apiserver.rest.message import Answer, Request, ok
from apiserver.rest.verbs import Verbs

Object = dict[str, Any]

DEFAULT_SECONDS, MIN_SECONDS, MAX_SECONDS = 3600, 600, 1 << 32
BOUND_RESOURCES = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}
DEFINITION = "io.k8s.api.authentication.v1.TokenRequest"


class TokenRequests:
    def __init__(
        self,
        registry: Registry,
        verbs: Verbs,
        scheme: Scheme,
        issuer: Issuer | None,
        audiences: Sequence[str],
        longest: int,
    ) -> None:
        self._registry = registry
        self._verbs = verbs
        self._scheme = scheme
        self._issuer = issuer
        self._audiences = list(audiences)
        self._longest = longest or MAX_SECONDS

    async def __call__(self, request: Request, kind: Kind) -> Answer:
        if self._issuer is None:
            raise errors.service_unavailable(
                "no --service-account-signing-key-file is configured", retry_after=0
            )
        info = request.info
        body, _ = negotiate.read_object(await request.body(), request.headers.get("content-type", ""))
        asked, _ = decode(DEFINITION, body)
        spec = asked.get("spec") or {}
        seconds = spec.get("expirationSeconds") or DEFAULT_SECONDS
        _check_seconds(seconds)
        account = (await self._registry.reader.get(kind, info.namespace, info.name)).decoded()
        call = self._verbs.call(request, kind, "create")
        call.obj, call.old = asked, account
        await self._registry.admission.validate(call)
        bound = await self._bound(info.namespace, info.name, spec.get("boundObjectRef"))
        audiences = spec.get("audiences") or self._audiences
        token, expires = self._issuer.issue(account, audiences, min(seconds, self._longest), bound)
        filled = {**spec, "audiences": audiences, "expirationSeconds": seconds}
        fields = {
            "name": info.name,
            "namespace": info.namespace,
            "creationTimestamp": meta.now_rfc3339(self._registry.settings.now()),
        }
        status = {"token": token, "expirationTimestamp": meta.now_rfc3339(expires)}
        answer = {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": fields,
            "spec": filled,
            "status": status,
        }
        return ok(answer, 201)

    async def _bound(self, namespace: str, account: str, ref: Object | None) -> dict[str, dict[str, str]]:
        """The claims that bind the token to an object; a pod's node is named too."""
        if not ref:
            return {}
        resource = BOUND_RESOURCES.get(ref.get("kind", ""))
        kind = (
            self._scheme.resource("", "v1", resource) if resource and ref.get("apiVersion") == "v1" else None
        )
        if kind is None:
            raise errors.bad_request(
                "cannot bind token to object of type " + f"{ref.get('apiVersion')}, Kind={ref.get('kind')}"
            )
        obj = (
            await self._registry.reader.get(kind, namespace if kind.namespaced else "", ref.get("name", ""))
        ).decoded()
        uid = obj["metadata"]["uid"]
        if ref.get("uid") and ref["uid"] != uid:
            why = (
                f"the UID in the bound object reference ({ref['uid']}) does not match the UID in "
                "record. The object might have been deleted and then recreated"
            )
            raise errors.conflict("", kind.resource, ref["name"], why)
        bound = {kind.kind.lower(): {"name": ref["name"], "uid": uid}}
        if kind.resource == "pods":
            spec = obj.get("spec") or {}
            if spec.get("serviceAccountName", "default") != account:
                raise errors.bad_request(
                    f"cannot bind token for serviceaccount {account!r} to pod running with "
                    "different serviceaccount name."
                )
            bound.update(self._node_claim(spec.get("nodeName", "")))
        return bound

    def _node_claim(self, name: str) -> dict[str, dict[str, str]]:
        nodes = self._scheme.resource("", "v1", "nodes")
        entry = self._registry.cacher.of(nodes).get(name) if nodes and name else None
        return {"node": {"name": name, "uid": entry.decoded()["metadata"]["uid"]}} if entry else {}


def _check_seconds(seconds: int) -> None:
    message = ""
    if seconds < MIN_SECONDS:
        message = f"Invalid value: {seconds}: may not specify a duration less than 10 minutes"
    if seconds > MAX_SECONDS:
        message = f"Invalid value: {seconds}: may not specify a duration larger than 2^32 seconds"
    if message:
        cause = Cause("FieldValueInvalid", message, "spec.expirationSeconds")
        raise errors.invalid("authentication.k8s.io", "TokenRequest", "", [cause])
