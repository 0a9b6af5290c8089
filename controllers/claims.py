"""Which objects belong to a controller: keep, adopt, release (client-go's ControllerRefManager), and doing
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from apimachinery import errors
from controllers import objects as o
from controllers.objects import Object
from kubeclient.resources import GVR
from kubeclient.rest import STRATEGIC, RestClient


@dataclass(frozen=True, slots=True)
class Claims:
    """The verdict on every candidate that concerns the owner."""

    keep: tuple[Object, ...] = ()
    adopt: tuple[Object, ...] = ()
    release: tuple[Object, ...] = ()


def compute_claims(owner: Object, matches: Callable[[Object], bool], candidates: Iterable[Object]) -> Claims:
    """Sort candidates of the owner's namespace.

    Ours and matching stay; ours but no longer matching are released; matching orphans are adopted unless they
    or the owner are going away. What another controller manages is never touched.
    """
    keep: list[Object] = []
    adopt: list[Object] = []
    release: list[Object] = []
    for candidate in candidates:
        reference = o.controller_of(candidate)
        if reference is not None:
            if reference.get("uid") != o.uid(owner):
                continue
            if matches(candidate):
                keep.append(candidate)
            elif not o.is_terminating(owner):
                release.append(candidate)
        elif matches(candidate) and not o.is_terminating(owner) and not o.is_terminating(candidate):
            adopt.append(candidate)
    return Claims(tuple(keep), tuple(adopt), tuple(release))


@dataclass(frozen=True, slots=True)
class Claimer:
    """Carries claims out for one kind of owner and of dependent. What is adopted gets `finalizer`."""

    client: RestClient
    owner_gvr: GVR
    gvr: GVR
    finalizer: str = ""

    async def claim(
        self, owner: Object, matches: Callable[[Object], bool], candidates: Iterable[Object]
    ) -> list[Object]:
        """The owner's objects after adoption and release.

        Adoption first reads the owner from the API: a cached owner may have been deleted and made again under
        the same name, and its namesake must not inherit. Both patches carry the object's UID and change
        nothing when repeated.
        """
        claims = compute_claims(owner, matches, candidates)
        mine = list(claims.keep)
        if claims.adopt and await self._owner_lives(owner):
            reference = o.owner_reference(owner, self.owner_gvr.api_version, self.owner_gvr.kind)
            for candidate in claims.adopt:
                adopted = await self._patch(candidate, [reference], self.finalizer)
                if adopted is not None:
                    mine.append(adopted)
        for candidate in claims.release:
            await self._patch(candidate, [{"$patch": "delete", "uid": o.uid(owner)}])
        return mine

    async def _owner_lives(self, owner: Object) -> bool:
        try:
            fresh = await self.client.get(self.owner_gvr, o.name(owner), o.namespace(owner))
        except errors.StatusError as error:
            if errors.is_not_found(error):
                return False
            raise
        return o.uid(fresh) == o.uid(owner) and not o.is_terminating(fresh)

    async def _patch(self, target: Object, references: list[Object], finalizer: str = "") -> Object | None:
        metadata = {"uid": o.uid(target), "ownerReferences": references}
        body = {"metadata": metadata | ({"finalizers": [finalizer]} if finalizer else {})}
        try:
            return await self.client.patch(
                self.gvr, o.name(target), body, o.namespace(target), content_type=STRATEGIC
            )
        except errors.StatusError as error:
            # Gone, or another object under the same name: either way it is not ours any more.
            if errors.is_not_found(error) or error.code == 422 or errors.is_conflict(error):
                return None
            raise
