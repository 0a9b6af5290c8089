"""The ownership graph: who refers to whom, and who has to be looked at after a change. Pure.

A node is one object, known by UID. An owner that is referred to but was never seen is a *virtual* node:
whether it exists has to be asked of the API before its dependents may be judged.

Invariants: `a in graph.dependents(b)` exactly when a's owner references name b's UID; a virtual node has at
least one dependent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from controllers import objects as o
from controllers.objects import Object
from kubeclient.resources import GVR

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


@dataclass(frozen=True, slots=True)
class Identity:
    """Where an object is found. `resource` is None for a virtual node whose kind the server does not
    serve.
    """

    resource: GVR | None
    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.api_version}/{self.kind} {where} ({self.uid})"


@dataclass(slots=True)
class Node:
    """One object of the graph."""

    identity: Identity
    owners: tuple[Object, ...] = ()
    dependents: dict[str, Node] = field(default_factory=dict)
    virtual: bool = False
    terminating: bool = False
    finalizers: frozenset[str] = frozenset()

    @property
    def deleting_dependents(self) -> bool:
        """A foreground deletion is under way."""
        return self.terminating and FOREGROUND in self.finalizers

    @property
    def orphaning(self) -> bool:
        return self.terminating and ORPHAN in self.finalizers

    @property
    def blocking(self) -> list[Node]:
        """Dependents that keep a foreground deletion of this node from ending."""
        return [d for d in self.dependents.values() if d.blocks(self.identity.uid)]

    def blocks(self, owner_uid: str) -> bool:
        return any(r["uid"] == owner_uid and r.get("blockOwnerDeletion") for r in self.owners)


@dataclass(frozen=True, slots=True)
class Work:
    """UIDs to look at: whether they may be deleted, and whose dependents are to be orphaned."""

    delete: frozenset[str] = frozenset()
    orphan: frozenset[str] = frozenset()


class Graph:
    """All objects and their references. Every change returns the work that follows from it."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def node(self, uid: str) -> Node | None:
        return self._nodes.get(uid)

    def put(self, resource: GVR, obj: Object) -> Work:
        """The object was added or changed."""
        identity = Identity(
            resource, resource.api_version, resource.kind, o.namespace(obj), o.name(obj), o.uid(obj)
        )
        node = self._nodes.get(identity.uid)
        if node is None:
            node = self._nodes[identity.uid] = Node(identity)
            fresh = True
        else:
            fresh = node.virtual
            node.identity, node.virtual = identity, False
        was_deleting, was_orphaning = node.deleting_dependents, node.orphaning
        before = node.owners
        node.owners = tuple(o.owner_references(obj))
        node.terminating, node.finalizers = o.is_terminating(obj), frozenset(o.finalizers(obj))
        look = self._relink(node, before)
        if before != node.owners or fresh:
            look |= self._misplaced(node)
        if node.deleting_dependents and not was_deleting:
            look |= {identity.uid, *node.dependents}
        orphan = {identity.uid} if node.orphaning and not was_orphaning else set()
        return Work(frozenset(look), frozenset(orphan))

    def remove(self, uid: str) -> Work:
        """The object is gone: its dependents have lost an owner, its owners may have waited for it."""
        node = self._nodes.pop(uid, None)
        if node is None:
            return Work()
        look = set(node.dependents)
        for reference in node.owners:
            owner = self._nodes.get(reference["uid"])
            if owner is not None:
                owner.dependents.pop(uid, None)
                self._drop_if_unused(owner)
                if owner.deleting_dependents:
                    look.add(owner.identity.uid)
        if node.dependents:
            # Dependents still refer to it; keep the place so that invariants hold until they are judged.
            ghost = self._nodes[uid] = Node(node.identity, virtual=True)
            ghost.dependents = node.dependents
        return Work(frozenset(look))

    def _relink(self, node: Node, before: Sequence[Object]) -> set[str]:
        """Enter a node under its owners. UIDs to look at: unknown owners' and those no longer blocked."""
        look: set[str] = set()
        uid = node.identity.uid
        old, new = ({reference["uid"]: reference for reference in side} for side in (before, node.owners))
        for gone in old.keys() - new.keys():
            owner = self._nodes.get(gone)
            if owner is not None:
                owner.dependents.pop(uid, None)
                self._drop_if_unused(owner)
        for owner_uid, reference in new.items():
            owner = self._nodes.get(owner_uid)
            if owner is None:
                owner = self._nodes[owner_uid] = Node(_virtual(reference, node), virtual=True)
            owner.dependents[uid] = node
            if owner.virtual:
                look.add(uid)  # judging the dependent asks for the owner
        changed = {u for u in old.keys() | new.keys() if old.get(u) != new.get(u)}
        for owner_uid in changed:
            owner = self._nodes.get(owner_uid)
            if owner is not None and owner.deleting_dependents:
                look |= {owner_uid, uid}
        return look

    def _misplaced(self, node: Node) -> set[str]:
        """A node whose reference disagrees with its owner (another kind, name or namespace) has to be
        judged.
        """
        for reference in node.owners:
            owner = self._nodes.get(reference["uid"])
            if owner is not None and not owner.virtual and not refers_to(reference, node, owner.identity):
                return {node.identity.uid}
        return set()

    def _drop_if_unused(self, node: Node) -> None:
        if node.virtual and not node.dependents:
            self._nodes.pop(node.identity.uid, None)


def refers_to(reference: Object, dependent: Node, owner: Identity) -> bool:
    """Does a reference describe this owner as it is? Groups must agree, versions need not."""
    groups = [version.rpartition("/")[0] for version in (reference["apiVersion"], owner.api_version)]
    same = groups[0] == groups[1] and reference["kind"] == owner.kind and reference["name"] == owner.name
    return same and owner.namespace in ("", dependent.identity.namespace)


def _virtual(reference: Object, dependent: Node) -> Identity:
    return Identity(
        None,
        reference["apiVersion"],
        reference["kind"],
        dependent.identity.namespace,
        reference["name"],
        reference["uid"],
    )


# -- judging one object --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with an object that has owners.

    `delete` is the propagation policy to delete it with, "" to keep it; `drop` are the UIDs of owner
    references to take off because those owners are gone; `unblock` asks to clear blockOwnerDeletion first.
    """

    delete: str = ""
    drop: frozenset[str] = frozenset()
    unblock: bool = False


def judge(node: Node, solid: Iterable[str], dangling: Iterable[str], waiting: Iterable[str]) -> Verdict:
    """Decide by the state of the owners, each known to be present (`solid`), absent, or in foreground
    deletion.

    One living owner keeps an object. Without one, an owner that waits for its dependents is served in its own
    way: the object goes in the foreground if it has dependents of its own. Otherwise its own finalizers say
    how it goes.
    """
    alive, absent, holding = set(solid), set(dangling), set(waiting)
    if alive:
        return Verdict(drop=frozenset(absent | holding))
    if holding and node.dependents:
        circular = any(dependent.deleting_dependents for dependent in node.dependents.values())
        return Verdict(delete="Foreground", unblock=circular)
    if not holding and not absent:
        return Verdict()
    if ORPHAN in node.finalizers:
        return Verdict(delete="Orphan")
    if FOREGROUND in node.finalizers:
        return Verdict(delete="Foreground")
    return Verdict(delete="Background")
