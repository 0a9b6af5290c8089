"""Getting a container's image by its pull policy, with back-off for what fails."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from componentbase.clock import Clock
from kubelet.cri.fake import normalize
from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.port import Runtime, RuntimeFailure
from kubelet.pods.status import Waiting

INITIAL_BACKOFF = 10.0
MAX_BACKOFF = 300.0
PARALLEL_PULLS = 5
SHOWN = 2.0  # seconds for which a failed pull is said to have failed, before it is said to be backing off
LOOK_AGAIN = 10.0  # seconds between looks for an image that may come by another way than our pull


class ImageError(Exception):
    """The image is not there; `waiting` is the container's state, `retry` the seconds until it is worth
    trying.
    """

    def __init__(self, waiting: Waiting, event: tuple[str, str], retry: float) -> None:
        super().__init__(waiting.message)
        self.waiting = waiting
        self.event = event
        self.retry = retry


@dataclass(slots=True)
class _Failure:
    delay: float
    until: float
    message: str


def pull_policy(container: Mapping[str, Any]) -> str:
    """The policy as given, or Always for a moving tag."""
    given = container.get("imagePullPolicy")
    if given:
        return str(given)
    return "Always" if normalize(container["image"]).endswith(":latest") else "IfNotPresent"


def auth_for(reference: str, secrets: list[Mapping[str, Any]]) -> pb.AuthConfig | None:
    """The credentials of the first pull secret that names the image's registry."""
    registry = normalize(reference).partition("/")[0]
    for secret in secrets:
        data = secret.get("data") or {}
        if ".dockerconfigjson" not in data:
            continue
        auths = orjson.loads(base64.b64decode(data[".dockerconfigjson"])).get("auths", {})
        for server, entry in auths.items():
            host = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
            if host == registry or (host == "index.docker.io" and registry == "docker.io"):
                return pb.AuthConfig(
                    username=entry.get("username", ""),
                    password=entry.get("password", ""),
                    auth=entry.get("auth", ""),
                )
    return None


class ImagePuller:
    """Brings images to the node; back-off is per pod and image."""

    def __init__(self, runtime: Runtime, clock: Clock) -> None:
        self._runtime = runtime
        self._clock = clock
        self._failures: dict[tuple[str, str], _Failure] = {}
        self._slots: asyncio.Semaphore | None = None

    def forget_pod(self, uid: str) -> None:
        for key in [key for key in self._failures if key[0] == uid]:
            del self._failures[key]

    async def ensure(
        self, uid: str, container: Mapping[str, Any], auth: pb.AuthConfig | None, sandbox: pb.PodSandboxConfig
    ) -> tuple[pb.Image, str]:
        """The image, and a sentence for the Pulled event. Raises `ImageError`."""
        reference, policy = container["image"], pull_policy(container)
        try:
            present = await self._runtime.image_status(reference)
        except RuntimeFailure as error:
            text = f'Failed to inspect image "{reference}": {error}'
            raise ImageError(Waiting("ImageInspectError", text), ("InspectFailed", text), 2.0) from error
        if present is not None and policy in ("IfNotPresent", "Never"):
            return present, f'Container image "{reference}" already present on machine'
        if policy == "Never":
            text = f'Container image "{reference}" is not present with pull policy of Never'
            raise ImageError(Waiting("ErrImageNeverPull", text), ("ErrImageNeverPull", text), INITIAL_BACKOFF)
        return await self._pull((uid, reference), reference, auth, sandbox)

    async def _pull(
        self, key: tuple[str, str], reference: str, auth: pb.AuthConfig | None, sandbox: pb.PodSandboxConfig
    ) -> tuple[pb.Image, str]:
        failure, now = self._failures.get(key), self._clock.monotonic()
        if failure is not None and now < failure.until:
            text = f'Back-off pulling image "{reference}"'
            waiting = Waiting("ImagePullBackOff", f"{text}: ErrImagePull: {failure.message}")
            raise ImageError(waiting, ("BackOff", text), min(LOOK_AGAIN, failure.until - now))
        self._slots = self._slots or asyncio.Semaphore(PARALLEL_PULLS)
        try:
            async with self._slots:
                await self._runtime.pull_image(reference, auth, sandbox)
            image = await self._runtime.image_status(reference)
            if image is None:
                raise RuntimeFailure(f'image "{reference}" is missing right after its pull')
        except RuntimeFailure as error:
            delay = min(MAX_BACKOFF, failure.delay * 2 if failure else INITIAL_BACKOFF)
            self._failures[key] = _Failure(delay, self._clock.monotonic() + delay, str(error))
            text = f'Failed to pull image "{reference}": {error}'
            raise ImageError(Waiting("ErrImagePull", str(error)), ("Failed", text), SHOWN) from error
        self._failures.pop(key, None)
        took = self._clock.monotonic() - now
        size = f"Image size: {image.size} bytes."
        return image, f'Successfully pulled image "{reference}" in {took:.3f}s. {size}'
