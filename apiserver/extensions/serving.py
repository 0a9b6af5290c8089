"""What a CustomResourceDefinition serves: one `CustomKind` a version. Pure.

All versions share one stored form, the storage version's. The `None` conversion changes nothing but
apiVersion, `Webhook` asks (conversion.py); what is read is pruned and defaulted by the schema of the version
it is read in.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from apimachinery.errors import Cause
from apimachinery.scheme import ALL_VERBS, Column, Converter, Kind, Object, Scale, Strategy
from apimachinery.table import AGE, NAME, Since
from apiserver.extensions import cel, structural, validation
from apiserver.extensions.jsonpath import compile_path, simple_path
from apiserver.extensions.structural import Schema
from apiserver.extensions.versions import version_order
from apiserver.kinds.common import dig, scalar

GROUP, RESOURCE = "apiextensions.k8s.io", "customresourcedefinitions"
ANYTHING: Schema = {"type": "object", structural.PRESERVE: True}


@dataclass(frozen=True, slots=True)
class CustomKind(Kind):
    """A kind that a CustomResourceDefinition serves; `schema` is the structural schema of its version."""

    schema: Schema = field(default_factory=dict)
    definition: str = ""  # name of the CustomResourceDefinition
    deprecation: str = ""  # warning sent with every request; "" for none

    def prune(self, obj: Object) -> list[str]:
        """Drop in place what the schema does not know; returns the dropped paths."""
        return structural.prune(obj, self.schema)


def storage_version(crd: Object) -> str:
    """The apiVersion that new objects are stored in."""
    spec = crd["spec"]
    name = next(version["name"] for version in spec["versions"] if version.get("storage"))
    return f"{spec['group']}/{name}"


def schemas_of(crd: Object) -> dict[str, Schema]:
    """Schemas by apiVersion."""
    spec = crd["spec"]
    return {f"{spec['group']}/{version['name']}": schema_of(version) for version in spec["versions"]}


def kinds_of(crd: Object, converter: Converter | None = None) -> list[CustomKind]:
    """The served versions, preferred first. `converter` knows how to get from one to the other; None where
    they differ in nothing but apiVersion.
    """
    spec = crd["spec"]
    served = [version for version in spec["versions"] if version.get("served")]
    return [
        _kind(crd, version, converter) for version in sorted(served, key=lambda v: version_order(v["name"]))
    ]


def schema_of(version: Object) -> Schema:
    return (version.get("schema") or {}).get("openAPIV3Schema") or ANYTHING


def _kind(crd: Object, version: Object, converter: Converter | None) -> CustomKind:
    spec, names = crd["spec"], (crd.get("status") or {}).get("acceptedNames") or crd["spec"]["names"]
    subresources = version.get("subresources") or {}
    schema = schema_of(version)
    selectable = tuple(item["jsonPath"] for item in version.get("selectableFields") or ())
    terminating = "deletionTimestamp" in crd["metadata"]
    api_version, stored = f"{spec['group']}/{version['name']}", storage_version(crd)
    return CustomKind(
        group=spec["group"],
        version=version["name"],
        kind=names["kind"],
        resource=names["plural"],
        namespaced=spec["scope"] == "Namespaced",
        storage_prefix=f"{spec['group']}/{names['plural']}",
        singular=names.get("singular") or names["kind"].lower(),
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        verbs=tuple(verb for verb in ALL_VERBS if verb != "create" or not terminating),
        subresources=tuple(name for name in ("status", "scale") if name in subresources),
        columns=tuple(_columns(version)),
        strategy=_strategy(schema, selectable, has_status="status" in subresources),
        scale=_scale(subresources.get("scale")),
        selectable_fields=tuple(path.lstrip(".") for path in selectable),
        to_storage=lambda obj: {**obj, "apiVersion": stored},
        from_storage=_reader(api_version, schema),
        converter=converter,
        schema=schema,
        definition=crd["metadata"]["name"],
        deprecation=_deprecation(version, api_version, names["kind"]),
    )


def _deprecation(version: Object, api_version: str, kind: str) -> str:
    if not version.get("deprecated"):
        return ""
    return str(version.get("deprecationWarning") or f"{api_version} {kind} is deprecated")


def _reader(api_version: str, schema: Schema) -> Callable[[Object], Object]:
    def from_storage(obj: Object) -> Object:
        obj["apiVersion"] = api_version
        structural.prune(obj, schema)
        structural.default(obj, schema)
        return obj

    return from_storage


def _scale(given: Mapping[str, Any] | None) -> Scale | None:
    if given is None:
        return None
    return Scale(given["specReplicasPath"], given["statusReplicasPath"], given.get("labelSelectorPath") or "")


# -- the strategy -------------------------------------------------------------------------------------------


def _strategy(schema: Schema, selectable: tuple[str, ...], *, has_status: bool) -> Strategy:
    rules = cel.compile_rules(schema)
    paths = {path.lstrip("."): simple_path(path) for path in selectable}

    def validate(obj: Object) -> Iterator[Cause]:
        causes = list(validation.validate(obj, schema))
        yield from causes
        if not causes:
            yield from rules.check(obj)

    def validate_update(new: Object, old: Object) -> Iterator[Cause]:
        causes = list(validation.validate(new, schema, "", old))
        yield from causes
        if not causes:
            yield from rules.check(new, old)

    def prepare_create(obj: Object) -> None:
        if has_status:
            obj.pop("status", None)

    def prepare_update(new: Object, old: Object) -> None:
        # Everything but metadata (and a status that is a subresource) is what the user asks for.
        if _asked(new, has_status) != _asked(old, has_status):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1

    return Strategy(
        default=lambda obj: structural.default(obj, schema),
        prepare_create=prepare_create,
        prepare_update=prepare_update,
        validate=validate,
        validate_update=validate_update,
        status_validate_update=validate_update,
        fields=lambda obj: {name: scalar(dig(obj, *path)) for name, path in paths.items()},
        allow_unconditional_update=False,
    )


def _asked(obj: Object, has_status: bool) -> Object:
    left_out = ("metadata", "status") if has_status else ("metadata",)
    return {name: value for name, value in obj.items() if name not in left_out}


# -- columns ------------------------------------------------------------------------------------------------


def _columns(version: Object) -> Iterator[Column]:
    given = version.get("additionalPrinterColumns") or ()
    yield NAME
    for item in given:
        yield Column(
            item["name"],
            _cell(item["jsonPath"], item["type"]),
            type=item["type"],
            format=item.get("format", ""),
            description=item.get("description")
            or f"Custom resource definition column (in JSONPath format): {item['jsonPath']}",
            priority=item.get("priority", 0),
        )
    if not given:
        yield AGE


def _cell(path: str, kind: str) -> Callable[[Object], Any]:
    find = compile_path(path)

    def cell(obj: Object) -> Any:
        found = find(obj)
        return convert_cell(found[0], kind) if found and found[0] is not None else None

    return cell


def convert_cell(value: Any, kind: str) -> Any:
    """A value as a cell of a column's type; None when it is of another type (tableconvertor)."""
    if kind == "string":
        return (
            value
            if isinstance(value, str)
            else scalar(value)
            if not isinstance(value, (dict, list))
            else (orjson.dumps(value).decode())
        )
    if kind == "date":
        return Since(value, absent="<unknown>") if isinstance(value, str) else None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if kind == "integer" else float(value)


