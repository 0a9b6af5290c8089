"""ControllerRevisions: the template history of DaemonSets and StatefulSets, as `kubectl rollout` reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from apimachinery import errors
from controllers import objects as o
from controllers.hashing import template_hash
from controllers.objects import Object
from controllers.runtime import ignore_not_found
from kubeclient.resources import CONTROLLERREVISIONS, GVR
from kubeclient.rest import RestClient

HASH_LABEL = "controller-revision-hash"


@dataclass(frozen=True, slots=True)
class History:
    """What to do about an owner's revisions so that exactly one, the newest, holds its current template."""

    current: Object | None  # holds the current template; None: it has to be made
    raise_to: int | None  # the revision number `current` must get, if not its own
    number: int  # the current template's revision number in the end
    surplus: tuple[Object, ...]  # beyond the history limit and used by no pod, oldest first


def patch_of(owner: Object) -> Object:
    """What a revision stores: a strategic merge patch that puts this template back."""
    return {"spec": {"template": {**o.spec(owner)["template"], "$patch": "replace"}}}


def compute_history(owner: Object, revisions: Sequence[Object], in_use: Iterable[str]) -> History:
    """Compare the stored revisions (owned, any order) with the template; `in_use` are the hashes pods still
    carry.
    """
    ordered = sorted(revisions, key=lambda r: (int(r.get("revision", 0)), o.created_at(r), o.name(r)))
    data = patch_of(owner)
    current = next((r for r in reversed(ordered) if r.get("data") == data), None)
    highest = max((int(r.get("revision", 0)) for r in ordered if r is not current), default=0)
    number = int(current["revision"]) if current and int(current["revision"]) > highest else highest + 1
    limit = int(o.spec(owner).get("revisionHistoryLimit", 10))
    used = set(in_use)
    old = [r for r in ordered if r is not current]
    free = [r for r in old if hash_of(r) not in used]
    surplus = free[: max(len(old) - limit, 0)]
    raise_to = number if current is not None and int(current["revision"]) != number else None
    return History(current, raise_to, number, tuple(surplus))


def hash_of(revision: Object) -> str:
    """The hash that pods of this revision carry in their `controller-revision-hash` label."""
    return str(o.labels(revision).get(HASH_LABEL, ""))


def build_revision(owner: Object, gvr: GVR, number: int) -> Object:
    """A new ControllerRevision of the owner's template. Its name depends on the template and the collision
    count alone.
    """
    data = patch_of(owner)
    code = template_hash(data, o.status(owner).get("collisionCount"))
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": f"{o.name(owner)}-{code}",
            "namespace": o.namespace(owner),
            "labels": {**o.labels(o.spec(owner)["template"]), HASH_LABEL: code},
            "annotations": dict(o.annotations_of(owner)),
            "ownerReferences": [o.owner_reference(owner, gvr.api_version, gvr.kind)],
        },
        "data": data,
        "revision": number,
    }


class NameCollision(Exception):
    """The revision's name is taken by other data: the owner's collisionCount has to grow."""


async def ensure_current(client: RestClient, owner: Object, gvr: GVR, history: History) -> Object:
    """Make or renumber the current revision; idempotent. Raises NameCollision."""
    if history.current is not None:
        if history.raise_to is None:
            return history.current
        return await client.update(CONTROLLERREVISIONS, {**history.current, "revision": history.raise_to})
    body = build_revision(owner, gvr, history.number)
    try:
        return await client.create(CONTROLLERREVISIONS, body, o.namespace(owner))
    except errors.StatusError as error:
        if not errors.is_already_exists(error):
            raise
    found = await client.get(CONTROLLERREVISIONS, o.name(body), o.namespace(owner))
    if found.get("data") == body["data"] and o.is_controlled_by(found, owner):
        return found
    raise NameCollision(o.name(body))


async def drop_surplus(client: RestClient, history: History) -> None:
    for revision in history.surplus:
        await ignore_not_found(client.delete(CONTROLLERREVISIONS, o.name(revision), o.namespace(revision)))
