"""Object metadata: reading it, naming things, owner references, and the rules every object's metadata obeys.

Rules and messages are those of `k8s.io/apimachinery/pkg/api/validation` (ObjectMeta) and `util/validation`
(names).
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any

from apimachinery import field
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object

NAME_LIMIT = 253
LABEL_LIMIT = 63
ANNOTATIONS_LIMIT = 256 * 1024  # bytes over all keys and values
GENERATED_SUFFIX = 5
SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels and no 0/1/3: no accidental words

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = _LABEL + r"(\." + _LABEL + ")*"
_LABEL_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = f"({_QUALIFIED})?"

_match_label = re.compile(_LABEL).fullmatch
_match_subdomain = re.compile(_SUBDOMAIN).fullmatch
_match_label_1035 = re.compile(_LABEL_1035).fullmatch
_match_qualified = re.compile(_QUALIFIED).fullmatch
_match_label_value = re.compile(_LABEL_VALUE).fullmatch

_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must "
    "start and end "
    f"with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and "
    "must start "
    f"and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    f"'{_SUBDOMAIN}')"
)
_LABEL_1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
    "alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    f"'{_LABEL_1035}')"
)
_QUALIFIED_TEXT = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character "
    f"(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_QUALIFIED}')"
)
_LABEL_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and "
    "must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
    "validation is "
    f"'{_LABEL_VALUE}')"
)


# -- reading ------------------------------------------------------------------------------------------------


def meta_of(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    return obj.get("metadata") or {}


def name_of(obj: Mapping[str, Any]) -> str:
    return str(meta_of(obj).get("name", ""))


def namespace_of(obj: Mapping[str, Any]) -> str:
    return str(meta_of(obj).get("namespace", ""))


def uid_of(obj: Mapping[str, Any]) -> str:
    return str(meta_of(obj).get("uid", ""))


def key_of(obj: Mapping[str, Any]) -> str:
    """`namespace/name`, or `name` for an object outside namespaces."""
    namespace = namespace_of(obj)
    return f"{namespace}/{name_of(obj)}" if namespace else name_of(obj)


def labels_of(obj: Mapping[str, Any]) -> Mapping[str, str]:
    return meta_of(obj).get("labels") or {}


def annotations_of(obj: Mapping[str, Any]) -> Mapping[str, str]:
    return meta_of(obj).get("annotations") or {}


def finalizers_of(obj: Mapping[str, Any]) -> Sequence[str]:
    return meta_of(obj).get("finalizers") or ()


def resource_version(obj: Mapping[str, Any]) -> str:
    return str(meta_of(obj).get("resourceVersion", ""))


def generation_of(obj: Mapping[str, Any]) -> int:
    return int(meta_of(obj).get("generation", 0))


def is_deleting(obj: Mapping[str, Any]) -> bool:
    return bool(meta_of(obj).get("deletionTimestamp"))


# -- times --------------------------------------------------------------------------------------------------


def now_rfc3339(seconds: float) -> str:
    """Unix seconds as `metav1.Time` writes them: whole seconds, UTC."""
    return _written(int(seconds))


@functools.lru_cache(64)  # one second is written many times: several to an object, hundreds of objects
def _written(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_micro(seconds: float) -> str:
    """Unix seconds as `metav1.MicroTime` writes them: six decimals, UTC."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> float:
    """RFC 3339 to Unix seconds; raises ValueError when it is none."""
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None or "T" not in text:
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    return moment.timestamp()


# -- owners -------------------------------------------------------------------------------------------------


