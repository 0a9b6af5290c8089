"""Strategic merge of whole objects against a small model that knows five lists and nothing of schemas.

The model keeps lists as dictionaries by merge key, so it says what must be there, not in which order;
orders are the matter of test_strategic.
"""

from __future__ import annotations

import copy
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from apimachinery.patch import strategic

Object = dict[str, Any]
POD = "io.k8s.api.core.v1.Pod"
# Field -> merge key of its list; "" for lists of scalars that merge. Every other list is replaced.
KEYS = {"containers": "name", "env": "name", "ports": "containerPort", "volumes": "name", "finalizers": ""}
NAMES, IMAGES = "abc", ("i:1", "i:2")


class Maker:
    """Pods, and patches for pods: the same shapes, with nulls and directives in the patches."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.patch = False

    def _some(self, **members: Any) -> Object:
        """Any of the members; in a patch some of them are null."""
        out: Object = {}
        for name, make in members.items():
            roll = self._chance.random()
            if self.patch and roll < 0.15:
                out[name] = None
            elif roll < 0.65:
                out[name] = make()
        return out

    def _items(self, key: str, make: Any, ids: Any = NAMES) -> list[Object]:
        chosen = [one for one in ids if self._chance.random() < 0.5]
        items = [{key: one, **make()} for one in chosen]
        for at, one in enumerate(chosen):
            if self.patch and self._chance.random() < 0.2:
                items[at] = {key: one, "$patch": "delete"}
        if self.patch and self._chance.random() < 0.1:
            return [{"$patch": "replace"}, *(item for item in items if "$patch" not in item)]
        return items

    def _words(self) -> list[str]:
        return [f"x.io/{one}" for one in NAMES if self._chance.random() < 0.5]

    def _map(self) -> Object:
        out = self._some(**{f"k{one}": lambda: self._chance.choice(IMAGES) for one in NAMES})
        if self.patch and self._chance.random() < 0.15:
            out["$patch"] = self._chance.choice(("replace", "merge"))
        if out.get("$patch") == "replace":  # a null in what replaces has no meaning
            out = {key: value for key, value in out.items() if value is not None}
        return out

    def _container(self) -> Object:
        pick = self._chance.choice
        return self._some(
            image=lambda: pick(IMAGES),
            args=lambda: [pick(IMAGES)],
            env=lambda: self._items("name", lambda: self._some(value=lambda: pick(IMAGES))),
            ports=lambda: self._items(
                "containerPort", lambda: self._some(hostIP=lambda: pick(IMAGES)), (80, 81)
            ),
            resources=lambda: self._some(limits=self._map),
        )

    def pod(self) -> Object:
        def metadata() -> Object:
            out = self._some(labels=self._map, finalizers=self._words)
            if self.patch and self._chance.random() < 0.5:
                gone = set(self._words()) - set(out.get("finalizers") or ())  # both at once has no meaning
                out["$deleteFromPrimitiveList/finalizers"] = sorted(gone)
            return out

        def spec() -> Object:
            return self._some(
                nodeName=lambda: self._chance.choice(NAMES),
                containers=lambda: self._items("name", self._container),
                volumes=lambda: self._items("name", lambda: self._some(emptyDir=dict)),
                nodeSelector=self._map,
            )

        return self._some(metadata=metadata, spec=spec)


def model(live: Any, patch: Object) -> Object:
    """What the patch makes of an object."""
    replaces = patch.get("$patch") == "replace" or not isinstance(live, dict)
    out: Object = {} if replaces else copy.deepcopy(live)
    for name, value in patch.items():
        field = name.removeprefix("$deleteFromPrimitiveList/")
        if name == "$patch":
            continue
        if value is None:
            out.pop(name, None)
        elif field != name:
            if field in out:
                out[field] = [item for item in out[field] if item not in value]
        elif isinstance(value, dict):
            out[name] = model(out.get(name), value)
        elif name in KEYS:
            out[name] = _merged(out.get(name) or [], value, KEYS[name])
        else:
            out[name] = value
    return out


def _merged(live: list[Any], patch: list[Any], key: str) -> list[Any]:
    if not key:
        return sorted({*live, *patch})
    if {"$patch": "replace"} in patch:
        return [model(None, item) for item in patch if item != {"$patch": "replace"}]
    found = {item[key]: item for item in live}
    for item in patch:
        if item.get("$patch") == "delete":
            found.pop(item[key], None)
    for item in patch:
        if "$patch" not in item:
            found[item[key]] = model(found.get(item[key]), item)
    return list(found.values())


def comparable(value: Any, name: str = "") -> Any:
    """Without the order of lists that merge."""
    if isinstance(value, dict):
        return {key: comparable(item, key) for key, item in value.items()}
    if isinstance(value, list) and name in KEYS:
        key = KEYS[name]
        return sorted((comparable(item) for item in value), key=lambda item: str(item[key] if key else item))
    return value


@given(st.integers(0, 1 << 32))
def test_a_patch_does_what_the_model_says(seed: int) -> None:
    maker = Maker(random.Random(seed))
    pod = maker.pod()
    maker.patch = True
    patch = maker.pod()
    before = copy.deepcopy(pod)
    assert comparable(strategic.apply(pod, patch, POD)) == comparable(model(pod, patch))
    assert pod == before


@given(st.integers(0, 1 << 32))
def test_a_patch_twice_is_a_patch_once(seed: int) -> None:
    maker = Maker(random.Random(seed))
    pod = maker.pod()
    maker.patch = True
    patch = maker.pod()
    once = strategic.apply(pod, patch, POD)
    assert comparable(strategic.apply(once, patch, POD)) == comparable(once)
