"""Subresources that are writes or views of their object: status, scale, binding, eviction, finalize,
ephemeralcontainers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from apimachinery import errors, field, meta, selectors
from apimachinery.errors import Cause
from apimachinery.schema.decode import decode
from apimachinery.scheme import Kind, Scale, Scheme
from apiserver.kinds import common
from apiserver.registry import patching
from apiserver.registry.call import Call
from apiserver.registry.registry import Registry
from apiserver.rest import negotiate, options, render
from apiserver.rest.message import Answer, Request, ok
from apiserver.rest.resources import Endpoint
from apiserver.rest.verbs import Verbs

Object = dict[str, Any]

SCALE_VERSION = "autoscaling/v1"
SCALE = Kind(
    *("autoscaling", "v1", "Scale", "scale", True, ""),
    columns=(
        common.NAME,
        common.column("Desired", common.number("spec", "replicas"), "integer"),
        common.column("Available", common.number("status", "replicas"), "integer"),
        common.AGE,
    ),
)
REPLACED_BY_NAME = ("status", "approval")


class Subresources:
    """Endpoints over the registry, as one table (`table()`)."""

    def __init__(self, registry: Registry, verbs: Verbs, scheme: Scheme) -> None:
        self._registry = registry
        self._verbs = verbs
        self._scheme = scheme

    def table(self) -> dict[tuple[str, str, str], Mapping[str, Endpoint]]:
        verbs = self._verbs
        whole: Mapping[str, Endpoint] = {"get": verbs.get, "update": verbs.update, "patch": verbs.patch}
        out: dict[tuple[str, str, str], Mapping[str, Endpoint]] = {
            ("*", "*", name): whole for name in REPLACED_BY_NAME
        }
        out[("", "namespaces", "finalize")] = {"update": self.finalize}
        out[("*", "*", "scale")] = {
            "get": self.get_scale,
            "update": self.put_scale,
            "patch": self.patch_scale,
        }
        out[("", "pods", "binding")] = {"create": self.bind}
        out[("", "pods", "eviction")] = {"create": self.evict}
        for name, merge in (("ephemeralcontainers", add_ephemeral), ("resize", resize)):
            part = PodPart(self._registry, verbs, merge)
            out[("", "pods", name)] = {"get": verbs.get, "update": part.update, "patch": part.patch}
        return out

    async def finalize(self, request: Request, kind: Kind) -> Answer:
        """Replace a namespace's spec.finalizers; with the last one gone, so is the namespace."""
        call = self._verbs.call(request, kind, "update")
        wanted = await self._verbs.read(request, kind, call)
        finalizers = (wanted.get("spec") or {}).get("finalizers") or []

        async def change(stored: Object) -> Object:
            stored["spec"] = {**(stored.get("spec") or {}), "finalizers": finalizers}
            given = wanted.get("metadata", {}).get("resourceVersion")
            if given:
                stored["metadata"]["resourceVersion"] = given
            return stored

        obj, _ = await self._registry.update(call, change)
        return ok(obj)

    # -- scale -----------------------------------------------------------------------------------------------

    async def get_scale(self, request: Request, kind: Kind) -> Answer:
        info = request.info
        entry = await self._registry.reader.get(
            kind, info.namespace, info.name, info.first("resourceVersion")
        )
        return self._scale_answer(request, kind, entry.decoded())

    async def put_scale(self, request: Request, kind: Kind) -> Answer:
        body, _ = negotiate.read_object(await request.body(), request.headers.get("content-type", ""))
        return await self._write_scale(request, kind, lambda _: body)

    async def patch_scale(self, request: Request, kind: Kind) -> Answer:
        if patching.is_apply(request.headers.get("content-type", "")):
            return await self.apply_scale(request, kind)
        apply = patching.parse(await request.body(), request.headers.get("content-type", ""), SCALE)
        return await self._write_scale(request, kind, apply)

    async def _write_scale(self, request: Request, kind: Kind, apply: patching.Apply) -> Answer:
        call = self._verbs.call(request, kind, "update")
        path = _paths(kind).spec_replicas

        async def change(stored: Object) -> Object:
            wanted = apply(scale_of(kind, stored))
            replicas = _replicas((wanted.get("spec") or {}).get("replicas", 0), call.name)
            fields = wanted.get("metadata") or {}
            if fields.get("resourceVersion"):
                stored["metadata"]["resourceVersion"] = fields["resourceVersion"]
            _put(stored, path, replicas)
            return stored

        call.subresource = ""
        obj, _ = await self._registry.update(call, change)
        return self._scale_answer(request, kind, obj)

    async def apply_scale(self, request: Request, kind: Kind) -> Answer:
        """Apply a Scale: its one field is the object's own number of replicas."""
        call = self._verbs.call(request, kind, "patch", applies=True)
        writer, call.writer, call.subresource = call.writer, None, ""
        assert writer is not None
        config = patching.parse_apply(await request.body(), call.options.field_validation, call.warnings)
        patching.check_applied_type(config, SCALE_VERSION, "Scale")
        fields, spec = config.get("metadata") or {}, config.get("spec") or {}
        if not isinstance(fields, dict) or not isinstance(spec, dict):
            raise errors.bad_request("metadata and spec of a Scale are objects")
        partial: Object = {"apiVersion": kind.api_version, "kind": kind.kind}
        partial["metadata"] = {
            name: fields[name] for name in ("name", "namespace", "resourceVersion") if name in fields
        }
        if "replicas" in spec:
            _put(partial, _paths(kind).spec_replicas, _replicas(spec["replicas"], call.name))
        registry = self._registry

        async def applied(live: Object) -> Object:
            now, force = registry.settings.now(), call.options.force
            new = registry.ownership.apply(kind, writer, live, partial, now, force=force)
            return self._verbs.decode(new, kind, call, ())

        obj, _ = await registry.update(call, applied)
        return self._scale_answer(request, kind, obj)

    @staticmethod
    def _scale_answer(request: Request, kind: Kind, obj: Object) -> Answer:
        form = negotiate.accept(request.headers.get("accept", ""))
        include = render.include_object(request.info.first("includeObject"))
        return render.object_response(SCALE, scale_of(kind, obj), form, include)

    # -- pods ------------------------------------------------------------------------------------------------

    async def bind(self, request: Request, kind: Kind) -> Answer:
        """Assign a pod to a node: sets spec.nodeName once and the PodScheduled condition."""
        body, _ = negotiate.read_object(await request.body(), request.headers.get("content-type", ""))
        return await self._bind(request, kind, body)

    async def bind_named(self, request: Request) -> Answer:
        """The same for `bindings`, the resource: the pod is the one that the object is named after."""
        kind = self._scheme.resource("", "v1", "pods")
        assert kind is not None
        body, _ = negotiate.read_object(await request.body(), request.headers.get("content-type", ""))
        name = str((body.get("metadata") or {}).get("name") or "")
        if not name:
            cause = Cause("FieldValueRequired", "Required value", "metadata.name")
            raise errors.invalid("", "Binding", "", [cause])
        request.info = replace(request.info, resource="pods", name=name, subresource="binding")
        return await self._bind(request, kind, body)

    async def _bind(self, request: Request, kind: Kind, body: Object) -> Answer:
        call = self._verbs.call(request, kind, "create")
        binding, _ = decode("io.k8s.api.core.v1.Binding", body, strict=call.options.field_validation)
        target, given = binding.get("target") or {}, binding.get("metadata") or {}
        node = target.get("name", "")
        if target.get("kind", "Node") not in ("", "Node") or not node:
            raise errors.invalid(
                "", "Binding", call.name, [Cause("FieldValueRequired", "Required value", "target.name")]
            )
        if given.get("name") not in (None, "", call.name):
            raise errors.bad_request("the name of the binding does not match the name on the URL")

        async def assign(pod: Object) -> Object:
            self._check_bindable(kind, pod, node, given)
            pod["spec"]["nodeName"] = node
            annotations = {**(pod["metadata"].get("annotations") or {}), **(given.get("annotations") or {})}
            if annotations:
                pod["metadata"]["annotations"] = annotations
            status = pod.setdefault("status", {})
            status["conditions"] = with_condition(
                status.get("conditions") or [],
                {"type": "PodScheduled", "status": "True"},
                self._registry.settings.now(),
            )
            return pod

        call.writer = None
        await self._registry.update(call, assign)
        return ok(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201
        )

    @staticmethod
    def _check_bindable(kind: Kind, pod: Object, node: str, given: Object) -> None:
        fields, bound = pod["metadata"], pod["spec"].get("nodeName")
        if given.get("uid") and given["uid"] != fields["uid"]:
            why = (
                f"Precondition failed: UID in precondition: {given['uid']}, UID in object meta: "
                f"{fields['uid']}"
            )
            raise errors.conflict("", "pods/binding", fields["name"], why)
        if "deletionTimestamp" in fields:
            raise errors.conflict(
                "",
                "pods/binding",
                fields["name"],
                f"pod {fields['name']} is being deleted, cannot be assigned to a host",
            )
        if bound:
            raise errors.conflict(
                "",
                "pods/binding",
                fields["name"],
                f'pod {fields["name"]} is already assigned to node "{bound}"',
            )

    async def evict(self, request: Request, kind: Kind) -> Answer:
        """Delete a pod unless a PodDisruptionBudget forbids it now (429)."""
        body, _ = negotiate.read_object(await request.body(), request.headers.get("content-type", ""))
        info = request.info
        chosen = options.delete_options(info, body.get("deleteOptions") or {})
        entry = await self._registry.reader.get(kind, info.namespace, info.name)
        pod = entry.decoded()
        if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed", "Pending"):
            await self._spend_budget(request, pod)
        call = self._verbs.call(request, kind, "delete")
        call.options, call.dry_run, call.subresource = chosen, chosen.dry_run or call.dry_run, ""
        await self._registry.delete(call, chosen)
        return ok(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201
        )

    async def _spend_budget(self, request: Request, pod: Object) -> None:
        budgets = self._scheme.resource("policy", "v1", "poddisruptionbudgets")
        if budgets is None:
            return
        namespace, labels = pod["metadata"]["namespace"], pod["metadata"].get("labels") or {}
        covering = []
        for entry in self._registry.cacher.of(budgets).scan(f"{namespace}/"):
            selector = (entry.decoded().get("spec") or {}).get("selector")
            if selector is not None and selectors.label_selector_from(selector).matches(labels):
                covering.append(entry.name)
        if len(covering) > 1:
            raise errors.internal_error(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource "
                "does not support."
            )
        for name in covering:
            call = self._verbs.call(request, budgets, "update")
            call.name, call.subresource, call.writer = name, "status", None
            await self._registry.update(
                call, _spend(pod["metadata"]["name"], meta.now_rfc3339(self._registry.settings.now()))
            )


