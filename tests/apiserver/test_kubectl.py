"""An unmodified kubectl against one apiserver on the real etcd, as users meet it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from componentbase import tlsutil
from tests.apiserver.devserver import Running, running

pytestmark = pytest.mark.skipif(
    shutil.which("etcd") is None or shutil.which("kubectl") is None, reason="needs etcd and kubectl"
)

MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: busybox, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80}]}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("dev"), quiet=True) as started:
        yield started


def kubectl(server: Running, *arguments: str, stdin: str = "", config: Path | None = None) -> str:
    command = [
        "kubectl",
        f"--kubeconfig={config or server.admin}",
        f"--cache-dir={server.directory / 'cache'}",
        *arguments,
    ]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


def test_apply_is_idempotent_and_get_describe_delete_work(server: Running) -> None:
    first = kubectl(server, "apply", "-f", "-", stdin=MANIFEST)
    assert "deployment.apps/web created" in first and "service/web created" in first
    assert kubectl(server, "apply", "-f", "-", stdin=MANIFEST).count("unchanged") == 2
    assert "0/3" in kubectl(server, "get", "deploy", "-o", "wide")
    assert "10.32.0." in kubectl(server, "describe", "service", "web")
    kubectl(server, "set", "image", "deploy/web", "c=busybox:2")
    assert "configured" in kubectl(
        server, "apply", "-f", "-", stdin=MANIFEST.replace("replicas: 3", "replicas: 5")
    )
    kubectl(server, "scale", "deploy/web", "--replicas=2")
    found = json.loads(kubectl(server, "get", "deploy", "web", "-o", "json"))
    assert found["spec"]["replicas"] == 2 and found["metadata"]["generation"] == 4
    assert "deleted" in kubectl(server, "delete", "-f", "-", stdin=MANIFEST)


def test_discovery_and_schemas(server: Running) -> None:
    listed = kubectl(server, "api-resources", "-o", "name").split()
    assert {
        "pods",
        "deployments.apps",
        "leases.coordination.k8s.io",
        "clusterroles.rbac.authorization.k8s.io",
    } <= set(listed)
    assert "Container image name" in kubectl(server, "explain", "pod.spec.containers.image")
    assert "FIELDS" in kubectl(server, "explain", "deployment", "--recursive")


def test_typed_commands_which_send_protobuf(server: Running) -> None:
    kubectl(server, "create", "configmap", "c", "--from-literal=a=b")
    assert kubectl(server, "get", "configmap", "c", "-o", "jsonpath={.data.a}") == "b"
    kubectl(server, "create", "namespace", "n")
    kubectl(server, "-n", "n", "create", "serviceaccount", "default")
    kubectl(server, "-n", "n", "create", "deployment", "d", "--image=i", "--replicas=2")
    assert kubectl(server, "-n", "n", "get", "deploy", "d", "-o", "jsonpath={.spec.replicas}") == "2"
    kubectl(server, "-n", "n", "autoscale", "deployment", "d", "--min=1", "--max=3", "--cpu-percent=50")
    assert kubectl(server, "-n", "n", "get", "hpa", "d", "-o", "jsonpath={.spec.maxReplicas}") == "3"
    assert kubectl(server, "auth", "can-i", "list", "pods").strip() == "yes"
    token = kubectl(server, "-n", "n", "create", "token", "default").strip()
    who = kubectl(server, "auth", "whoami", f"--token={token}", "-o", "json", config=anonymous(server))
    assert json.loads(who)["status"]["userInfo"]["username"] == "system:serviceaccount:n:default"


def anonymous(server: Running) -> Path:
    """A kubeconfig without any identity."""
    path = server.directory / "anonymous.kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [
            {
                "name": "x",
                "cluster": {
                    "server": f"https://127.0.0.1:{server.port}",
                    "certificate-authority": str(server.inventory.path("ca.pem")),
                },
            }
        ],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "users": [{"name": "x", "user": {}}],
    }
    path.write_text(json.dumps(document))
    return path


def test_secrets_are_unreadable_in_the_store(server: Running) -> None:
    kubectl(server, "create", "secret", "generic", "s", "--from-literal=word=hunter2-in-the-clear")
    pki = server.inventory.directory
    command = [
        "etcdctl",
        f"--endpoints=https://127.0.0.1:{server.etcd_port}",
        f"--cacert={pki / 'etcd-ca.pem'}",
    ]
    command += [f"--cert={pki / 'etcd-client.pem'}", f"--key={pki / 'etcd-client-key.pem'}"]
    done = subprocess.run(
        [*command, "get", "/registry/secrets/default/s"],
        capture_output=True,
        timeout=20,
        check=True,
        env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
    )
    assert b"k8s:enc:aescbc:v1:" in done.stdout and b"hunter2" not in done.stdout


def test_no_certificate_and_a_foreign_one_are_turned_away(server: Running) -> None:
    pki = server.inventory.directory
    url = f"https://127.0.0.1:{server.port}"
    with httpx.Client(verify=tlsutil.client_context(pki / "ca.pem"), trust_env=False) as client:
        refused = client.get(f"{url}/api/v1/pods")
        assert refused.status_code == 403 and 'User "system:anonymous"' in refused.json()["message"]
        assert (
            client.get(f"{url}/api/v1/pods", headers={"authorization": "Bearer nonsense"}).status_code == 401
        )
        assert client.get(f"{url}/version").json()["gitVersion"].startswith("v1.34")
        assert client.get(f"{url}/metrics").status_code == 403
    context = tlsutil.client_context(pki / "ca.pem", pki / "etcd-client.pem", pki / "etcd-client-key.pem")
    with httpx.Client(verify=context, trust_env=False) as client:
        answer = client.get(f"{url}/api/v1/pods")
    assert (answer.status_code, answer.json()["reason"]) == (401, "Unauthorized")


def test_watch_streams_and_a_shutdown_ends_it_cleanly(tmp_path: Path) -> None:
    with running(tmp_path / "dev", quiet=True) as started:
        pki = started.inventory.directory
        context = tlsutil.client_context(pki / "ca.pem", pki / "admin.pem", pki / "admin-key.pem")
        url = f"https://127.0.0.1:{started.port}/api/v1/namespaces"
        with (
            httpx.Client(verify=context, trust_env=False, timeout=20) as client,
            client.stream("GET", f"{url}?watch=1") as watch,
        ):
            lines = watch.iter_lines()
            assert json.loads(next(lines))["type"] == "ADDED"
            started.processes[1].terminate()
            begun = time.monotonic()
            for _ in lines:
                pass
            assert time.monotonic() - begun < 10
        assert started.processes[1].wait(15) == 0


def test_writes_fail_in_time_without_the_store_and_go_on_after(tmp_path: Path) -> None:
    with running(tmp_path / "dev", quiet=True) as started:
        etcd = started.processes[0]
        pki = started.inventory.directory
        context = tlsutil.client_context(pki / "ca.pem", pki / "admin.pem", pki / "admin-key.pem")
        url = f"https://127.0.0.1:{started.port}/api/v1/namespaces/default/configmaps"
        with httpx.Client(verify=context, trust_env=False, timeout=40) as client:
            etcd.send_signal(19)
            begun = time.monotonic()
            answer = client.post(url, json={"metadata": {"name": "x"}})
            assert answer.status_code in (503, 504) and answer.json()["kind"] == "Status"
            assert time.monotonic() - begun < 30
            assert client.get(f"{url}?resourceVersion=0").status_code == 200
            assert client.get(url).status_code in (503, 504)
            etcd.send_signal(18)
            deadline = time.monotonic() + 20
            while client.get(url).status_code != 200:
                assert time.monotonic() < deadline
            assert client.post(url, json={"metadata": {"name": "y"}}).status_code == 201
