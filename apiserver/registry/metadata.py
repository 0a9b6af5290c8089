"""The metadata rules every kind shares: what the server fills in at creation and keeps at update. Pure."""

from __future__ import annotations

from random import Random
from typing import Any

from apimachinery import errors, meta
from apimachinery.errors import Cause
from apimachinery.scheme import Kind
from apiserver.registry import faults

Object = dict[str, Any]

SYSTEM_FIELDS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")
SERVER_KEPT = ("resourceVersion", "managedFields", "selfLink")


def metadata(obj: Object) -> Object:
    """The object's metadata, made when absent. Raises 400 when it is not a map."""
    value = obj.setdefault("metadata", {})
    if not isinstance(value, dict):
        raise errors.bad_request("metadata: expected an object")
    return value


def check_namespace(kind: Kind, obj: Object, namespace: str) -> None:
    """Put the request's namespace into the object; 400 when it names another one."""
    fields = metadata(obj)
    if not kind.namespaced:
        return
    given = fields.get("namespace") or namespace
    if given != namespace:
        raise errors.bad_request(
            "the namespace of the provided object does not match the namespace sent on the "
            f"request: {given} != {namespace}"
        )
    fields["namespace"] = namespace


def check_name(obj: Object, name: str) -> None:
    given = metadata(obj).get("name")
    if not given:
        metadata(obj)["name"] = name
    elif given != name:
        raise errors.bad_request(
            f"the name of the object ({given}) does not match the name on the URL ({name})"
        )


def causes(obj: Object, kind: Kind) -> list[Cause]:
    """What is wrong with the object's metadata. Custom resources and their definitions may have finalizers
    without
    a domain; only the built-in groups insist on one (core validation's ValidateFinalizerName).
    """
    found = meta.validate_object_meta(obj, kind)
    if hasattr(kind, "schema") or kind.group == "apiextensions.k8s.io":
        found = [cause for cause in found if not cause.message.endswith("nor is it fully qualified")]
    return found


def fill_new(kind: Kind, obj: Object, *, now: float, uid: str, rng: Random) -> None:
    """What a created object gets: name, uid, creation time, generation. Client-set system fields are
    dropped.
    """
    fields = metadata(obj)
    for name in (*SYSTEM_FIELDS, "resourceVersion", "selfLink"):
        fields.pop(name, None)
    if not fields.get("name") and fields.get("generateName"):
        fields["name"] = meta.generate_name(fields["generateName"], rng)
    fields["uid"] = uid
    fields["creationTimestamp"] = meta.now_rfc3339(now)
    if kind.strategy.has_generation:
        fields["generation"] = 1


def keep_stored(kind: Kind, new: Object, old: Object) -> None:
    """What an update cannot change comes from the stored object; 409 when the update is meant for another
    one.
    """
    fields, stored = metadata(new), old["metadata"]
    uid = fields.get("uid")
    if uid and uid != stored["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {stored['uid']}"
        raise errors.conflict(kind.group, kind.resource, stored["name"], why)
    version = fields.get("resourceVersion")
    if version and version != stored["resourceVersion"]:
        raise errors.conflict(kind.group, kind.resource, stored["name"], faults.MODIFIED)
    for name in SYSTEM_FIELDS:
        if name in stored:
            fields[name] = stored[name]
        else:
            fields.pop(name, None)
    fields["resourceVersion"] = stored["resourceVersion"]
    if "generateName" in stored:
        fields.setdefault("generateName", stored["generateName"])
    for name in ("labels", "annotations", "finalizers", "ownerReferences"):
        if name in fields and not fields[name]:
            del fields[name]


def bump_generation(kind: Kind, new: Object, old: Object) -> None:
    """`metadata.generation` counts the changes of what the user asks for."""
    if not kind.strategy.has_generation:
        return
    if _desired(new) != _desired(old):
        metadata(new)["generation"] = old["metadata"].get("generation", 0) + 1


def _desired(obj: Object) -> Object:
    if "spec" in obj:
        return {"spec": obj["spec"]}
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}


def own_status(kind: Kind, new: Object, old: Object, subresource: str) -> None:
    """An update of the object leaves its status alone, and an update of `status` everything else."""
    if "status" not in kind.subresources:
        return
    if subresource in ("status", "approval"):
        for name in [name for name in new if name not in ("metadata", "status")]:
            del new[name]
        new.update({name: value for name, value in old.items() if name not in ("metadata", "status")})
        _keep_or_drop(metadata(new), old["metadata"], "ownerReferences")
    elif not subresource:
        _keep_or_drop(new, old, "status")


def _keep_or_drop(new: Object, old: Object, name: str) -> None:
    if name in old:
        new[name] = old[name]
    else:
        new.pop(name, None)