Merge = Callable[[Object, Object], Iterable[Cause]]


class PodPart:
    """A subresource that changes one part of a pod's spec: `merge` moves it from the wanted pod into the
    stored one.
    """

    def __init__(self, registry: Registry, verbs: Verbs, merge: Merge) -> None:
        self._registry = registry
        self._verbs = verbs
        self._merge = merge

    async def update(self, request: Request, kind: Kind) -> Answer:
        call = self._verbs.call(request, kind, "update")
        wanted = await self._verbs.read(request, kind, call)
        return await self._write(call, lambda _: wanted)

    async def patch(self, request: Request, kind: Kind) -> Answer:
        call = self._verbs.call(request, kind, "patch")
        patch = patching.parse(await request.body(), request.headers.get("content-type", ""), kind)
        return await self._write(call, lambda stored: self._verbs.patched(patch, stored, kind, call))

    async def _write(self, call: Call, make: Callable[[Object], Object]) -> Answer:
        async def change(stored: Object) -> Object:
            wanted = make(copy.deepcopy(stored))
            stored["metadata"]["resourceVersion"] = (
                wanted["metadata"].get("resourceVersion") or stored["metadata"]["resourceVersion"]
            )
            causes = list(self._merge(stored["spec"], wanted.get("spec") or {}))
            if causes:
                raise errors.invalid("", "Pod", call.name, causes)
            return stored

        obj, _ = await self._registry.update(call, change)
        return ok(obj)


