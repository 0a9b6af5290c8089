"""The API as clients see it: extension servers, conversion, policies, flow control, schemas, apply.

A sample extension server (and conversion webhook) runs in the lab's router, behind a Service without
selector.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from apiserver.cel.runtime import available
from tests.apiserver.aggregation.extension import GROUP, VERSION
from tests.apiserver.aggregation.test_extension import Credentials
from tests.e2e.lab import Lab, eventually

ROOT = Path(__file__).resolve().parents[2]
PORT = 9443
NAMESPACE = "api-tests"
Object = dict[str, Any]


def applied(lab: Lab, *documents: Object, code: int | None = 0) -> str:
    return lab.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents), code=code)


@contextlib.contextmanager
def extension(lab: Lab, directory: Path) -> Iterator[None]:
    """The sample server in the router's namespace, for as long as it is needed."""
    where = ["--topology", str(lab.topology), "--state", str(lab.state)]
    server = ["-m", "tests.apiserver.aggregation.extension", "--port", str(PORT)]
    files = {"--cert": directory / "cert.pem", "--key": directory / "cert-key.pem"}
    files["--client-ca"] = lab.state / "pki" / "front-proxy-ca.pem"
    flags = [text for flag, path in files.items() for text in (flag, str(path))]
    command = [
        sys.executable,
        "-m",
        "deploy",
        *where,
        "exec",
        "router",
        "--",
        sys.executable,
        *server,
        *flags,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def sample_service(router: str) -> list[Object]:
    labels = {"kubernetes.io/service-name": "sample"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"ports": [{"port": 443}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "sample-1", "namespace": "default", "labels": labels},
            "addressType": "IPv4",
            "ports": [{"port": PORT, "name": "", "protocol": "TCP"}],
            "endpoints": [{"addresses": [router], "conditions": {"ready": True}}],
        },
    ]


@pytest.fixture(scope="module")
def sample(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Credentials]:
    """The extension server behind its Service, and a namespace of our own."""
    credentials = Credentials(tmp_path_factory.mktemp("sample"))
    router = yaml.safe_load(lab.topology.read_text())["network"]["router"].partition("/")[0]
    applied(
        lab,
        *sample_service(router),
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
    )
    try:
        with extension(lab, credentials.directory):
            yield credentials
    finally:
        lab.kubectl("delete", "service/sample", "endpointslice/sample-1", "-n", "default")
        lab.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def test_an_extension_server_answers_for_its_group(lab: Lab, sample: Credentials) -> None:
    service = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{VERSION}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "version": VERSION,
            "groupPriorityMinimum": 2000,
            "versionPriority": 20,
            "caBundle": sample.bundle,
            "service": {"namespace": "default", "name": "sample"},
        },
    }
    applied(lab, service)
    try:
        lab.kubectl("wait", f"apiservice/{VERSION}.{GROUP}", "--for=condition=Available", "--timeout=60s")
        eventually(
            "every server knows it",
            lambda: '"weight": 7' in lab.kubectl("get", "flunders", "one", "-o", "json", code=None),
        )
        assert "flunders" in lab.kubectl("api-resources", "--api-group", GROUP)
        assert "Flunder is a fish" in lab.kubectl("explain", "flunders")
        found = lab.get("fl", "one")
        assert found["user"]["groups"] == ["system:masters", "system:authenticated"]
    finally:
        lab.kubectl("delete", "apiservice", f"{VERSION}.{GROUP}")
    assert "Local" in lab.kubectl("get", "apiservices", "v1.apps")


def definition(bundle: str) -> Object:
    def version(name: str, member: str) -> Object:
        spec = {"type": "object", "properties": {member: {"type": "integer"}}}
        schema = {"type": "object", "properties": {"spec": spec}}
        return {
            "name": name,
            "served": True,
            "storage": name == "v1",
            "schema": {"openAPIV3Schema": schema},
        }

    service = {"namespace": "default", "name": "sample", "path": "/convert"}
    webhook = {
        "clientConfig": {"service": service, "caBundle": bundle},
        "conversionReviewVersions": ["v1"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "ropes.e2e.example.com"},
        "spec": {
            "group": "e2e.example.com",
            "scope": "Namespaced",
            "names": {"plural": "ropes", "kind": "Rope"},
            "versions": [version("v1", "size"), version("v2", "length")],
            "conversion": {"strategy": "Webhook", "webhook": webhook},
        },
    }


def test_custom_resources_are_converted_by_webhook(lab: Lab, sample: Credentials) -> None:
    applied(lab, definition(sample.bundle))
    try:
        lab.kubectl("wait", "crd/ropes.e2e.example.com", "--for=condition=Established", "--timeout=60s")
        rope = {
            "apiVersion": "e2e.example.com/v2",
            "kind": "Rope",
            "metadata": {"name": "r", "namespace": NAMESPACE},
            "spec": {"length": 5},
        }
        eventually("a rope is made", lambda: "rope.e2e.example.com/r" in applied(lab, rope, code=None))
        assert lab.get("ropes.v1.e2e.example.com", "r", "-n", NAMESPACE)["spec"] == {"size": 5}
        lab.kubectl(
            *("patch", "ropes.v1.e2e.example.com", "r", "-n", NAMESPACE),
            *("--type=merge", "-p", '{"spec":{"size":6}}'),
        )
        listed = lab.get("ropes.v2.e2e.example.com", "-n", NAMESPACE)["items"]
        assert [item["spec"] for item in listed] == [{"length": 6}]
    finally:
        lab.kubectl("delete", "crd", "ropes.e2e.example.com")


