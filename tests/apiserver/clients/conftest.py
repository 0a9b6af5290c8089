"""One server on the real etcd for all clients, and a definition they share."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.apiserver.devserver import Running, running

Kubectl = Callable[..., str]

WIDGETS: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.clients.example.com"},
    "spec": {
        "group": "clients.example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wg"], "categories": ["all"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
                },
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "description": "A widget of the tests.",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "size": {
                                        "type": "integer",
                                        "maximum": 10,
                                        "description": "How large it is.",
                                    },
                                    "color": {"type": "string", "default": "red"},
                                    "replicas": {"type": "integer"},
                                },
                            },
                            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                        },
                    }
                },
            }
        ],
    },
}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if shutil.which("etcd") is None or shutil.which("kubectl") is None:
        pytest.skip("needs etcd and kubectl")
    with running(tmp_path_factory.mktemp("clients"), quiet=True) as started:
        yield started


@pytest.fixture(scope="session")
def kubectl(server: Running) -> Kubectl:
    def call(*arguments: str, stdin: str = "", fails: bool = False) -> str:
        command = [
            "kubectl",
            f"--kubeconfig={server.admin}",
            f"--cache-dir={server.directory / 'cache'}",
            *arguments,
        ]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode != 0) is fails, f"{arguments}: {done.stdout} {done.stderr}"
        return done.stderr if fails else done.stdout

    return call


@pytest.fixture(scope="session")
def widgets(kubectl: Kubectl) -> str:
    """The definition, established; gives the group version."""
    kubectl("apply", "-f", "-", stdin=json.dumps(WIDGETS))
    kubectl("wait", "--for=condition=Established", "crd/widgets.clients.example.com", "--timeout=10s")
    return "clients.example.com/v1"
