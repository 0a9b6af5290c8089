"""Writes: the one implementation of create, update, delete and deletecollection for every kind.

Every write is a compare-and-swap loop: take the state (from the cache first, it is usually current),
compute the next state, swap. A computation that fails on a cached state is repeated on the store's, since
the cache may lag. The order of the steps of a write is the order of the lines below; kinds differ only in
their `Strategy` and in `Hooks`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from apimachinery import errors, meta
from apimachinery.errors import Cause, StatusError
from apimachinery.managedfields import manager
from apimachinery.scheme import Kind
from apiserver.registry import deletion, faults, metadata
from apiserver.registry.call import Call
from apiserver.registry.ownership import Ownership
from apiserver.registry.patching import clone
from apiserver.registry.reading import Reader, relative_key, selector_filter, storage_key
from apiserver.rest.options import DeleteOptions, ListOptions
from apiserver.storage.cacher import Cacher, decode_converted, encode_converted
from apiserver.storage.interface import RevisionMismatch, StorageError, Store
from apiserver.storage.watchcache import Entry
from componentbase import tasks

Object = dict[str, Any]
Compute = Callable[[Object], Awaitable[Object]]

MAX_SWAPS = 32
DELETERS = 16
"""Objects of a deletecollection that are deleted at once."""
NAME_ATTEMPTS = 8
STATUS_LIKE = ("status", "approval")
OWN_RULES = ("binding", "finalize", "ephemeralcontainers", "resize")


class Admission(Protocol):
    """The admission chain as the registry calls it: mutate before validation, validate before the store."""

    async def mutate(self, call: Call) -> None: ...
    async def validate(self, call: Call) -> None: ...


class NoAdmission:
    async def mutate(self, call: Call) -> None:
        return None

    async def validate(self, call: Call) -> None:
        return None


class Reservation(Protocol):
    """Something taken for a write (addresses, ports). Exactly one of the two is called at its end."""

    async def commit(self) -> None: ...
    async def rollback(self) -> None: ...


class Allocator(Protocol):
    """Fills fields that are unique in the cluster. `old` is None at creation, `new` at deletion."""

    async def reserve(self, new: Object | None, old: Object | None, dry_run: bool) -> Reservation: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """What the registry gets from outside; `now` in Unix seconds."""

    now: Callable[[], float] = time.time
    new_uid: Callable[[], str] = lambda: str(uuid.uuid4())
    rng: Random = field(default_factory=Random)
    event_ttl: int = 3600


class Registry:
    """All kinds of one server."""

    def __init__(
        self,
        store: Store,
        cacher: Cacher,
        *,
        admission: Admission | None = None,
        allocators: Mapping[str, Allocator] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.store = store
        self.cacher = cacher
        self.reader = Reader(store, cacher)
        self.admission: Admission = admission or NoAdmission()
        self._allocators = dict(allocators or {})
        self.settings = settings or Settings()
        self.ownership = Ownership()

    async def create(self, call: Call, obj: Object) -> Object:
        """Store a new object. Raises 409 AlreadyExists, 422, 403 and 5xx."""
        kind, settings = call.kind, self.settings
        call.obj = obj
        metadata.check_namespace(kind, obj, call.namespace)
        if not metadata.metadata(obj).get("name") and not metadata.metadata(obj).get("generateName"):
            raise errors.invalid(kind.group, kind.kind, "", meta.validate_object_meta(obj, kind)[:1])
        generated = not metadata.metadata(obj).get("name")
        metadata.fill_new(kind, obj, now=settings.now(), uid=settings.new_uid(), rng=settings.rng)
        call.name = metadata.metadata(obj)["name"]
        # Defaults belong to whoever writes, what admission adds to nobody.
        kind.strategy.default(obj)
        call.obj = self.ownership.track(call, obj, None, settings.now())
        await self.admission.mutate(call)
        obj = call.obj
        kind.strategy.default(obj)
        kind.strategy.prepare_create(obj)
        causes = [*metadata.causes(obj, kind), *kind.strategy.validate(obj)]
        if causes:
            raise errors.invalid(kind.group, kind.kind, call.name, causes)
        await self.admission.validate(call)
        reservation = await self._reserve(kind, obj, None, call.dry_run)
        return await self._settle(reservation, self._create(call, obj, generated))

    async def update(
        self, call: Call, compute: Compute, *, create_missing: bool = False
    ) -> tuple[Object, bool]:
        """Replace an object by what `compute` makes of (a copy of) the stored one.

        `compute` may run several times; with an empty object where there is none and it may be made (kinds
        that allow it, or `create_missing`). Returns the object and whether this created it.
        """
        current, live = await self._stored(call.kind, call.namespace, call.name)
        for _ in range(MAX_SWAPS):
            if current is None:
                made = await self._make_missing(call, compute, create_missing)
                if made is not None:
                    return made, True
                current, live = await self._live(call.kind, call.namespace, call.name), True
                continue
            try:
                new, removes = await self._next_state(call, current, compute)
            except StatusError:
                if live:
                    raise
                fresh = await self._live(call.kind, call.namespace, call.name)
                live = True
                if (
                    fresh is not None
                    and fresh["metadata"]["resourceVersion"] == current["metadata"]["resourceVersion"]
                ):
                    raise
                current = fresh
                continue
            reservation = await self._reserve(call.kind, new, current, call.dry_run)
            try:
                return await self._settle(reservation, self._swap(call, new, current, removes)), False
            except RevisionMismatch as lost:
                current = await _current(call.kind, lost)
                live = True
            except StorageError as error:
                raise faults.as_status(error, call.kind, call.name) from error
        raise errors.conflict(call.kind.group, call.kind.resource, call.name, faults.MODIFIED)

    async def _make_missing(self, call: Call, compute: Compute, create_missing: bool) -> Object | None:
        """What an update of nothing creates; None when somebody else has just made it (for an apply, which
        then goes on with that). Raises 404 where an update may not create.
        """
        allowed = create_missing or call.kind.strategy.allow_create_on_update
        if not allowed or call.subresource:
            raise errors.not_found(call.kind.group, call.kind.resource, call.name)
        try:
            return await self.create(call, await compute({}))
        except StatusError as error:
            if create_missing and errors.is_already_exists(error):
                return None
            raise

    async def delete(self, call: Call, options: DeleteOptions) -> tuple[Object, bool]:
        """Delete or mark; returns the object as it last was and whether it is gone."""
        kind = call.kind
        current, live = await self._stored(kind, call.namespace, call.name)
        for _ in range(MAX_SWAPS):
            if current is None:
                raise errors.not_found(kind.group, kind.resource, call.name)
            try:
                deletion.check_preconditions(kind, current, options)
            except StatusError:
                if live:
                    raise
                current, live = await self._live(kind, call.namespace, call.name), True
                continue
            call.old, call.obj = current, None
            await self.admission.validate(call)
            plan = deletion.plan(kind, current, options, self.settings.now())
            if plan.action == "keep":
                if live:
                    return current, False
                current, live = await self._live(kind, call.namespace, call.name), True
                continue
            if options.dry_run:
                return plan.obj, plan.action == "remove"
            try:
                return await self._carry_out(kind, call, plan, current)
            except RevisionMismatch as lost:
                current = await _current(call.kind, lost)
                live = True
            except StorageError as error:
                raise faults.as_status(error, kind, call.name) from error
        raise errors.conflict(kind.group, kind.resource, call.name, faults.MODIFIED)

    async def delete_collection(self, call: Call, which: ListOptions, options: DeleteOptions) -> list[Object]:
        """Delete all that match; what disappears meanwhile is no error."""
        selector_filter(call.kind, which)
        listing = await self.reader.list(call.kind, call.namespace, which)
        entries = enumerate(listing.entries)
        gone: dict[int, Object] = {}

        async def work() -> None:
            for index, entry in entries:
                obj = await self._delete_listed(call, entry, options)
                if obj is not None:
                    gone[index] = obj

        # Each waits for the store most of its time.
        await tasks.all_of([work() for _ in range(min(DELETERS, len(listing.entries)))])
        return [gone[index] for index in sorted(gone)]

    async def _delete_listed(self, call: Call, entry: Entry, options: DeleteOptions) -> Object | None:
        single = Call("delete", call.kind, entry.namespace, entry.name, call.user)
        single.dry_run, single.options = options.dry_run, options
        try:
            return (await self.delete(single, options))[0]
        except StatusError as error:
            if not errors.is_not_found(error):
                raise
        return None

    async def _stored(self, kind: Kind, namespace: str, name: str) -> tuple[Object | None, bool]:
        """The object and whether it was just read from the store (rather than the cache)."""
        entry = self.cacher.of(kind).get(relative_key(kind, namespace, name))
        if entry is not None:
            return entry.decoded(), False
        return await self._live(kind, namespace, name), True

    async def _live(self, kind: Kind, namespace: str, name: str) -> Object | None:
        try:
            stored, _ = await self.store.get(storage_key(kind, namespace, name))
        except StorageError as error:
            raise faults.as_status(error, kind, name) from error
        return await decode_converted(kind, stored.value, stored.revision) if stored else None

    async def _next_state(self, call: Call, old: Object, compute: Compute) -> tuple[Object, bool]:
        """What the object becomes, checked; and whether writing it completes its deletion."""
        kind = call.kind
        new = await compute(clone(old))
        metadata.check_namespace(kind, new, call.namespace)
        metadata.check_name(new, call.name)
        if not new["metadata"].get("resourceVersion") and not kind.strategy.allow_unconditional_update:
            cause = Cause(
                "FieldValueInvalid",
                "Invalid value: 0: must be specified for an update",
                "metadata.resourceVersion",
            )
            raise errors.invalid(kind.group, kind.kind, call.name, [cause])
        metadata.keep_stored(kind, new, old)
        metadata.own_status(kind, new, old, call.subresource)
        kind.strategy.default(new)
        call.obj, call.old = self.ownership.track(call, new, old, self.settings.now()), old
        await self.admission.mutate(call)
        new = call.obj
        kind.strategy.default(new)
        causes = self._check_update(call, new, old)
        if causes:
            raise errors.invalid(kind.group, kind.kind, call.name, causes)
        call.obj = new = manager.keep_times(new, old)
        await self.admission.validate(call)
        return new, deletion.is_finished(kind, new)

    @staticmethod
    def _check_update(call: Call, new: Object, old: Object) -> list[Cause]:
        """The strategy's part of an update; subresources with rules of their own have applied them."""
        kind, strategy = call.kind, call.kind.strategy
        if call.subresource in STATUS_LIKE:
            strategy.status_prepare_update(new, old)
        elif call.subresource not in OWN_RULES:
            strategy.prepare_update(new, old)
        metadata.bump_generation(kind, new, old)
        causes = meta.validate_object_meta_update(new, old)
        causes += [cause for cause in metadata.causes(new, kind) if cause.field != "metadata.name"]
        if call.subresource in STATUS_LIKE:
            causes += strategy.status_validate_update(new, old)
        elif call.subresource not in OWN_RULES:
            causes += strategy.validate_update(new, old)
        return causes

    async def _reserve(
        self, kind: Kind, new: Object | None, old: Object | None, dry_run: bool
    ) -> Reservation | None:
        allocator = self._allocators.get(kind.group_resource)
        return await allocator.reserve(new, old, dry_run) if allocator else None

    @staticmethod
    async def _settle(reservation: Reservation | None, write: Awaitable[Object]) -> Object:
        try:
            out = await write
        except BaseException:
            if reservation is not None:
                await reservation.rollback()
            raise
        if reservation is not None:
            await reservation.commit()
        return out

    async def _create(self, call: Call, obj: Object, generated: bool) -> Object:
        kind = call.kind
        for attempt in range(NAME_ATTEMPTS):
            key = storage_key(kind, call.namespace, call.name)
            try:
                if call.dry_run:
                    if await self._live(kind, call.namespace, call.name) is not None:
                        raise errors.already_exists(kind.group, kind.resource, call.name)
                    return obj
                value = await encode_converted(kind, obj)
                stored = await self.store.create(key, value, ttl=self._ttl(kind))
            except StorageError as error:
                status = faults.as_status(error, kind, call.name)
                if not (generated and errors.is_already_exists(status) and attempt < NAME_ATTEMPTS - 1):
                    raise status from error
                call.name = obj["metadata"]["name"] = meta.generate_name(
                    obj["metadata"]["generateName"], self.settings.rng
                )
                continue
            obj["metadata"]["resourceVersion"] = str(stored.revision)
            return await _as_read(kind, obj, value)
        raise AssertionError("unreachable")

    async def _swap(self, call: Call, new: Object, old: Object, removes: bool) -> Object:
        kind, expected = call.kind, int(old["metadata"]["resourceVersion"])
        if call.dry_run:
            return new
        key = storage_key(kind, call.namespace, call.name)
        if new == old and not removes and not await self.store.is_stale(key):
            return old
        value = await encode_converted(kind, new)
        if removes:
            revision = await self.store.delete(key, expected)
            await self._release(kind, new)
        else:
            revision = (await self.store.update(key, value, expected, ttl=self._ttl(kind))).revision
        new["metadata"]["resourceVersion"] = str(revision)
        return await _as_read(kind, new, value)

    async def _carry_out(
        self, kind: Kind, call: Call, plan: deletion.DeletePlan, old: Object
    ) -> tuple[Object, bool]:
        key = storage_key(kind, call.namespace, call.name)
        expected = int(old["metadata"]["resourceVersion"])
        if plan.action == "remove":
            revision = await self.store.delete(key, expected)
            await self._release(kind, plan.obj)
        else:
            value = await encode_converted(kind, plan.obj)
            revision = (await self.store.update(key, value, expected, ttl=self._ttl(kind))).revision
        plan.obj["metadata"]["resourceVersion"] = str(revision)
        return plan.obj, plan.action == "remove"

    async def _release(self, kind: Kind, obj: Object) -> None:
        reservation = await self._reserve(kind, None, obj, False)
        if reservation is not None:
            await reservation.commit()

    def _ttl(self, kind: Kind) -> int:
        return self.settings.event_ttl if kind.resource == "events" else 0


async def _current(kind: Kind, lost: RevisionMismatch) -> Object | None:
    """What a lost swap found in the place of what it expected."""
    found = lost.current
    return await decode_converted(kind, found.value, found.revision) if found else None


async def _as_read(kind: Kind, obj: Object, value: bytes) -> Object:
    """What was written as the next reader sees it: another thing when it was converted to be stored."""
    if kind.converter is None or kind.api_version == kind.converter.storage_version:
        return obj
    return await decode_converted(kind, value, int(obj["metadata"]["resourceVersion"]))
