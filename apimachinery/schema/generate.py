"""Derive the API schema table from the types that lightkube-models carries.

The models are read as source text, not imported: their runtime package is not needed to know what fields
there are. What Go knows and they do not comes from `facts`.
Run at build time with the standard library alone, in an isolated build too; the table is never committed.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apimachinery.schema import TABLE_NAME, facts, fieldnumbers

# Model module -> definition prefix, for what is served or embedded. A module that is not here is not in the
# table.
PREFIXES = {
    "core_v1": "io.k8s.api.core.v1",
    "apps_v1": "io.k8s.api.apps.v1",
    "admissionregistration_v1": "io.k8s.api.admissionregistration.v1",
    "admissionregistration_v1beta1": "io.k8s.api.admissionregistration.v1beta1",
    "authentication_v1": "io.k8s.api.authentication.v1",
    "authorization_v1": "io.k8s.api.authorization.v1",
    "autoscaling_v1": "io.k8s.api.autoscaling.v1",
    "autoscaling_v2": "io.k8s.api.autoscaling.v2",
    "batch_v1": "io.k8s.api.batch.v1",
    "certificates_v1": "io.k8s.api.certificates.v1",
    "coordination_v1": "io.k8s.api.coordination.v1",
    "discovery_v1": "io.k8s.api.discovery.v1",
    "events_v1": "io.k8s.api.events.v1",
    "flowcontrol_v1": "io.k8s.api.flowcontrol.v1",
    "networking_v1": "io.k8s.api.networking.v1",
    "node_v1": "io.k8s.api.node.v1",
    "policy_v1": "io.k8s.api.policy.v1",
    "rbac_v1": "io.k8s.api.rbac.v1",
    "resource_v1": "io.k8s.api.resource.v1",
    "scheduling_v1": "io.k8s.api.scheduling.v1",
    "storage_v1": "io.k8s.api.storage.v1",
    "apiextensions_v1": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
    "apiregistration_v1": "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1",
    "meta_v1": "io.k8s.apimachinery.pkg.apis.meta.v1",
}
_SPECIAL = {
    "resource.Quantity": "quantity",
    "util_intstr.IntOrString": "int-or-string",
    "runtime.RawExtension": "raw",
    "meta_v1.Time": "date-time",
    "meta_v1.MicroTime": "micro-time",
    "Time": "date-time",
    "MicroTime": "micro-time",
    "str": "string",
    "bool": "boolean",
    "float": "number",
}
_GROUPS = {
    "authentication": "authentication.k8s.io",
    "authorization": "authorization.k8s.io",
    "certificates": "certificates.k8s.io",
    "coordination": "coordination.k8s.io",
    "discovery": "discovery.k8s.io",
}


def models_directory() -> Path:
    """Where the models' sources are; raises ModuleNotFoundError when the package is not installed."""
    spec = importlib.util.find_spec("lightkube")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        directory = Path(place) / "models"
        if (directory / "core_v1.py").exists():
            return directory
    raise ModuleNotFoundError("lightkube-models is not installed: the API schema cannot be derived")


def write_table(directory: Path) -> Path:
    """Write `table.json` into `directory` and return its path."""
    path = directory / TABLE_NAME
    path.write_text(json.dumps(build_table(), sort_keys=True, separators=(",", ":")), encoding="utf-8")
    return path


def build_table() -> dict[str, Any]:
    """Definition name -> {d: description, f: {field: entry}, gvk?, atomic?}."""
    source = models_directory()
    directory = Path(__file__).with_name("numbers")
    table: dict[str, Any] = {}
    for module, prefix in PREFIXES.items():
        tree = ast.parse((source / f"{module}.py").read_text(encoding="utf-8"))
        names = _untyped_names(tree)
        numbers = fieldnumbers.read(directory, module)
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                entry = table[f"{prefix}.{node.name}"] = _definition(node, prefix, names)
                _number(entry, numbers.get(node.name, {}))
    return table


def _number(entry: dict[str, Any], numbers: fieldnumbers.Numbers) -> None:
    """Give fields their protobuf numbers; raises KeyError for a number of a field that is not there."""
    for name, path in numbers.items():
        entry["f"][name]["n"] = path


