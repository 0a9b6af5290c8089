"""The informer's cache: objects by key, with indexes, and a detector of mutation.

Cached objects are shared by every reader and must never be changed. With HARDWAY_CACHE_MUTATION_DETECTOR
set (tests set it) the store keeps the encoded form of what it was given and compares; without it the check
costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson

from kubeclient.resources import key as key_of

Object = dict[str, Any]
# Inside Store the name `list` is the method.
Objects = list[Object]
Keys = list[str]
IndexFunc = Callable[[Object], Iterable[str]]

DETECTOR_VARIABLE = "HARDWAY_CACHE_MUTATION_DETECTOR"


class CacheMutatedError(Exception):
    """Somebody changed an object that belongs to the cache; a bug of the reader, not of the cache."""


class Store:
    """Objects by key. Only the informer that owns the store writes to it."""

    def __init__(self, *, detect_mutation: bool | None = None) -> None:
        self._objects: dict[str, Object] = {}
        self._indexers: dict[str, IndexFunc] = {}
        self._indexes: dict[str, dict[str, dict[str, None]]] = {}
        detect = bool(os.environ.get(DETECTOR_VARIABLE)) if detect_mutation is None else detect_mutation
        self._encoded: dict[str, bytes] | None = {} if detect else None

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, key: str) -> bool:
        return key in self._objects

    def __iter__(self) -> Iterator[Object]:
        return iter(self.list())

    def get(self, key: str) -> Object | None:
        """The object with this key (`namespace/name` or `name`). Do not change it."""
        return self._objects.get(key)

    def list(self) -> Objects:
        """All objects, in no particular order. Do not change them."""
        return list(self._objects.values())

    def keys(self) -> Keys:
        return list(self._objects)

    def by_index(self, name: str, value: str) -> Objects:
        """The objects for which the index function yielded `value`. Raises KeyError for an unknown index."""
        return [self._objects[key] for key in self._indexes[name].get(value, ())]

    def count(self, name: str, value: str) -> int:
        """How many objects `by_index` would give, without giving them. Raises KeyError for an unknown
        index.
        """
        return len(self._indexes[name].get(value, ()))

    def index_values(self, name: str) -> Keys:
        return list(self._indexes[name])

    def has_index(self, name: str) -> bool:
        return name in self._indexers

    def add_index(self, name: str, func: IndexFunc) -> None:
        """Index by `func`; what is stored already is indexed at once. The same name cannot be used twice."""
        if name in self._indexers:
            raise ValueError(f"index {name!r} exists already")
        self._indexers[name] = func
        self._indexes[name] = {}
        for key, obj in self._objects.items():
            self._insert(name, key, obj)

    def put(self, obj: Object) -> Object | None:
        """Store `obj` and return what it replaced."""
        key = key_of(obj)
        old = self._forget(key)
        self._objects[key] = obj
        for name in self._indexers:
            self._insert(name, key, obj)
        if self._encoded is not None:
            self._encoded[key] = orjson.dumps(obj)
        return old

    def remove(self, key: str) -> Object | None:
        """Forget the object and return it."""
        return self._forget(key)

    def check_mutation(self) -> None:
        """Raise CacheMutatedError if any object differs from what was stored; does nothing without the
        detector.
        """
        for key in list(self._encoded or ()):
            self._check(key)

    def _forget(self, key: str) -> Object | None:
        obj = self._objects.get(key)
        if obj is None:
            return None
        self._check(key)
        for name in self._indexers:
            self._withdraw(name, key, obj)
        del self._objects[key]
        if self._encoded is not None:
            del self._encoded[key]
        return obj

    def _insert(self, name: str, key: str, obj: Object) -> None:
        index = self._indexes[name]
        for value in self._indexers[name](obj):
            index.setdefault(value, {})[key] = None

    def _withdraw(self, name: str, key: str, obj: Object) -> None:
        index = self._indexes[name]
        for value in self._indexers[name](obj):
            keys = index.get(value)
            if keys is not None:
                keys.pop(key, None)
                if not keys:
                    del index[value]

    def _check(self, key: str) -> None:
        if self._encoded is None:
            return
        now = orjson.dumps(self._objects[key])
        if now != self._encoded[key]:
            raise CacheMutatedError(
                f"cached object {key} was changed in place:\n  stored {self._encoded[key].decode()}\n"
                f"  found  {now.decode()}"
            )
