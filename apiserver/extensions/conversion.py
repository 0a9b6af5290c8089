"""Conversion of custom resources between their versions by a webhook (`ConversionReview`, KEP-598).

The webhook may change everything but an object's identity: of the metadata only labels and annotations are
taken from its answer. Words of failures: apiextensions-apiserver's conversion/webhook_converter.go.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from apimachinery import errors, meta
from apimachinery.errors import StatusError
from apiserver.extensions import structural
from apiserver.extensions.structural import Schema
from apiserver.registry.webhookclient import CallFailed, WebhookClient

Object = dict[str, Any]

SECONDS = 30
GROUP = "apiextensions.k8s.io"


def _uid() -> str:
    return str(uuid.uuid4())


class WebhookConversion:
    """The conversion of one CustomResourceDefinition, shared by the kinds of its versions."""

    def __init__(
        self,
        config: Object,
        storage_version: str,
        schemas: Mapping[str, Schema],
        client: WebhookClient,
        new_uid: Callable[[], str] = _uid,
    ) -> None:
        """`schemas` by apiVersion: objects are sent as a reader of their own version would see them."""
        self.storage_version = storage_version
        self._config = config
        self._schemas = schemas
        self._client = client
        self._new_uid = new_uid

    async def convert(self, objects: list[Object], api_version: str) -> list[Object]:
        """The same objects in another version; those already in it are left as they are. Raises 500 in the
        words of Kubernetes.
        """
        asked = [obj for obj in objects if obj.get("apiVersion") != api_version]
        if not asked:
            return objects
        for obj in asked:
            schema = self._schemas.get(obj["apiVersion"])
            if schema is not None:
                structural.prune(obj, schema)
                structural.default(obj, schema)
        try:
            answers = iter(await self._ask(asked, api_version))
        except CallFailed as error:
            group, _, version = asked[0]["apiVersion"].rpartition("/")
            what = f"{group}/{version}, Kind={asked[0].get('kind', '')}"
            raise failure(f"conversion webhook for {what} failed: {error}") from error
        return [obj if obj.get("apiVersion") == api_version else next(answers) for obj in objects]

    async def _ask(self, objects: list[Object], api_version: str) -> list[Object]:
        uid = self._new_uid()
        review = {
            "kind": "ConversionReview",
            "apiVersion": f"{GROUP}/v1",
            "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects},
        }
        try:
            async with asyncio.timeout(SECONDS):
                answer = await self._client.post(self._config, orjson.dumps(review), SECONDS)
        except TimeoutError:
            raise CallFailed("context deadline exceeded") from None
        return converted(answer, uid, objects, api_version)


def failure(text: str) -> StatusError:
    return errors.status(500, "", text, details={})


def converted(answer: Object, uid: str, objects: list[Object], api_version: str) -> list[Object]:
    """The objects in a ConversionReview's response. Raises CallFailed for one that cannot be trusted."""
    version = answer.get("apiVersion")
    if (answer.get("kind"), version) != ("ConversionReview", f"{GROUP}/v1"):
        raise CallFailed(f"expected webhook response of {GROUP}/v1, Kind=ConversionReview, got {version}")
    response = answer.get("response")
    if not isinstance(response, dict):
        raise CallFailed("no response provided")
    if response.get("uid") != uid:
        raise CallFailed(f'expected response.uid="{uid}", got "{response.get("uid")}"')
    result = response.get("result") or {}
    if result.get("status") != "Success":
        why = result.get("message") or f"response.result.status was '{result.get('status', '')}'"
        raise CallFailed(str(why))
    found = response.get("convertedObjects") or []
    if len(found) != len(objects):
        raise CallFailed(f"returned {len(found)} objects, expected {len(objects)}")
    return [
        _checked(new, old, api_version, at) for at, (new, old) in enumerate(zip(found, objects, strict=True))
    ]


def _checked(new: Any, old: Object, api_version: str, at: int) -> Object:
    """A converted object with the metadata that a webhook may not change put back."""
    flaw = f"returned invalid converted object at index {at}"
    if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
        raise CallFailed(f"{flaw}: it is no object with metadata")
    if new.get("apiVersion") != api_version:
        raise CallFailed(f"{flaw}: invalid apiVersion {new.get('apiVersion')}, expected {api_version}")
    if new.get("kind") != old.get("kind"):
        raise CallFailed(f"{flaw}: must have the same kind: {new.get('kind')} != {old.get('kind')}")
    before, after = old["metadata"], new["metadata"]
    for name in ("name", "namespace", "uid"):
        if after.get(name) != before.get(name):
            wrong = f"must have the same {'UID' if name == 'uid' else name}"
            raise CallFailed(f"{flaw}: {wrong}: {after.get(name, '')} != {before.get(name, '')}")
    kept = {name: value for name, value in before.items() if name not in ("labels", "annotations")}
    for name in ("labels", "annotations"):
        if after.get(name):
            kept[name] = _texts(after[name], name)
    causes = [*meta.validate_labels(kept.get("labels") or {}, "metadata.labels")]
    causes += meta.validate_annotations(kept.get("annotations") or {}, "metadata.annotations")
    if causes:
        raise CallFailed(f"returned invalid metadata: {causes[0].field}: {causes[0].message}")
    return {**new, "metadata": kept}


def _texts(given: Any, name: str) -> Mapping[str, str]:
    if isinstance(given, dict) and all(isinstance(value, str) for value in given.values()):
        return given
    raise CallFailed(f"returned invalid metadata: metadata.{name} must be strings by strings")
