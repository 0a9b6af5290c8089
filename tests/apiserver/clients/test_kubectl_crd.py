"""kubectl and a custom resource."""

from __future__ import annotations

import json

from tests.apiserver.clients.conftest import Kubectl

WIDGET = "apiVersion: clients.example.com/v1\nkind: Widget\nmetadata: {name: %s}\nspec: {size: %d}\n"


def test_apply_get_explain_patch_scale_delete(kubectl: Kubectl, widgets: str) -> None:
    assert "created" in kubectl("apply", "-f", "-", stdin=WIDGET % ("a", 3))
    assert "unchanged" in kubectl("apply", "-f", "-", stdin=WIDGET % ("a", 3))
    header, row = kubectl("get", "wg").splitlines()
    assert header.split() == ["NAME", "SIZE"] and row.split() == ["a", "3"]
    assert "widget.clients.example.com/a" in kubectl("get", "all", "-o", "name")
    assert "How large it is." in kubectl("explain", "widget.spec.size")
    assert "configured" in kubectl("apply", "-f", "-", stdin=WIDGET % ("a", 4))
    kubectl("patch", "widget", "a", "--type=merge", "-p", '{"spec":{"color":"blue"}}')
    kubectl("scale", "widget", "a", "--replicas=2")
    found = json.loads(kubectl("get", "widget", "a", "-o", "json"))
    assert found["spec"] == {"size": 4, "color": "blue", "replicas": 2}
    kubectl("label", "widget", "a", "tier=x")
    assert "deleted" in kubectl("delete", "widget", "-l", "tier=x")


def test_unknown_and_wrong_fields_are_told(kubectl: Kubectl, widgets: str) -> None:
    told = kubectl("apply", "-f", "-", stdin=WIDGET % ("b", 3) + "extra: 1\n", fails=True)
    assert 'unknown field "extra"' in told
    told = kubectl("apply", "-f", "-", stdin=WIDGET % ("b", 30), fails=True)
    assert "spec.size in body should be less than or equal to 10" in told


def test_server_side_apply_of_a_custom_resource(kubectl: Kubectl, widgets: str) -> None:
    for manager in ("one", "two"):
        kubectl("apply", "--server-side", f"--field-manager={manager}", "-f", "-", stdin=WIDGET % ("ssa", 5))
    told = kubectl(
        "apply", "--server-side", "--field-manager=two", "-f", "-", stdin=WIDGET % ("ssa", 6), fails=True
    )
    assert "conflict" in told and ".spec.size" in told
    kubectl("delete", "widget", "ssa")


def test_crds_are_listed(kubectl: Kubectl, widgets: str) -> None:
    assert "widgets.clients.example.com" in kubectl("get", "crd")
    listed = kubectl("api-resources", "--api-group=clients.example.com")
    assert "wg" in listed and "Widget" in listed
    assert "Established" in kubectl("describe", "crd", "widgets.clients.example.com")
