"""Dynamic admission: MutatingAdmissionWebhook and ValidatingAdmissionWebhook
(admissionregistration.k8s.io/v1).
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from dataclasses import dataclass
from typing import Any

import orjson

from apimachinery import errors
from apimachinery.errors import StatusError
from apimachinery.patch import json as json_patch
from apimachinery.scheme import Kind
from apiserver.admission.base import Context, Plugin, forbid
from apiserver.admission.expressions import Facts, met
from apiserver.admission.matching import as_matched, converted, namespace_labels, selected
from apiserver.admission.webhookrules import GROUP, review
from apiserver.cel.expressions import CONDITION
from apiserver.cel.runtime import Failed
from apiserver.registry.backends import Backends
from apiserver.registry.call import Call
from apiserver.registry.patching import clone
from apiserver.registry.webhookclient import CallFailed, WebhookClient

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a webhook decided: `refusal` None allows, `patch` changes."""

    refusal: StatusError | None = None
    patch: bytes = b""


class Webhooks(Plugin):
    """What both plugins share: finding the webhooks of a call, and asking one."""

    resource = ""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._client = WebhookClient(Backends(context.cacher, context.scheme))

    def handles(self, call: Call) -> bool:
        kind = self._configurations()
        return kind is not None and bool(self.context.cacher.of(kind).entries)

    def _configurations(self) -> Kind | None:
        return self.context.scheme.resource(GROUP, "v1", self.resource)

    def _hooks(self) -> list[Object]:
        """All webhooks, in the order of their configurations' names."""
        kind = self._configurations()
        assert kind is not None
        entries = self.context.cacher.of(kind).scan()
        return [hook for entry in entries for hook in entry.decoded().get("webhooks") or ()]

    async def _seen(self, hook: Object, call: Call) -> Call | None:
        """The call in the form this webhook is to see; None when it is not for it. Configurations of
        admission are never sent: a webhook that refuses everything could not be taken away again.

        Raises 403 for match conditions that end with an error, unless the webhook's failures are ignored.
        """
        if call.kind.group == GROUP or not selected(hook, call, namespace_labels(self.context, call)):
            return None
        exact = hook.get("matchPolicy") == "Exact"
        found = await as_matched(self.context, call, hook.get("rules") or (), exact=exact)
        if found is None or not hook.get("matchConditions"):
            return found
        try:
            holds = met(hook["matchConditions"], Facts(found, self.context.authorizer), CONDITION)
        except Failed as error:
            if hook.get("failurePolicy") == "Ignore":
                return None
            raise forbid(call, str(error)) from error
        return found if holds else None

    async def _ask(self, hook: Object, call: Call, original: Kind) -> Verdict:
        """One webhook's verdict; a failure is a refusal or nothing, as its policy says."""
        if call.dry_run and hook.get("sideEffects") not in ("None", "NoneOnDryRun"):
            return Verdict(errors.bad_request(f'admission webhook "{hook["name"]}" does not support dry run'))
        uid = str(uuid.uuid4())
        try:
            seconds = hook.get("timeoutSeconds", 10)
            async with asyncio.timeout(seconds):
                answer = await self._post(hook, orjson.dumps(review(call, uid, original)), seconds)
            return verdict(hook, answer, uid, call)
        except TimeoutError:
            failure = "context deadline exceeded"
        except CallFailed as error:
            failure = str(error)
        if hook.get("failurePolicy") == "Ignore":
            return Verdict()
        return Verdict(errors.internal_error(f'failed calling webhook "{hook["name"]}": {failure}'))

    async def _post(self, hook: Object, body: bytes, seconds: int) -> Object:
        try:
            return await self._client.post(hook["clientConfig"], body, seconds)
        except CallFailed as error:
            raise CallFailed(f"failed to call webhook: {error}") from error


class MutatingAdmissionWebhook(Webhooks):
    resource = "mutatingwebhookconfigurations"

    async def mutate(self, call: Call) -> None:
        """In turn; one that wants it is asked a second time when others have changed the object after it."""
        left = [
            (hook, clone(call.obj or {}))
            for hook in self._hooks()
            if await self._apply(hook, call) and hook.get("reinvocationPolicy") == "IfNeeded"
        ]
        for hook, saw in left:
            if saw != call.obj:
                await self._apply(hook, call)

    async def validate(self, call: Call) -> None:
        """A deletion has nothing to change, but may be refused."""
        if call.obj is None:
            for hook in self._hooks():
                await self._apply(hook, call)

    async def _apply(self, hook: Object, call: Call) -> bool:
        """Ask a webhook that the call is for, and do what it says; whether it was for it."""
        seen = await self._seen(hook, call)
        if seen is None:
            return False
        found = await self._ask(hook, seen, call.kind)
        if found.refusal is not None:
            raise found.refusal
        if found.patch and call.obj is not None and seen.obj is not None:
            try:
                changed = json_patch.apply(seen.obj, orjson.loads(found.patch))
            except (StatusError, orjson.JSONDecodeError) as error:
                why = f'failed calling webhook "{hook["name"]}": its patch cannot be applied: {error}'
                raise errors.internal_error(why) from error
            for name in ("kind", "apiVersion"):
                changed[name] = seen.obj[name]
            back = await converted(changed, seen.kind, call.kind)
            assert back is not None
            call.obj = back
            call.kind.strategy.default(back)
        return True


class ValidatingAdmissionWebhook(Webhooks):
    resource = "validatingwebhookconfigurations"

    async def validate(self, call: Call) -> None:
        """All at once; the first refusal in their order is the answer."""
        hooks = [(hook, seen) for hook in self._hooks() if (seen := await self._seen(hook, call))]
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(self._ask(hook, seen, call.kind), name="webhook") for hook, seen in hooks
            ]
        for task in asked:
            refusal = task.result().refusal
            if refusal is not None:
                raise refusal


def verdict(hook: Object, answer: Object, uid: str, call: Call) -> Verdict:
    """Read an AdmissionReview's response. Raises CallFailed for one that is none of ours."""
    response = answer.get("response")
    if not isinstance(response, dict):
        raise CallFailed("expected response.uid: the webhook response was absent")
    if answer.get("kind") != "AdmissionReview" or answer.get("apiVersion") != "admission.k8s.io/v1":
        raise CallFailed(f"expected webhook response of admission.k8s.io/v1, got {answer.get('apiVersion')}")
    if response.get("uid") != uid:
        raise CallFailed(f'expected response.uid="{uid}", got "{response.get("uid")}"')
    call.warnings += [str(text) for text in response.get("warnings") or () if text not in call.warnings]
    if not response.get("allowed"):
        return Verdict(denied(hook["name"], response.get("status") or {}))
    patch = response.get("patch")
    if not patch:
        return Verdict()
    if response.get("patchType") != "JSONPatch":
        raise CallFailed(
            f"webhook returned response.patchType {response.get('patchType')!r}, only JSONPatch is known"
        )
    try:
        return Verdict(patch=base64.b64decode(patch, validate=True))
    except ValueError as error:
        raise CallFailed(f"response.patch is not base64: {error}") from error


def denied(name: str, status: Object) -> StatusError:
    """A refusal in the webhook's own words (apiserver/pkg/admission/plugin/webhook/errors.ToStatusErr)."""
    by = f'admission webhook "{name}" denied the request'
    message, reason = status.get("message"), status.get("reason", "")
    text = f"{by}: {message or reason}" if message or reason else f"{by} without explanation"
    code = status.get("code") or 400
    return errors.status(max(int(code), 400), reason, text, details=status.get("details") or {})
