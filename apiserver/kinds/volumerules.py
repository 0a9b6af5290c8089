"""Validation of the volumes of a pod spec."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from apimachinery import field, quantity
from apimachinery.errors import Cause
from apiserver.kinds import common

Source = Mapping[str, Any]

HOST_PATH_TYPES = (
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
)


def validate_volumes(volumes: Sequence[Source], path: str) -> Iterator[Cause]:
    """Names are unique labels; every volume has exactly one source."""
    names: set[str] = set()
    for at, volume in enumerate(volumes):
        here = f"{path}[{at}]"
        name = volume.get("name", "")
        if not name:
            yield field.required(f"{here}.name")
        else:
            yield from common.label(f"{here}.name", name)
        if name and name in names:
            yield field.duplicate(f"{here}.name", name)
        names.add(name)
        sources = [key for key in volume if key != "name"]
        if not sources:
            yield field.required(here, "must specify a volume type")
        for source in sources[1:]:
            yield field.forbidden(f"{here}.{source}", "may not specify more than 1 volume type")
        if sources and (rule := _RULES.get(sources[0])):
            yield from rule(volume[sources[0]], f"{here}.{sources[0]}")


def _empty_dir(source: Source, path: str) -> Iterator[Cause]:
    limit = source.get("sizeLimit")
    if limit is not None and quantity.parse(limit) < quantity.ZERO:
        yield field.forbidden(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity")


def _host_path(source: Source, path: str) -> Iterator[Cause]:
    where = source.get("path", "")
    if not where:
        yield field.required(f"{path}.path")
    elif ".." in where.split("/"):
        yield field.invalid(f"{path}.path", where, "must not contain '..'")
    if source.get("type", "") not in HOST_PATH_TYPES:
        yield field.not_supported(f"{path}.type", source["type"], HOST_PATH_TYPES)


def _mode(source: Source, path: str, name: str) -> Iterator[Cause]:
    mode = source.get(name)
    if mode is not None and not 0 <= mode <= 0o777:
        yield field.invalid(
            f"{path}.{name}", mode, "must be a number between 0 and 0777 (octal), both inclusive"
        )


def _items(source: Source, path: str) -> Iterator[Cause]:
    for at, item in enumerate(source.get("items") or ()):
        here = f"{path}.items[{at}]"
        if not item.get("key"):
            yield field.required(f"{here}.key")
        yield from _relative(item.get("path", ""), f"{here}.path")
        yield from _mode(item, here, "mode")


def _relative(where: str, path: str) -> Iterator[Cause]:
    if not where:
        yield field.required(path)
    elif where.startswith("/"):
        yield field.invalid(path, where, "must be a relative path")
    elif ".." in where.split("/"):
        yield field.invalid(path, where, "must not contain '..'")
    elif where.startswith(".."):
        yield field.invalid(path, where, "must not start with '..'")


def _secret(source: Source, path: str) -> Iterator[Cause]:
    if not source.get("secretName"):
        yield field.required(f"{path}.secretName")
    yield from _mode(source, path, "defaultMode")
    yield from _items(source, path)


def _config_map(source: Source, path: str) -> Iterator[Cause]:
    if not source.get("name"):
        yield field.required(f"{path}.name")
    yield from _mode(source, path, "defaultMode")
    yield from _items(source, path)


def _downward(source: Source, path: str) -> Iterator[Cause]:
    yield from _mode(source, path, "defaultMode")
    for at, item in enumerate(source.get("items") or ()):
        here = f"{path}.items[{at}]"
        yield from _relative(item.get("path", ""), f"{here}.path")
        given = [name for name in ("fieldRef", "resourceFieldRef") if item.get(name) is not None]
        if not given:
            yield field.required(here, "one of fieldRef and resourceFieldRef is required")
        elif len(given) > 1:
            detail = "fieldRef and resourceFieldRef can not be specified simultaneously"
            yield field.invalid(here, "resource", detail)


_PROJECTIONS = (
    "clusterTrustBundle",
    "configMap",
    "downwardAPI",
    "podCertificate",
    "secret",
    "serviceAccountToken",
)


def _projected(source: Source, path: str) -> Iterator[Cause]:
    yield from _mode(source, path, "defaultMode")
    for at, projection in enumerate(source.get("sources") or ()):
        here = f"{path}.sources[{at}]"
        given = [name for name in _PROJECTIONS if projection.get(name) is not None]
        if not given:
            yield field.required(here, "must specify a volume type")
        for name in given[1:]:
            yield field.forbidden(f"{here}.{name}", "may not specify more than 1 volume type per source")
        for name in ("secret", "configMap"):
            if name in given:
                if not projection[name].get("name"):
                    yield field.required(f"{here}.{name}.name")
                yield from _items(projection[name], f"{here}.{name}")
        if "downwardAPI" in given:
            yield from _downward(projection["downwardAPI"], f"{here}.downwardAPI")
        if "serviceAccountToken" in given:
            yield from _token(projection["serviceAccountToken"], f"{here}.serviceAccountToken")


def _token(token: Source, path: str) -> Iterator[Cause]:
    seconds = token.get("expirationSeconds", 0)
    if seconds < 600:
        yield field.invalid(
            f"{path}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes"
        )
    elif seconds > 1 << 32:
        yield field.invalid(
            f"{path}.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds"
        )
    if not token.get("path"):
        yield field.required(f"{path}.path")
    else:
        yield from _relative(token["path"], f"{path}.path")


def _needs(*names: str) -> Callable[[Source, str], Iterator[Cause]]:
    def rule(source: Source, path: str) -> Iterator[Cause]:
        for name in names:
            if not source.get(name):
                yield field.required(f"{path}.{name}")

    return rule


_RULES: dict[str, Callable[[Source, str], Iterator[Cause]]] = {
    "emptyDir": _empty_dir,
    "hostPath": _host_path,
    "secret": _secret,
    "configMap": _config_map,
    "downwardAPI": _downward,
    "projected": _projected,
    "persistentVolumeClaim": _needs("claimName"),
    "nfs": _needs("server", "path"),
    "csi": _needs("driver"),
}