# -- schemas for OpenAPI ------------------------------------------------------------------------------------


def definition_name(kind: CustomKind) -> str:
    """`com.example.stable.v1.CronTab` for stable.example.com."""
    return ".".join([*reversed(kind.group.split(".")), kind.version, kind.kind])


OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
LIST_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"


def openapi_schemas(kind: CustomKind) -> dict[str, Any]:
    """The component schemas of a kind and its list."""
    name = definition_name(kind)
    gvk = {"group": kind.group, "version": kind.version}
    own = copy.deepcopy(dict(kind.schema))
    own["properties"] = {
        **_envelope(OBJECT_META),
        **{
            key: value
            for key, value in (own.get("properties") or {}).items()
            if key not in structural.ENVELOPE
        },
    }
    own["x-kubernetes-group-version-kind"] = [{**gvk, "kind": kind.kind}]
    listed = {
        "description": f"{kind.list_kind} is a list of {kind.kind}",
        "type": "object",
        "required": ["items"],
        "properties": {
            **_envelope(LIST_META),
            "items": {
                "description": f"List of {kind.resource}.",
                "type": "array",
                "items": {"allOf": [{"$ref": f"#/components/schemas/{name}"}], "default": {}},
            },
        },
        "x-kubernetes-group-version-kind": [{**gvk, "kind": kind.list_kind}],
    }
    return {name: own, f"{name}List": listed}


def _envelope(metadata: str) -> dict[str, Any]:
    return {
        "apiVersion": {"type": "string", "description": "The version of the schema of this object."},
        "kind": {"type": "string", "description": "The kind this object is of."},
        "metadata": {
            "allOf": [{"$ref": f"#/components/schemas/{metadata}"}],
            "default": {},
            "description": "Standard metadata.",
        },
    }