def _untyped_names(tree: ast.Module) -> frozenset[str]:
    """Module-level aliases such as `JSON = Any`: types without fields."""
    names = [
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    return frozenset(names) - set(_SPECIAL)


def _definition(node: ast.ClassDef, prefix: str, untyped: frozenset[str]) -> dict[str, Any]:
    summary, described = _docstring(ast.get_docstring(node) or "")
    fields = {}
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            name, entry = _field(item, node.name, prefix, untyped)
            entry["d"] = described.get(item.target.id) or described.get(name, "")
            fields[name] = entry
    out: dict[str, Any] = {"d": summary, "f": fields}
    if gvk := _group_version_kind(node):
        out["gvk"] = gvk
    if node.name in facts.ATOMIC_STRUCTS:
        out["atomic"] = True
    return out


def _field(
    item: ast.AnnAssign, owner: str, prefix: str, untyped: frozenset[str]
) -> tuple[str, dict[str, Any]]:
    assert isinstance(item.target, ast.Name) and isinstance(item.annotation, ast.Constant)
    name = _json_name(item)
    text = str(item.annotation.value)
    optional = re.fullmatch(r"Optional\[(.*)\]", text)
    kind = _type(optional.group(1) if optional else text, owner, name, prefix, untyped)
    full = f"{owner}.{name}"
    entry: dict[str, Any] = {"t": kind}
    if not optional:
        entry["r"] = True
    elif _keeps_zero(kind, owner, name):
        entry["z"] = True
    if full in facts.PATCH:
        entry["ps"], entry["mk"] = facts.PATCH[full]
    if full in facts.LISTS:
        entry["lt"], entry["lk"] = facts.LISTS[full]
    elif isinstance(kind, list) and kind[0] == "array":
        entry["lt"] = "atomic"
    if full in facts.ATOMIC_MAPS:
        entry["mt"] = "atomic"
    return name, entry


def _json_name(item: ast.AnnAssign) -> str:
    """The field's wire name: Python keywords and `$`-names carry theirs in `metadata={"json": ...}`."""
    assert isinstance(item.target, ast.Name)
    if isinstance(item.value, ast.Call):
        for keyword in item.value.keywords:
            if keyword.arg == "metadata":
                return str(ast.literal_eval(keyword.value)["json"])
    return item.target.id


def _type(text: str, owner: str, name: str, prefix: str, untyped: frozenset[str]) -> Any:
    full = f"{owner}.{name}"
    if full in facts.RAW:
        return "raw"
    if full in facts.BYTES:
        return "bytes"
    if listed := re.fullmatch(r"List\[(.*)\]", text):
        return ["array", _type(listed.group(1), owner, name, prefix, untyped)]
    if text in ("dict", "Dict"):
        values = facts.MAP_VALUES.get(full, "string")
        if isinstance(values, list) and values[0] == "ref":
            values = ["ref", f"{prefix}.{values[1]}"]
        return ["map", values]
    if text == "int":
        return _integer(owner, name)
    if text in _SPECIAL:
        return _SPECIAL[text]
    if text in untyped:
        return "any"
    module, dot, short = text.rpartition(".")
    home = PREFIXES.get(module) if dot else prefix
    return ["ref", f"{home}.{short}"] if home else "any"


def _integer(owner: str, name: str) -> str:
    full = f"{owner}.{name}"
    if full in facts.INT64_OF or (name in facts.INT64 and full not in facts.INT32_OF):
        return "int64"
    return "int32"


def _keeps_zero(kind: Any, owner: str, name: str) -> bool:
    """Whether an optional field's zero value survives encoding (it is a pointer in Go)."""
    full = f"{owner}.{name}"
    if kind in ("int32", "int64"):
        if full in facts.POINTER_INTEGERS_OF or full in facts.ALWAYS_INTEGERS_OF:
            return True
        return name not in facts.VALUE_INTEGERS and not owner.endswith("Status")
    if kind == "boolean":
        return name not in facts.VALUE_BOOLEANS
    if kind == "string":
        return name in facts.POINTER_STRINGS or full in facts.POINTER_STRINGS_OF
    if isinstance(kind, list):
        return bool(kind[0] == "ref")  # `emptyDir: {}` says something, an empty list does not
    return kind not in ("date-time", "micro-time", "bytes")


def _group_version_kind(node: ast.ClassDef) -> list[str] | None:
    """What `__post_init__` assigns to apiVersion and kind."""
    found: dict[str, str] = {}
    for item in ast.walk(node):
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant):
            target = item.targets[0]
            if isinstance(target, ast.Attribute):
                found[target.attr] = str(item.value.value)
    if "apiVersion" not in found or "kind" not in found:
        return None
    group, _, version = found["apiVersion"].rpartition("/")
    return [_GROUPS.get(group, group), version, found["kind"]]


_PARAMETER = re.compile(r"^\* \*\*(?P<name>[^*]+)\*\* ``(?P<type>.*?)`` - ?(?P<text>.*)$")


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """A model's summary and the description of each parameter."""
    head, _, rest = text.partition("**parameters**")
    described: dict[str, str] = {}
    for name, lines in _parameters(rest):
        described[name] = _paragraphs(lines)
    return _paragraphs(head.splitlines()), described


def _parameters(text: str) -> Iterator[tuple[str, list[str]]]:
    name, lines = "", list[str]()
    for line in text.splitlines():
        if found := _PARAMETER.match(line.strip()):
            if name:
                yield name, lines
            name, lines = found["name"], [found["text"]]
        elif name:
            lines.append(line)
    if name:
        yield name, lines


def _paragraphs(lines: list[str]) -> str:
    """Undo the wrapping: one line a paragraph, blank lines between."""
    parts: list[str] = []
    for line in (raw.strip() for raw in lines):
        if not line:
            parts.append("")
        elif parts and parts[-1]:
            parts[-1] += " " + line
        else:
            parts.append(line)
    return "\n\n".join(part for part in parts if part)
