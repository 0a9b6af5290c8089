"""The IPAddress objects beside the bitmap of cluster IPs: one for every address in use, named after it.

The bitmap is the truth. An object is written after its address was taken, and goes after it was given back,
so what `repair` finds without its bit is a leftover.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from apimachinery import meta
from apiserver.kinds.serviceaddresses import ADDRESSES, address_object
from apiserver.storage import codec
from apiserver.storage.interface import PREFIX, KeyExists, RevisionMismatch, Store

Owner = tuple[str, str]  # namespace and name of a Service
BASE = f"{PREFIX}{ADDRESSES}/"


class Addresses:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, address: str, owner: Owner, now: float) -> None:
        made = address_object(address, *owner, uid=str(uuid.uuid4()), created=meta.now_rfc3339(now))
        try:
            await self._store.create(BASE + address, codec.to_storage(made))
        except KeyExists:
            return

    async def remove(self, address: str) -> None:
        stored, _ = await self._store.get(BASE + address)
        if stored is not None:
            try:
                await self._store.delete(stored.key, stored.revision)
            except RevisionMismatch:
                return  # somebody else was quicker

    async def repair(self, owners: Mapping[str, Owner | None], now: float) -> None:
        """Add what is missing. `owners`: every address in use, None where its Service was not seen; others
        lose their objects.
        """
        page = await self._store.list(BASE)
        held = {item.key[len(BASE) :] for item in page.items}
        for address, owner in owners.items():
            if owner is not None and address not in held:
                await self.add(address, owner, now)
        for address in sorted(held - set(owners)):
            await self.remove(address)