@pytest.mark.skipif(not available(), reason="needs cel-expr-python")
def test_an_admission_policy_denies(lab: Lab, sample: Credentials) -> None:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    named = {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "e2e"},
        "spec": {
            "matchConstraints": {"resourceRules": [rule], "namespaceSelector": named},
            "validations": [{"expression": "!object.metadata.name.startsWith('bad')"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "e2e"},
        "spec": {"policyName": "e2e", "validationActions": ["Deny"]},
    }
    applied(lab, policy, binding)
    try:

        def denied() -> bool:
            text = lab.kubectl("create", "configmap", "bad", "-n", NAMESPACE, "--dry-run=server", code=None)
            return "ValidatingAdmissionPolicy 'e2e' with binding 'e2e' denied request" in text

        eventually("it is denied", denied)
        lab.kubectl("create", "configmap", "good", "-n", NAMESPACE)
    finally:
        lab.kubectl("delete", "validatingadmissionpolicybinding/e2e", "validatingadmissionpolicy/e2e")


def test_a_namespace_enforces_a_pod_security_standard(lab: Lab, sample: Credentials) -> None:
    lab.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")

    def refused() -> bool:
        text = lab.kubectl("run", "p", "--image=busybox:1.35", "-n", NAMESPACE, "--dry-run=server", code=None)
        return 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false' in text

    eventually("it is refused", refused)
    lab.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce-")


def test_flow_control_is_visible(lab: Lab) -> None:
    assert "workload-low" in lab.kubectl("get", "prioritylevelconfigurations")
    schemas = lab.kubectl("get", "flowschemas")
    assert "system-leader-election" in schemas and "MISSINGPL" in schemas
    told = lab.kubectl("get", "--raw", "/version", "-v=8")
    assert "gitVersion" in told
    text = lab.kubectl("get", "namespaces", "-v=8")
    assert "X-Kubernetes-Pf-Flowschema-Uid" in text
    assert "apiserver_flowcontrol_dispatched_requests_total" in lab.kubectl("get", "--raw", "/metrics")


def test_schemas_are_published(lab: Lab) -> None:
    explained = lab.kubectl("explain", "pod.spec", "--recursive")
    for name in ("ephemeralContainers", "topologySpreadConstraints", "requiredDuringSchedulingIgnored"):
        assert name in explained
    index = json.loads(lab.kubectl("get", "--raw", "/openapi/v3"))["paths"]
    assert {"api/v1", "apis/apps/v1", "apis/flowcontrol.apiserver.k8s.io/v1"} <= set(index)
    document = json.loads(lab.kubectl("get", "--raw", index["apis/apps/v1"]["serverRelativeURL"]))
    assert "io.k8s.api.apps.v1.Deployment" in document["components"]["schemas"]


def test_server_side_apply_conflicts_and_is_forced(lab: Lab, sample: Credentials) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "shared", "namespace": NAMESPACE},
        "data": {"key": "mine"},
    }
    other = {**config, "data": {"key": "theirs"}}

    def apply(what: Object, manager: str, *flags: str, code: int | None = 0) -> str:
        options = ("apply", "--server-side", f"--field-manager={manager}", *flags, "-f", "-")
        return lab.kubectl(*options, stdin=yaml.safe_dump(what), code=code)

    apply(config, "one")
    text = apply(other, "two", code=1)
    assert 'Apply failed with 1 conflict: conflict with "one": .data.key' in text
    apply(other, "two", "--force-conflicts")
    assert lab.get("configmap", "shared", "-n", NAMESPACE)["data"] == {"key": "theirs"}
    changed = {**config, "data": {"key": "again"}}
    text = lab.kubectl("diff", "-f", "-", stdin=yaml.safe_dump(changed), code=1)
    assert "-  key: theirs" in text and "+  key: again" in text


def test_get_watch_shows_changes_as_they_come(lab: Lab, sample: Credentials) -> None:
    argv = ["kubectl", "--kubeconfig", str(lab.kubeconfig), "get", "configmaps", "-n", NAMESPACE, "-w"]
    with subprocess.Popen([*argv, "--output-watch-events"], stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        try:
            lines = iter(watching.stdout.readline, "")
            assert next(lines).startswith("EVENT")
            lab.kubectl("create", "configmap", "watched", "-n", NAMESPACE)
            assert any("ADDED" in line and "watched" in line for line in lines)
            lab.kubectl("delete", "configmap", "watched", "-n", NAMESPACE)
            assert any("DELETED" in line and "watched" in line for line in lines)
        finally:
            watching.terminate()