def add_ephemeral(spec: Object, wanted: Object) -> Iterable[Cause]:
    """Ephemeral containers can be added, never changed or removed."""
    before = {item["name"]: item for item in spec.get("ephemeralContainers") or []}
    after = wanted.get("ephemeralContainers") or []
    names = {item.get("name") for item in after}
    for name, item in before.items():
        if name not in names:
            yield field.forbidden(
                "spec.ephemeralContainers", f"existing ephemeral containers {name!r} may not be removed"
            )
        elif not any(_keeps(item, new) for new in after):
            yield field.forbidden(
                "spec.ephemeralContainers", f"existing ephemeral containers {name!r} may not be changed"
            )
    for index, new in enumerate(after):
        path = f"spec.ephemeralContainers[{index}]"
        if not new.get("name"):
            yield field.required(f"{path}.name")
        if not new.get("image"):
            yield field.required(f"{path}.image")
        new.setdefault("imagePullPolicy", "IfNotPresent")
        new.setdefault("terminationMessagePath", "/dev/termination-log")
        new.setdefault("terminationMessagePolicy", "File")
    spec["ephemeralContainers"] = after


def _keeps(old: Object, new: Object) -> bool:
    return all(new.get(key, value) == value for key, value in old.items())


def resize(spec: Object, wanted: Object) -> Iterable[Cause]:
    """Only the resources of containers change."""
    by_name = {item.get("name"): item for item in wanted.get("containers") or []}
    for index, container in enumerate(spec.get("containers") or []):
        new = by_name.get(container["name"])
        if new is None:
            yield field.forbidden(f"spec.containers[{index}]", "containers may not be removed by resize")
        else:
            container["resources"] = new.get("resources") or {}


