"""The parameters of an IngressClass."""

from __future__ import annotations

from typing import Any

import pytest

from tests.apiserver.kinds.helpers import accepted, causes, cells, kind_of, made, update_causes

KIND = kind_of("networking.k8s.io", "ingressclasses")
GOOD = {"apiGroup": "g.example", "kind": "Thing", "name": "n"}


def ingress_class(parameters: Any) -> dict[str, Any]:
    return made(KIND, spec={"controller": "example.com/c", "parameters": parameters})


def test_the_scope_of_parameters_is_the_cluster_unless_said() -> None:
    assert accepted(KIND, ingress_class(dict(GOOD)))["spec"]["parameters"]["scope"] == "Cluster"
    assert cells(KIND, ingress_class(dict(GOOD)))["Parameters"] == "Thing.g.example/n"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"scope": "Namespace", "namespace": "default"}, []),
        ({"kind": None}, ["spec.parameters.kind: Required value: kind is required"]),
        ({"name": "a/b"}, ["spec.parameters.name: Invalid value: \"a/b\": may not contain '/'"]),
        (
            {"scope": "Namespace"},
            ["spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"],
        ),
        (
            {"namespace": "default"},
            ["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"],
        ),
    ],
)
def test_parameters(change: dict[str, Any], expected: list[str]) -> None:
    wanted = {key: value for key, value in (GOOD | change).items() if value is not None}
    assert causes(KIND, ingress_class(wanted)) == expected
    assert update_causes(KIND, ingress_class(wanted), ingress_class(dict(GOOD))) == expected
