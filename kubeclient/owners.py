"""Owner references (`metav1.OwnerReference`): who owns an object, and which of the owners manages it."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def owner_ref(owner: Object, *, controller: bool = False, block_owner_deletion: bool = False) -> Object:
    """A reference to `owner`, which must carry apiVersion, kind, name and uid."""
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    if controller:
        reference["controller"] = True
    if block_owner_deletion:
        reference["blockOwnerDeletion"] = True
    return reference


def controller_ref(owner: Object) -> Object:
    """The reference a controller puts on what it creates (client-go's `NewControllerRef`)."""
    return owner_ref(owner, controller=True, block_owner_deletion=True)


def owner_references(obj: Object) -> list[Object]:
    return obj["metadata"].get("ownerReferences") or []


def controller_of(obj: Object) -> Object | None:
    """The reference to the one owner that manages `obj`, if there is one."""
    return next((each for each in owner_references(obj) if each.get("controller")), None)


def is_controlled_by(obj: Object, owner: Object) -> bool:
    """Whether `owner` manages `obj`; owners are told apart by uid, since a name can be used again."""
    reference = controller_of(obj)
    return reference is not None and reference["uid"] == owner["metadata"]["uid"]


def is_owned_by(obj: Object, owner: Object) -> bool:
    uid = owner["metadata"]["uid"]
    return any(each["uid"] == uid for each in owner_references(obj))


def without_owner(obj: Object, uid: str) -> list[Object]:
    """The owner references of `obj` that point elsewhere."""
    return [each for each in owner_references(obj) if each["uid"] != uid]
