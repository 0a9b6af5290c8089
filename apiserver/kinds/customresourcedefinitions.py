"""CustomResourceDefinitions (apiextensions.k8s.io/v1). What they serve is `extensions/`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from apimachinery import field, meta
from apimachinery.errors import Cause
from apimachinery.schema.decode import decode
from apimachinery.scheme import Kind, Object, Strategy
from apimachinery.table import CREATED_AT
from apiserver.extensions import cel, conditions, structural, validation
from apiserver.extensions.jsonpath import compile_path, simple_path
from apiserver.kinds import common
from apiserver.kinds.common import spec_of
from apiserver.kinds.webhooks import client_config

SCOPES = ("Cluster", "Namespaced")
CONVERSIONS = ("None", "Webhook")
REVIEW_VERSIONS = ("v1",)  # of ConversionReview; Kubernetes still takes v1beta1 too
COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
MAX_SELECTABLE = 8
APPROVED = "api-approved.kubernetes.io"
SCHEMA = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps"


def _default(crd: Object) -> None:
    spec = common.spec_for(crd)
    names = spec.setdefault("names", {})
    if names.get("kind"):
        names["singular"] = names.get("singular") or names["kind"].lower()
        names["listKind"] = names.get("listKind") or f"{names['kind']}List"
    spec.setdefault("conversion", {"strategy": "None"})
    service = common.dig(spec, "conversion", "webhook", "clientConfig", "service")
    if service is not None:
        service.setdefault("port", 443)


def _prepare_create(crd: Object) -> None:
    stored = [version.get("name") for version in spec_of(crd).get("versions") or () if version.get("storage")]
    crd["status"] = {
        "acceptedNames": {"kind": "", "plural": ""},
        "conditions": [],
        "storedVersions": stored,
    }


# -- validation ---------------------------------------------------------------------------------------------


def _validate(crd: Object) -> Iterator[Cause]:
    spec = spec_of(crd)
    names, group = spec.get("names") or {}, spec.get("group", "")
    wanted = f"{names.get('plural', '')}.{group}"
    if meta.name_of(crd) != wanted:
        yield field.invalid("metadata.name", meta.name_of(crd), 'must be spec.names.plural+"."+spec.group')
    yield from _group(crd, group)
    yield from common.one_of("spec.scope", spec.get("scope"), SCOPES)
    yield from _names(names)
    yield from _conversion(spec.get("conversion") or {})
    if spec.get("preserveUnknownFields"):
        detail = f"cannot set to true, set {structural.PRESERVE} to true in spec.versions[*].schema instead"
        yield field.invalid("spec.preserveUnknownFields", True, detail)
    yield from _versions(spec.get("versions") or [])


def _group(crd: Object, group: str) -> Iterator[Cause]:
    if not group:
        yield field.required("spec.group")
        return
    yield from common.subdomain("spec.group", group)
    if "." not in group:
        yield field.invalid("spec.group", group, "should be a domain with at least one dot")
    protected = group.endswith((".k8s.io", ".kubernetes.io")) or group in ("k8s.io", "kubernetes.io")
    approval = meta.annotations_of(crd).get(APPROVED, "")
    if protected and not approval.startswith(("https://", "http://", "unapproved")):
        detail = (
            'protected groups must have approval annotation "api-approved.kubernetes.io", see '
            "https://github.com/kubernetes/enhancements/pull/1111"
        )
        yield field.required(f"metadata.annotations[{APPROVED}]", detail)


def _names(names: Mapping[str, Any]) -> Iterator[Cause]:
    for name in ("plural", "singular"):
        if not names.get(name):
            yield field.required(f"spec.names.{name}")
        else:
            for problem in meta.dns1035_label(names[name]):
                yield field.invalid(f"spec.names.{name}", names[name], problem)
    for name in ("kind", "listKind"):
        if not names.get(name):
            yield field.required(f"spec.names.{name}")
        else:
            for problem in meta.dns1035_label(names[name].lower()):
                yield field.invalid(
                    f"spec.names.{name}",
                    names[name],
                    f"may have mixed case, but should otherwise match: {problem}",
                )
    for list_name in ("shortNames", "categories"):
        for at, value in enumerate(names.get(list_name) or ()):
            for problem in meta.dns1035_label(value):
                yield field.invalid(f"spec.names.{list_name}[{at}]", value, problem)
    if names.get("kind") and names.get("kind") == names.get("listKind"):
        yield field.invalid("spec.names.listKind", names["listKind"], "kind and listKind may not be the same")


def _conversion(conversion: Mapping[str, Any]) -> Iterator[Cause]:
    strategy = conversion.get("strategy")
    yield from common.one_of("spec.conversion.strategy", strategy, CONVERSIONS)
    if strategy == "Webhook":
        yield from _conversion_webhook(conversion.get("webhook") or {}, "spec.conversion")
    elif conversion.get("webhook"):
        yield field.forbidden(
            "spec.conversion.webhook", "should not be set when strategy is not set to Webhook"
        )


def _conversion_webhook(webhook: Mapping[str, Any], path: str) -> Iterator[Cause]:
    """Field paths are those of the internal type, which Kubernetes reports too."""
    config, versions = webhook.get("clientConfig"), webhook.get("conversionReviewVersions") or []
    if config is None:
        yield field.required(f"{path}.webhookClientConfig", "required when strategy is set to Webhook")
    else:
        yield from client_config(config, f"{path}.webhookClientConfig")
    if not versions:
        yield field.required(f"{path}.conversionReviewVersions")
    elif not set(versions) & set(REVIEW_VERSIONS):
        detail = f"must include at least one of {', '.join(REVIEW_VERSIONS)}"
        yield field.invalid(f"{path}.conversionReviewVersions", versions, detail)
    for at, version in enumerate(versions):
        for problem in meta.dns1035_label(version):
            yield field.invalid(f"{path}.conversionReviewVersions[{at}]", version, problem)


def _versions(versions: list[Object]) -> Iterator[Cause]:
    if not versions:
        yield field.required("spec.versions", "must have at least one version")
        return
    if sum(bool(version.get("storage")) for version in versions) != 1:
        shown = [version.get("name", "") for version in versions]
        yield field.invalid("spec.versions", shown, "must have exactly one version marked as storage version")
    yield from common.unique("spec.versions", "name", versions)
    for at, version in enumerate(versions):
        yield from _version(version, f"spec.versions[{at}]")


def _version(version: Object, path: str) -> Iterator[Cause]:
    name = version.get("name", "")
    for problem in meta.dns1035_label(name):
        yield field.invalid(f"{path}.name", name, problem)
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    if schema is None:
        yield field.required(f"{path}.schema.openAPIV3Schema", "schemas are required")
    else:
        yield from _schema(schema, f"{path}.schema.openAPIV3Schema")
    yield from _subresources(version.get("subresources") or {}, f"{path}.subresources")
    yield from _printed(version.get("additionalPrinterColumns") or (), f"{path}.additionalPrinterColumns")
    yield from _selectable(version, schema or {}, f"{path}.selectableFields")


def _schema(schema: Object, path: str) -> Iterator[Cause]:
    _decode_free(schema)
    problems = list(structural.check(schema, path))
    yield from problems
    if problems:
        return
    for where, below in structural.subschemas(schema, path):
        if "default" in below:
            yield from _default_fits(below, f"{where}.default")
    yield from _patterns(schema, path)
    yield from cel.check_rules(schema, path)


def _decode_free(schema: Object) -> None:
    """Members that may be a schema or something else are untyped in the table. Raises 400 for what is
    neither.
    """
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), Mapping):
            schema[name], _ = decode(SCHEMA, schema[name], strict="Ignore")
            _decode_free(schema[name])
    for member in (schema.get("properties") or {}).values():
        _decode_free(member)
    for name in structural.JUNCTORS:
        for below in schema.get(name) or ():
            _decode_free(below)
    if schema.get("not"):
        _decode_free(schema["not"])


def _default_fits(schema: Mapping[str, Any], path: str) -> Iterator[Cause]:
    if schema["default"] is None and not schema.get("nullable"):
        yield field.invalid(path, None, "must not be null")
        return
    for cause in validation.validate(schema["default"], schema):
        yield field.invalid(path, schema["default"], cause.message)
    if isinstance(schema["default"], dict):
        for name in structural.prune({"default": schema["default"]}, {"properties": {"default": schema}}):
            yield field.invalid(path, schema["default"], f"must not have unknown fields: {name}")


def _patterns(schema: Object, path: str) -> Iterator[Cause]:
    for where, below in structural.subschemas(schema, path):
        if not below.get("pattern"):
            continue
        try:
            re.compile(validation.go_regex(below["pattern"]))
        except re.error as error:
            detail = f"must be a valid regular expression, but isn't: {error}"
            yield field.invalid(f"{where}.pattern", below["pattern"], detail)


def _subresources(given: Mapping[str, Any], path: str) -> Iterator[Cause]:
    scale = given.get("scale")
    if scale is None:
        return
    roots = {
        "specReplicasPath": (".spec.",),
        "statusReplicasPath": (".status.",),
        "labelSelectorPath": (".spec.", ".status."),
    }
    for name, allowed in roots.items():
        value = scale.get(name) or ""
        if not value:
            if name != "labelSelectorPath":
                yield field.required(f"{path}.scale.{name}")
            continue
        try:
            simple_path(value)
        except ValueError as error:
            yield field.invalid(f"{path}.scale.{name}", value, str(error))
            continue
        if not value.startswith(allowed):
            shown = " or ".join(f'"{root[:-1]}"' for root in allowed)
            yield field.invalid(f"{path}.scale.{name}", value, f"should be a json path under {shown}")


def _printed(columns: Any, path: str) -> Iterator[Cause]:
    for at, item in enumerate(columns):
        where = f"{path}[{at}]"
        if not item.get("name"):
            yield field.required(f"{where}.name")
        yield from common.one_of(f"{where}.type", item.get("type"), COLUMN_TYPES)
        yield from _json_path(item.get("jsonPath", ""), f"{where}.jsonPath")


def _json_path(value: str, path: str) -> Iterator[Cause]:
    if not value:
        yield field.required(path)
        return
    if not value.startswith("."):
        yield field.invalid(path, value, "must be a simple json path starting with .")
        return
    try:
        compile_path(value)
    except ValueError as error:
        yield field.invalid(path, value, str(error))


def _selectable(version: Object, schema: Object, path: str) -> Iterator[Cause]:
    fields = version.get("selectableFields") or ()
    if len(fields) > MAX_SELECTABLE:
        yield field.too_many(path, len(fields), MAX_SELECTABLE)
    yield from common.unique(path, "jsonPath", fields)
    for at, item in enumerate(fields):
        where, text = f"{path}[{at}].jsonPath", item.get("jsonPath", "")
        try:
            names = simple_path(text)
        except ValueError as error:
            yield field.invalid(where, text, f"is an invalid path: {error}")
            continue
        found: Any = schema
        for name in names:
            found = (found.get("properties") or {}).get(name) or {}
        if names[0] == "metadata" or found.get("type") not in ("string", "boolean", "integer"):
            yield field.invalid(where, text, "must point to a field of type string, boolean or integer")


def _validate_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate(new)
    after, before = spec_of(new), spec_of(old)
    yield from common.immutable("spec.group", after.get("group"), before.get("group"))
    if conditions.is_true(old, conditions.ESTABLISHED):
        yield from common.immutable("spec.scope", after.get("scope"), before.get("scope"))
        for name in ("kind", "plural"):
            yield from common.immutable(
                f"spec.names.{name}", (after.get("names") or {}).get(name), before["names"].get(name)
            )
    names = [version.get("name") for version in after.get("versions") or ()]
    for at, name in enumerate((old.get("status") or {}).get("storedVersions") or ()):
        if name not in names:
            detail = (
                "missing from spec.versions; it was previously a storage version, and must remain in "
                "spec.versions until a storage migration ensures no data remains persisted in it"
            )
            yield field.invalid(f"status.storedVersions[{at}]", name, detail)


def _validate_status(new: Object, _old: Object) -> Iterator[Cause]:
    stored = common.status_of(new).get("storedVersions") or ()
    names = [version.get("name") for version in spec_of(new).get("versions") or ()]
    if not stored:
        yield field.invalid("status.storedVersions", list(stored), "must have at least one stored version")
    for at, name in enumerate(stored):
        if name not in names:
            yield field.invalid(f"status.storedVersions[{at}]", name, "must appear in spec.versions")


KINDS = (
    Kind(
        group="apiextensions.k8s.io",
        version="v1",
        kind="CustomResourceDefinition",
        resource="customresourcedefinitions",
        namespaced=False,
        storage_prefix="apiextensions.k8s.io/customresourcedefinitions",
        singular="customresourcedefinition",
        short_names=("crd", "crds"),
        categories=("api-extensions",),
        subresources=("status",),
        columns=(common.NAME, CREATED_AT),
        strategy=Strategy(
            default=_default,
            prepare_create=_prepare_create,
            prepare_update=common.keep_status,
            validate=_validate,
            validate_update=_validate_update,
            status_prepare_update=common.keep_spec,
            status_validate_update=_validate_status,
        ),
    ),
)
