"""The generated table, against the model sources and against another client's types."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from apimachinery.schema import facts, generate
from apimachinery.schema.openapi import definitions_of, schemas
from apimachinery.schema.table import Table, Type, load, ref_of

CORE = "io.k8s.api.core.v1"
_CLASS = re.compile(r"^class (\w+)\(DictMixin\):", re.MULTILINE)
_FIELD = re.compile(r"^    (\w+): '(Optional\[)?", re.MULTILINE)


@pytest.fixture(scope="module")
def table() -> Table:
    return load()


@pytest.mark.parametrize("module", sorted(generate.PREFIXES))
def test_every_model_field_is_in_the_table(table: Table, module: str) -> None:
    source = (generate.models_directory() / f"{module}.py").read_text()
    parts = _CLASS.split(source)
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        fields = table[f"{generate.PREFIXES[module]}.{name}"].fields
        declared = _FIELD.findall(body)
        assert len(fields) == len(declared), name
        required = [field for field, optional in declared if not optional]
        assert len([field for field in fields.values() if field.required]) == len(required), name


def test_every_reference_resolves(table: Table) -> None:
    refs = {ref_of(field.type) for definition in table.values() for field in definition.fields.values()}
    assert refs - {None} <= set(table)


def test_every_field_is_described(table: Table) -> None:
    core = [table[f"{CORE}.{name}"] for name in ("Pod", "PodSpec", "Container", "ServiceSpec")]
    assert [field.name for item in core for field in item.fields.values() if not field.description] == []
    assert all(item.description for item in core)
    assert "**" not in table[f"{CORE}.PodSpec"].fields["containers"].description


def test_every_typed_fact_names_a_field(table: Table) -> None:
    known = {f"{item.short}.{name}" for item in table.values() for name in item.fields}
    typed = {*facts.PATCH, *facts.LISTS, *facts.RAW, *facts.BYTES, *facts.MAP_VALUES, *facts.ATOMIC_MAPS}
    typed |= facts.INT64_OF | facts.INT32_OF | facts.POINTER_INTEGERS_OF | facts.POINTER_STRINGS_OF
    newer = {"PodStatus.allocatedResources", "WebhookClientConfig.caBundle"}
    assert typed - known - newer == set()
    assert {item.short for item in table.values()} >= facts.ATOMIC_STRUCTS


def test_merge_keys_are_fields_of_their_elements(table: Table) -> None:
    for definition in table.values():
        for field in definition.fields.values():
            ref = ref_of(field.type)
            for key in {field.merge_key, *field.list_keys} - {""}:
                assert ref is not None and key in table[ref].fields, (definition.name, field.name)


def _map_value(kind: Type) -> str | None:
    return str(kind[1]) if isinstance(kind, list) and kind[0] == "map" else None


def test_maps_agree_with_the_python_client(table: Table) -> None:
    """That client says of every map what its values are; quantities are strings there."""
    models: Any = importlib.import_module("kubernetes.client.models")
    expected = {"Dict[str, str]": {"string", "quantity"}, "Dict[str, bytes]": {"bytes"}}
    expected |= {"Dict[str, List[str]]": {"['array', 'string']"}, "Dict[str, datetime]": {"date-time"}}
    compared = 0
    for name in (item for item in table if item.startswith((CORE, "io.k8s.api.apps", "io.k8s.api.policy"))):
        short = name.rpartition(".")[2]
        model: Any = getattr(models, f"V1{short}", None)
        for attribute, shown in (getattr(model, "openapi_types", None) or {}).items():
            field = table[name].fields.get(model.attribute_map[attribute])
            if field is not None and shown in expected:
                assert _map_value(field.type) in expected[shown], (short, field.name)
                compared += 1
    assert compared > 30


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("PodSpec.activeDeadlineSeconds", "int64"),
        ("PodSpec.priority", "int32"),
        ("ContainerPort.containerPort", "int32"),
        ("ServicePort.targetPort", "int-or-string"),
        ("Secret.data", ["map", "bytes"]),
        ("ResourceRequirements.limits", ["map", "quantity"]),
        ("EmptyDirVolumeSource.sizeLimit", "quantity"),
        ("Event.eventTime", "micro-time"),
        ("Event.firstTimestamp", "date-time"),
        ("PodSpec.containers", ["array", ["ref", f"{CORE}.Container"]]),
        ("NodeStatus.capacity", ["map", "quantity"]),
    ],
)
def test_types(table: Table, path: str, expected: Type) -> None:
    owner, name = path.split(".")
    assert table[f"{CORE}.{owner}"].fields[name].type == expected


def test_paths_lead_through_arrays(table: Table) -> None:
    found = table.field(f"{CORE}.Pod", ["spec", "containers", "ports", "protocol"])
    assert found is not None and found.type == "string"
    assert table.field(f"{CORE}.Pod", ["spec", "nothing", "ports"]) is None


def test_python_keywords_have_their_wire_names(table: Table) -> None:
    assert "from" in table["io.k8s.api.networking.v1.NetworkPolicyIngressRule"].fields
    assert "except" in table["io.k8s.api.networking.v1.IPBlock"].fields
    assert "continue" in table["io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"].fields


def test_the_table_is_written_where_asked(tmp_path: Path) -> None:
    path = generate.write_table(tmp_path)
    assert path.parent == tmp_path
    assert set(orjson.loads(path.read_bytes())) == set(load())


def test_openapi_is_closed_over_references() -> None:
    found = schemas([f"{CORE}.Pod", "io.k8s.api.apps.v1.Deployment"])
    text = orjson.dumps(found).decode()
    refs = set(re.findall(r'"\$ref":"#/components/schemas/([^"]+)"', text))
    assert refs <= set(found)
    assert f"{CORE}.Volume" in found and "io.k8s.api.apps.v1.StatefulSet" not in found


def test_openapi_says_how_lists_merge_and_what_kind_it_is() -> None:
    found = schemas([f"{CORE}.Pod"])
    ports = found[f"{CORE}.Container"]["properties"]["ports"]
    assert ports["x-kubernetes-patch-merge-key"] == "containerPort"
    assert ports["x-kubernetes-list-map-keys"] == ["containerPort", "protocol"]
    assert found[f"{CORE}.Pod"]["x-kubernetes-group-version-kind"] == [
        {"group": "", "kind": "Pod", "version": "v1"}
    ]
    assert found[f"{CORE}.PodSpec"]["required"] == ["containers"]
    assert found[f"{CORE}.PodSpec"]["properties"]["priority"]["format"] == "int32"


def test_definitions_of_a_group_version() -> None:
    apps = definitions_of("apps", "v1")
    assert "io.k8s.api.apps.v1.Deployment" in apps and "io.k8s.api.apps.v1.DeploymentList" in apps
    assert "io.k8s.api.apps.v1.DeploymentSpec" not in apps
