"""`kubectl get componentstatuses`: whether the store, and the scheduler and controller manager beside this
server, answer. Deprecated since 1.19 (whoever runs elsewhere is not seen), and still what many type first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from apimachinery import errors, selectors, table
from apimachinery.scheme import Kind
from apiserver.kinds.common import NAME, column
from apiserver.rest import negotiate, options, render
from apiserver.rest.message import Answer, Request

Object = dict[str, Any]
Probe = Callable[[], Awaitable[str]]
"""Gives what a healthy component says, raises Unhealthy with what is wrong."""

BESIDE = {"controller-manager": 10257, "scheduler": 10259}
"""The ports that are assumed, as kube-apiserver assumes them."""
PROBE_SECONDS = 5.0


class Unhealthy(Exception):
    """A component does not answer, or not well."""


def _condition(name: str) -> Callable[[Object], str]:
    def cell(obj: Object) -> str:
        (found,) = obj["conditions"]
        if name == "status":
            return "Healthy" if found["status"] == "True" else "Unhealthy"
        return str(found.get(name, ""))

    return cell


KIND = Kind(
    *("", "v1", "ComponentStatus", "componentstatuses", False, ""),
    short_names=("cs",),
    verbs=("get", "list"),
    columns=(NAME, *(column(name.title(), _condition(name)) for name in ("status", "message", "error"))),
)


def over_https(port: int) -> Probe:
    """Asks a component on this host. Its certificate names the host, not this address, and is not checked."""
    url = f"https://127.0.0.1:{port}/healthz"

    async def probe() -> str:
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=PROBE_SECONDS) as client:
            try:
                answer = await client.get(url)
            except httpx.HTTPError as error:
                raise Unhealthy(f'Get "{url}": {error}') from error
        if not 200 <= answer.status_code < 400:
            raise Unhealthy(f"HTTP probe failed with statuscode: {answer.status_code}")
        return answer.text[:1024]

    return probe


class ComponentStatuses:
    """Endpoints over named probes, by verb (`table()`)."""

    def __init__(self, probes: Mapping[str, Probe]) -> None:
        self._probes = probes

    def table(self) -> Mapping[str, Callable[[Request], Awaitable[Answer]]]:
        return {"get": self.get, "list": self.list}

    async def get(self, request: Request) -> Answer:
        form, include = _form(request)
        name = request.info.name
        if name not in self._probes:
            raise errors.not_found("", "componentstatus", name)
        return render.object_response(KIND, await self._status(name), form, include)

    async def list(self, request: Request) -> Answer:
        form, include = _form(request)
        chosen = options.list_options(request.info)
        labels = selectors.parse_label_selector(chosen.label_selector)
        fields = selectors.parse_field_selector(chosen.field_selector)
        names = [name for name in self._probes if fields.matches({"metadata.name": name})]
        items = await asyncio.gather(*map(self._status, names)) if labels.matches({}) else []
        if form.shape == negotiate.TABLE:
            return render.respond(table.table(KIND, items, include, metadata={}), form)
        listed = {"kind": KIND.list_kind, "apiVersion": "v1", "metadata": {}, "items": items}
        return render.respond(listed, form)

    async def _status(self, name: str) -> Object:
        condition: Object = {"type": "Healthy", "status": "True"}
        try:
            async with asyncio.timeout(2 * PROBE_SECONDS):
                condition["message"] = await self._probes[name]()
        except Unhealthy as error:
            condition |= {"status": "False", "message": str(error)}
        except TimeoutError:
            condition |= {"status": "Unknown", "error": "the probe did not end in time"}
        return {"kind": KIND.kind, "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]}


def _form(request: Request) -> tuple[negotiate.Form, table.IncludeObject]:
    form = negotiate.accept(request.headers.get("accept", ""), shapes=(negotiate.TABLE,))
    return form, render.include_object(request.info.first("includeObject"))
