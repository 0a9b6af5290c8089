"""Reads: which version of the state a get or list may be answered from, and paging. Everything hands out
cache entries.

The rules are those of Kubernetes' "Resource versions" page: no version means the most recent state (the
store is asked what that is), "0" whatever the cache has, a version with NotOlderThan at least that, with
Exact just that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from apimachinery import errors, selectors
from apimachinery.scheme import Kind
from apiserver.registry import faults
from apiserver.rest.options import ListOptions, parse_version
from apiserver.storage import continuation
from apiserver.storage.cacher import Cacher, decode_converted, make_entry
from apiserver.storage.continuation import Continuation
from apiserver.storage.interface import PREFIX, Compacted, StorageError, Store, Stored
from apiserver.storage.watchcache import Entry, ResourceCache

FRESH_TIMEOUT = 3.0  # seconds a read waits for the cache to reach a version, as in Kubernetes
ALWAYS_SELECTABLE = ("metadata.name", "metadata.namespace")


@dataclass(frozen=True, slots=True)
class Listing:
    """A list: its entries, the version it shows, and how it goes on."""

    entries: list[Entry]
    revision: int
    token: str = ""
    remaining: int | None = None


def storage_prefix(kind: Kind, namespace: str) -> str:
    base = f"{PREFIX}{kind.storage_prefix}/"
    return f"{base}{namespace}/" if namespace else base


def relative_key(kind: Kind, namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if kind.namespaced else name


def storage_key(kind: Kind, namespace: str, name: str) -> str:
    return f"{PREFIX}{kind.storage_prefix}/{relative_key(kind, namespace, name)}"


def selector_filter(kind: Kind, options: ListOptions, namespace: str = "") -> Callable[[Entry], bool] | None:
    """One predicate for label selector, field selector and namespace; None when everything matches.

    Raises 400 for a selector that does not parse or names a field the kind cannot be selected by.
    """
    labels = selectors.parse_label_selector(options.label_selector) if options.label_selector else None
    fields = selectors.parse_field_selector(options.field_selector) if options.field_selector else None
    if fields is not None:
        for requirement in fields.requirements:
            if requirement.field not in ALWAYS_SELECTABLE and requirement.field not in kind.selectable_fields:
                raise errors.bad_request(f"field label not supported: {requirement.field}")
    if labels is None and fields is None and not namespace:
        return None

    def accepts(entry: Entry) -> bool:
        return (
            (not namespace or entry.namespace == namespace)
            and (labels is None or labels.matches(entry.labels))
            and (fields is None or fields.matches(entry.fields))
        )

    return accepts


Entries = list[Entry]


class Reader:
    """Gets and lists over one store and its cache."""

    def __init__(self, store: Store, cacher: Cacher) -> None:
        self._store = store
        self._cacher = cacher

    async def get(self, kind: Kind, namespace: str, name: str, version: str = "") -> Entry:
        """Raises 404, and 504/503 when the version cannot be reached."""
        await self.reach(version)
        await self.settled(kind)
        entry = self._cacher.of(kind).get(relative_key(kind, namespace, name))
        if entry is None:
            raise errors.not_found(kind.group, kind.resource, name)
        return entry

    async def reach(self, version: str) -> None:
        """Wait until the cache shows at least `version` ("": the most recent state of the store)."""
        if version == "":
            try:
                wanted = await self._cacher.confirm()
            except StorageError as error:
                raise faults.as_status(error) from error
        else:
            wanted = parse_version(version)
        if not await self._cacher.wait_for(wanted, FRESH_TIMEOUT):
            raise faults.too_large_version(wanted, self._cacher.revision)

    async def settled(self, kind: Kind) -> ResourceCache:
        """The cache of a kind, when conversions that it waits for are done. Raises 500 when they fail."""
        cache = self._cacher.of(kind)
        if cache.feeder is not None:
            await cache.feeder.wait(FRESH_TIMEOUT)
        return cache

    async def list(self, kind: Kind, namespace: str, options: ListOptions) -> Listing:
        accepts = selector_filter(kind, options)
        if options.token:
            if options.resource_version not in ("", "0"):
                raise errors.bad_request("specifying resource version is not allowed when using continue")
            return await self._go_on(kind, namespace, options, accepts, continuation.decode(options.token))
        if options.match == "Exact" or (
            options.limit and not options.match and options.resource_version not in ("", "0")
        ):
            return await self._at(kind, namespace, options, accepts, int(options.resource_version))
        await self.reach(options.resource_version)
        limit = 0 if options.resource_version == "0" else options.limit
        revision = self._cacher.shown_by(await self.settled(kind))
        return self._from_cache(kind, namespace, accepts, limit, "", revision)

    async def _go_on(
        self,
        kind: Kind,
        namespace: str,
        options: ListOptions,
        accepts: Callable[[Entry], bool] | None,
        token: Continuation,
    ) -> Listing:
        if token.revision == continuation.INCONSISTENT:
            await self.reach("")
            revision = self._cacher.shown_by(await self.settled(kind))
            return self._from_cache(kind, namespace, accepts, options.limit, token.start, revision)
        cache = self._cacher.of(kind)
        if _unchanged_since(cache, token.revision) and self._cacher.shown_by(cache) >= token.revision:
            return self._from_cache(kind, namespace, accepts, options.limit, token.start, token.revision)
        return await self._at(kind, namespace, options, accepts, token.revision, token.start)

    def _from_cache(
        self,
        kind: Kind,
        namespace: str,
        accepts: Callable[[Entry], bool] | None,
        limit: int,
        start: str,
        revision: int,
    ) -> Listing:
        prefix = f"{namespace}/" if kind.namespaced and namespace else ""
        cache = self._cacher.of(kind)
        found = cache.scan(prefix, prefix + start if start else "")
        if accepts is not None:
            found = (entry for entry in found if accepts(entry))
        if not limit:
            return Listing(list(found), revision)
        return _page(list(found), limit, revision, prefix, selective=accepts is not None)

    async def _at(
        self,
        kind: Kind,
        namespace: str,
        options: ListOptions,
        accepts: Callable[[Entry], bool] | None,
        revision: int,
        start: str = "",
    ) -> Listing:
        """Read from the store's history."""
        prefix = storage_prefix(kind, namespace if kind.namespaced else "")
        position, entries, remaining = prefix + start, [], None
        try:
            while True:
                page = await self._store.list(prefix, start=position, limit=options.limit, revision=revision)
                decoded = await self._decode(kind, page.items)
                entries += [entry for entry in decoded if accepts is None or accepts(entry)]
                if not page.more or (options.limit and len(entries) >= options.limit):
                    break
                position = page.items[-1].key + "\0"
        except Compacted:
            raise self._expired(kind, position[len(prefix) :], bool(start)) from None
        except StorageError as error:
            raise faults.as_status(error, kind) from error
        token = ""
        if page.more:
            last = page.items[-1].key[len(prefix) :]
            token = continuation.encode(Continuation(revision, last + "\0"))
            remaining = page.count - len(page.items) if accepts is None else None
        return Listing(entries, revision, token, remaining)

    @staticmethod
    async def _decode(kind: Kind, items: Iterable[Stored]) -> Entries:
        out = []
        base = len(PREFIX) + len(kind.storage_prefix) + 1
        for item in items:
            obj = await decode_converted(kind, item.value, item.revision)
            out.append(make_entry(kind, item.key[base:], obj, item.revision))
        return out

    @staticmethod
    def _expired(kind: Kind, start: str, continued: bool) -> errors.StatusError:
        if not continued:
            return errors.gone("The resourceVersion for the provided list is too old.")
        error = errors.gone(
            "The provided continue parameter is too old to display a consistent list result. You "
            "can start a new list "
            "without the continue parameter, or use the continue token in this response to retrieve "
            "the remainder of "
            "the results. Continuing with the provided token results in an inconsistent list."
        )
        error.status["metadata"] = {
            "continue": continuation.encode(Continuation(continuation.INCONSISTENT, start))
        }
        return error


def _unchanged_since(cache: ResourceCache, revision: int) -> bool:
    return cache.latest <= revision


def _page(found: list[Entry], limit: int, revision: int, prefix: str, *, selective: bool) -> Listing:
    entries = found[:limit]
    left = len(found) - len(entries)
    if not left:
        return Listing(entries, revision)
    token = continuation.encode(Continuation(revision, entries[-1].key[len(prefix) :] + "\0"))
    return Listing(entries, revision, token, None if selective else left)