def owner_references(obj: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return meta_of(obj).get("ownerReferences") or ()


def controller_of(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The one owner reference whose `controller` is true."""
    return next((ref for ref in owner_references(obj) if ref.get("controller")), None)


def is_controlled_by(obj: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    ref = controller_of(obj)
    return ref is not None and ref.get("uid") == uid_of(owner)


def owner_reference(
    owner: Mapping[str, Any], *, controller: bool = False, block_deletion: bool = False
) -> Object:
    """A reference to `owner` (which carries apiVersion and kind) for a dependent's metadata."""
    ref: Object = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name_of(owner),
        "uid": uid_of(owner),
    }
    if controller:
        ref["controller"] = True
    if block_deletion:
        ref["blockOwnerDeletion"] = True
    return ref


def controller_ref(owner: Mapping[str, Any]) -> Object:
    """metav1.NewControllerRef: the owner controls the dependent, whose existence holds up foreground
    deletion.
    """
    return owner_reference(owner, controller=True, block_deletion=True)


# -- names --------------------------------------------------------------------------------------------------


def generate_name(base: str, rng: Random) -> str:
    """`base` plus five random letters, cut to stay a label (`names.SimpleNameGenerator`)."""
    suffix = "".join(rng.choices(SUFFIX_ALPHABET, k=GENERATED_SUFFIX))
    return base[: LABEL_LIMIT - GENERATED_SUFFIX] + suffix


def _too_long(limit: int) -> str:
    return f"must be no more than {limit} bytes"


def dns1123_label(value: str) -> list[str]:
    """What is wrong with `value` as an RFC 1123 label; nothing when it is one. So do the next functions."""
    found = [] if len(value) <= LABEL_LIMIT else [_too_long(LABEL_LIMIT)]
    if not _match_label(value):
        found.append(_LABEL_TEXT)
    return found


def dns1123_subdomain(value: str) -> list[str]:
    found = [] if len(value) <= NAME_LIMIT else [_too_long(NAME_LIMIT)]
    if not _match_subdomain(value):
        found.append(_SUBDOMAIN_TEXT)
    return found


def dns1035_label(value: str) -> list[str]:
    found = [] if len(value) <= LABEL_LIMIT else [_too_long(LABEL_LIMIT)]
    if not _match_label_1035(value):
        found.append(_LABEL_1035_TEXT)
    return found


def path_segment(value: str) -> list[str]:
    """Names that only have to fit into a URL path (RBAC objects)."""
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return [f"may not contain '{mark}'" for mark in ("/", "%") if mark in value]


@lru_cache(4096)
def _qualified_name(value: str) -> tuple[str, ...]:
    prefix, slash, name = value.rpartition("/")
    found: list[str] = []
    if "/" in prefix:
        return (
            f"a qualified name {_QUALIFIED_TEXT} with an optional DNS subdomain prefix and '/' "
            "(e.g. 'example.com/MyName')",
        )
    if slash:
        if not prefix:
            found.append("prefix part must be non-empty")
        else:
            found += [f"prefix part {text}" for text in dns1123_subdomain(prefix)]
    if not name:
        found.append("name part must be non-empty")
    elif len(name) > LABEL_LIMIT:
        found.append(f"name part {_too_long(LABEL_LIMIT)}")
    if not _match_qualified(name):
        found.append(f"name part {_QUALIFIED_TEXT}")
    return tuple(found)


def qualified_name(value: str) -> Sequence[str]:
    """`[dns-subdomain/]name`, as label keys, annotation keys, finalizers and resource names are."""
    return _qualified_name(value)


@lru_cache(4096)
def _label_value(value: str) -> tuple[str, ...]:
    found = [] if len(value) <= LABEL_LIMIT else [_too_long(LABEL_LIMIT)]
    if not _match_label_value(value):
        found.append(_LABEL_VALUE_TEXT)
    return tuple(found)


def label_value(value: str) -> Sequence[str]:
    return _label_value(value)


NAME_RULES: Mapping[str, Callable[[str], list[str]]] = {
    "subdomain": dns1123_subdomain,
    "label": dns1123_label,
    "label-1035": dns1035_label,
    "path-segment": path_segment,
}


# -- rules --------------------------------------------------------------------------------------------------


def validate_labels(labels: Mapping[str, str], path: str) -> Iterator[Cause]:
    for key, value in labels.items():
        for text in _qualified_name(key):
            yield field.invalid(path, key, text)
        for text in _label_value(value):
            yield field.invalid(path, value, text)


def validate_annotations(annotations: Mapping[str, str], path: str) -> Iterator[Cause]:
    size = 0
    for key, value in annotations.items():
        for text in _qualified_name(key.lower()):
            yield field.invalid(path, key, text)
        size += len(key.encode()) + len(value.encode())
    if size > ANNOTATIONS_LIMIT:
        yield field.too_long(path, ANNOTATIONS_LIMIT)


_STANDARD_FINALIZERS = frozenset({"kubernetes", "orphan", "foregroundDeletion"})


def validate_finalizer(name: str, path: str) -> Iterator[Cause]:
    problems = _qualified_name(name)
    for text in problems:
        yield field.invalid(path, name, text)
    if not problems and "/" not in name and name not in _STANDARD_FINALIZERS:
        yield field.invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified")


def validate_owner_references(refs: Sequence[Mapping[str, Any]], path: str) -> Iterator[Cause]:
    controller = ""
    for ref in refs:
        api_version = str(ref.get("apiVersion", ""))
        if not api_version.rpartition("/")[2]:
            yield field.invalid(f"{path}.apiVersion", api_version, "version must not be empty")
        for name in ("kind", "name", "uid"):
            if not ref.get(name):
                yield field.invalid(f"{path}.{name}", ref.get(name, ""), "must not be empty")
        if api_version == "v1" and ref.get("kind") == "Event":
            yield field.invalid(path, dict(ref), "/v1, Kind=Event is disallowed from being an owner")
        if not ref.get("controller"):
            continue
        if controller:
            detail = (
                'Only one reference can have Controller set to true. Found "true" in references for '
                f"{controller} and {ref.get('name', '')}"
            )
            yield field.invalid(path, [dict(item) for item in refs], detail)
        controller = str(ref.get("name", ""))


def _name_causes(meta: Mapping[str, Any], kind: Kind) -> Iterator[Cause]:
    rule = NAME_RULES[kind.name_rule]
    prefix = meta.get("generateName")
    if prefix:
        # A generated prefix may end in what only the suffix makes valid.
        probe = prefix[:-1] + "a" if prefix.endswith(("-", ".")) else prefix
        for text in rule(probe):
            yield field.invalid("metadata.generateName", prefix, text)
    name = meta.get("name")
    if not name:
        yield field.required("metadata.name", "name or generateName is required")
        return
    for text in rule(name):
        yield field.invalid("metadata.name", name, text)


def _namespace_causes(meta: Mapping[str, Any], kind: Kind) -> Iterator[Cause]:
    namespace = meta.get("namespace")
    if not kind.namespaced:
        if namespace:
            yield field.forbidden("metadata.namespace", "not allowed on this type")
        return
    if not namespace:
        yield field.required("metadata.namespace")
        return
    for text in dns1123_label(namespace):
        yield field.invalid("metadata.namespace", namespace, text)


def validate_object_meta(obj: Mapping[str, Any], kind: Kind) -> list[Cause]:
    """Every rule for the metadata of a new (or changed) object of this kind."""
    meta = meta_of(obj)
    causes = [*_name_causes(meta, kind), *_namespace_causes(meta, kind)]
    if labels := meta.get("labels"):
        causes += validate_labels(labels, "metadata.labels")
    if annotations := meta.get("annotations"):
        causes += validate_annotations(annotations, "metadata.annotations")
    if refs := meta.get("ownerReferences"):
        causes += validate_owner_references(refs, "metadata.ownerReferences")
    for finalizer in meta.get("finalizers") or ():
        causes += validate_finalizer(finalizer, "metadata.finalizers")
    return causes


_IMMUTABLE = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


def validate_object_meta_update(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[Cause]:
    """What an update may not change in metadata (api/validation.ValidateObjectMetaUpdate)."""
    fresh, stored = meta_of(new), meta_of(old)
    causes = [
        field.immutable(f"metadata.{name}", fresh.get(name))
        for name in _IMMUTABLE
        if fresh.get(name) != stored.get(name)
    ]
    if stored.get("deletionTimestamp"):
        added = sorted(set(fresh.get("finalizers") or ()) - set(stored.get("finalizers") or ()))
        if added:
            listed = ", ".join(field.quote(name) for name in added)
            detail = (
                "no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{listed}}}"
            )
            causes.append(field.forbidden("metadata.finalizers", detail))
    return causes