def _spend(pod: str, now: str) -> Any:
    async def change(budget: Object) -> Object:
        status = budget.setdefault("status", {})
        name = budget["metadata"]["name"]
        if status.get("disruptionsAllowed", 0) <= 0:
            raise errors.too_many_requests(
                "Cannot evict pod as it would violate the pod's disruption budget. The disruption "
                f"budget {name} needs "
                f"{status.get('desiredHealthy', 0)} healthy pods and has "
                f"{status.get('currentHealthy', 0)} currently",
                retry_after=0,
            )
        status["disruptionsAllowed"] -= 1
        status["disruptedPods"] = {**(status.get("disruptedPods") or {}), pod: now}
        return budget

    return change


def with_condition(conditions: list[Object], wanted: Object, now: float) -> list[Object]:
    """Conditions with one of a type set; its transition time moves only when its status does."""
    kept = [dict(condition) for condition in conditions if condition["type"] != wanted["type"]]
    old = next((condition for condition in conditions if condition["type"] == wanted["type"]), None)
    if old is not None and old.get("status") == wanted["status"]:
        return copy.deepcopy(conditions)
    return [*kept, {"lastProbeTime": None, "lastTransitionTime": meta.now_rfc3339(now), **wanted}]


def scale_of(kind: Kind, obj: Object) -> Object:
    """The `autoscaling/v1` Scale view of an object."""
    scale = _paths(kind)
    fields = {
        key: obj["metadata"][key]
        for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        if key in obj["metadata"]
    }
    status: Object = {"replicas": _get(obj, scale.status_replicas) or 0}
    selector = _get(obj, scale.selector)
    if isinstance(selector, dict):
        parsed = (
            selectors.label_selector_from(selector)
            if _is_label_selector(selector)
            else selectors.from_set(selector)
        )
        status["selector"] = str(parsed)
    elif isinstance(selector, str):
        status["selector"] = selector
    return {
        "kind": "Scale",
        "apiVersion": SCALE_VERSION,
        "metadata": fields,
        "spec": {"replicas": _get(obj, scale.spec_replicas) or 0},
        "status": status,
    }


def _replicas(value: Any, name: str) -> int:
    """The number a Scale asks for. Raises 422 when it is none."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        message = f"Invalid value: {value}: must be greater than or equal to 0"
        cause = Cause("FieldValueInvalid", message, "spec.replicas")
        raise errors.invalid("autoscaling", "Scale", name, [cause])
    return value


def _paths(kind: Kind) -> Scale:
    return kind.scale or Scale()


def _is_label_selector(selector: Object) -> bool:
    return any(isinstance(selector.get(key), (dict, list)) for key in ("matchLabels", "matchExpressions"))


def _get(obj: Object, path: str) -> Any:
    value: Any = obj
    for part in path.lstrip(".").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _put(obj: Object, path: str, value: Any) -> None:
    *parents, last = path.lstrip(".").split(".")
    for part in parents:
        obj = obj.setdefault(part, {})
    obj[last] = value
