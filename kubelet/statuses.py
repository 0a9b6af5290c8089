"""Writes pod statuses to the API: the newest of each pod, only when it differs, one request at a time for
each pod.

Writers hand in a status and go on; a failed write is tried again with back-off until it succeeds, is
replaced by a newer one, or the pod is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from apimachinery.errors import StatusError
from componentbase.backoff import Backoff
from componentbase.clock import Clock
from kubeclient.resources import PODS
from kubeclient.rest import ConnectionFailed, RestClient
from kubelet.pods.status import OWN_CONDITIONS, RESIZE_CONDITIONS

log = logging.getLogger(__name__)

Status = dict[str, Any]
WRITERS = 8
CARRIED = ("reason", "message", "podIP", "podIPs", "initContainerStatuses", "observedGeneration")


def merge_patch(pod: Mapping[str, Any], status: Status) -> dict[str, Any]:
    """The JSON merge patch that makes `status` the pod's, leaving what others own, and refusing another pod
    of that name by its uid.
    """
    before = pod.get("status") or {}
    body: Status = dict(status)
    for name in CARRIED:
        if name in before and name not in body:
            body[name] = None
    return {"metadata": {"uid": pod["metadata"]["uid"]}, "status": body}


def differs(old: Mapping[str, Any], new: Status) -> bool:
    """Whether writing `new` over `old` would change anything that readers see."""
    for name, value in new.items():
        if name == "conditions":
            held = {c["type"]: c for c in old.get("conditions") or []}
            mine = [c for c in value if c["type"] in OWN_CONDITIONS]
            if any(kind in held and not any(c["type"] == kind for c in mine) for kind in RESIZE_CONDITIONS):
                return True
            if any(_essence(held.get(c["type"])) != _essence(c) for c in mine):
                return True
        elif _clean(old.get(name)) != _clean(value):
            return True
    return any(old.get(name) for name in CARRIED if name not in new)


def _essence(condition: Mapping[str, Any] | None) -> object:
    return condition and {k: condition.get(k, "") for k in ("status", "reason", "message")}


def _clean(value: object) -> object:
    """Values without what is absent: null, empty text and empty containers are one on the wire."""
    if isinstance(value, dict):
        return {k: c for k, v in value.items() if (c := _clean(v)) not in (None, "", {}, [])}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value


class StatusManager:
    """A latest-wins queue in front of `PATCH pods/status`."""

    def __init__(
        self,
        client: RestClient,
        clock: Clock,
        address: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] = lambda pod: pod,
    ) -> None:
        self._client = client
        self._address = address
        self._clock = clock
        self._wanted: dict[str, tuple[Mapping[str, Any], Status]] = {}
        self._written: dict[str, tuple[Status, int]] = {}
        self._ready: asyncio.Queue[str] = asyncio.Queue()  # bounded by _queued: a pod is in it once
        self._queued: set[str] = set()
        self._idle: dict[str, asyncio.Event] = {}
        self._resumed: set[str] = set()  # pods whose API object was made anew since their write began

    def set(self, pod: Mapping[str, Any], status: Status) -> None:
        """Have `status` written, if the API does not show it already."""
        uid = pod["metadata"]["uid"]
        if not differs(self._baseline(pod), status):
            return
        self._wanted[uid] = (pod, status)
        self._idle.setdefault(uid, asyncio.Event()).clear()
        self._enqueue(uid)

    def _enqueue(self, uid: str) -> None:
        if uid not in self._queued:
            self._queued.add(uid)
            self._ready.put_nowait(uid)

    def _baseline(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
        """The newest of: what waits to be written, what we wrote, what others made of it since."""
        uid = pod["metadata"]["uid"]
        if uid in self._wanted:
            return self._wanted[uid][1]
        written, revision = self._written.get(uid, ({}, -1))
        return written if revision > _revision(pod) else pod.get("status") or {}

    def latest(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
        """The status as we last decided it, which may be newer than the object's."""
        return self._baseline(pod)

    def resume(self, uid: str) -> None:
        """The API object of this pod is there, or there anew: it is to be written in full.

        A write that is on its way went to the object before, so its success settles nothing.
        """
        self._resumed.add(uid)
        self._written.pop(uid, None)
        if uid in self._wanted:
            self._enqueue(uid)

    def forget(self, uid: str) -> None:
        for table in (self._wanted, self._written, self._idle):
            table.pop(uid, None)
        self._resumed.discard(uid)

    async def flushed(self, uid: str) -> None:
        """Wait until nothing is left to write for this pod."""
        if uid in self._wanted:
            await self._idle[uid].wait()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(self._writer(), name=f"pod-status-{number}")

    async def _writer(self) -> None:
        while True:
            uid = await self._ready.get()
            backoff = Backoff(0.2, 10.0)
            while (wanted := self._wanted.get(uid)) is not None:
                if self._address(wanted[0]) is None:
                    break  # a static pod without its mirror: `resume` goes on
                if not await self._write(uid, *wanted):
                    await self._clock.sleep(backoff.next())
            self._queued.discard(uid)
            if uid in self._idle:
                self._idle[uid].set()

    async def _write(self, uid: str, pod: Mapping[str, Any], status: Status) -> bool:
        """Try once; whether the matter is settled for this status."""
        pod = self._address(pod) or pod
        metadata = pod["metadata"]
        revision = -1
        self._resumed.discard(uid)
        try:
            answer = await self._client.patch(
                PODS, metadata["name"], merge_patch(pod, status), metadata["namespace"], subresource="status"
            )
            revision = _revision(answer)
        except StatusError as error:
            if error.code not in (404, 409, 422):
                log.warning("pod status write failed", extra={"pod": metadata["name"], "error": str(error)})
                return False
            log.info("pod status not written", extra={"pod": metadata["name"], "why": str(error)})
        except ConnectionFailed as error:
            log.warning("pod status write failed", extra={"pod": metadata["name"], "error": str(error)})
            return False
        if uid in self._resumed:
            return False
        if uid in self._wanted:
            self._written[uid] = (status, revision)
            if self._wanted[uid][1] is status:
                del self._wanted[uid]
        return True


def _revision(pod: Mapping[str, Any]) -> int:
    return int(pod["metadata"].get("resourceVersion") or 0)
