"""What expressions of admission see of a request, and their evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from apiserver.admission.webhookrules import review
from apiserver.auth.authorize import Attributes, Union
from apiserver.auth.user import service_account
from apiserver.cel import libraries
from apiserver.cel.expressions import ANY
from apiserver.cel.runtime import Failed, Unusable, compile_expression, evaluate, moment
from apiserver.registry.call import Call

Object = dict[str, Any]

_TIMES = ("creationTimestamp", "deletionTimestamp")


class Facts:
    """What expressions see of one call. Made once for all policies and webhooks it meets."""

    def __init__(self, call: Call, authorizer: Union, namespace: Object | None = None) -> None:
        self._call = call
        self._authorizer = authorizer
        request = review(call, "")["request"]
        self.values: dict[str, Any] = {
            "object": seen(call.obj),
            "oldObject": seen(call.old),
            "request": {
                name: value for name, value in request.items() if name not in ("object", "oldObject", "uid")
            },
            "authorizer": {**libraries.AUTHORIZER, "requestResource": self._resource()},
            "namespaceObject": seen(namespace),
            "variables": {},
            "params": None,
        }

    def _resource(self) -> Mapping[str, str]:
        call = self._call
        return {
            **libraries.AUTHORIZER,
            "group": call.kind.group,
            "resource": call.kind.resource,
            "subresource": call.subresource,
            "namespace": call.namespace,
            "name": call.name,
        }

    def evaluate(self, text: str, names: tuple[str, ...], returns: tuple[str, ...] = ("BOOL",)) -> Any:
        """The value of an expression. Raises Failed, also for one that does not compile."""
        try:
            program = compile_expression(text, names, returns)
        except Unusable as error:
            raise Failed(str(error)) from None
        with libraries.deciding(self._decide):
            return evaluate(program, {name: self.values[name] for name in names})

    def with_params(self, params: Object | None) -> None:
        self.values["params"] = seen(params)

    def set_variables(self, given: Iterable[Mapping[str, Any]], names: tuple[str, ...]) -> None:
        """Variables in their order. One that fails is left out: what needs it fails in turn."""
        found: dict[str, Any] = {}
        self.values["variables"] = found
        for variable in given:
            try:
                found[variable["name"]] = self.evaluate(variable["expression"], names, ANY)
            except Failed:
                continue

    def _decide(self, asked: Mapping[str, str]) -> tuple[bool, str]:
        user = self._call.user
        if account := asked.get("serviceAccount"):
            namespace, _, name = account.partition(":")
            user = service_account(namespace, name)
        decision, reason = self._authorizer.authorize(
            Attributes(
                user,
                asked["verb"],
                asked.get("group", ""),
                asked.get("resource", ""),
                asked.get("namespace", ""),
                asked.get("name", ""),
                asked.get("subresource", ""),
                asked.get("path", ""),
                "*",
            )
        )
        return decision.value == "allow", reason


def seen(obj: Object | None) -> Object | None:
    """An object as expressions see it: the times of its metadata are times, and `namespace`, a word of CEL,
    has its escaped name too.
    """
    if obj is None:
        return None
    fields = dict(obj.get("metadata") or {})
    for name in _TIMES:
        if isinstance(fields.get(name), str):
            fields[name] = moment(fields[name])
    if "namespace" in fields:
        fields["__namespace__"] = fields["namespace"]
    return {**obj, "metadata": fields}


def met(conditions: Iterable[Mapping[str, Any]], facts: Facts, names: tuple[str, ...]) -> bool:
    """Whether all match conditions hold. One that does not decides, even when others end with an error;
    else errors are raised together as Failed.
    """
    wrong: list[str] = []
    for condition in conditions:
        try:
            if facts.evaluate(condition["expression"], names) is not True:
                return False
        except Failed as error:
            wrong.append(f"expression '{condition['expression']}' resulted in error: {error}")
    if wrong:
        raise Failed(wrong[0] if len(wrong) == 1 else f"[{', '.join(wrong)}]")
    return True
