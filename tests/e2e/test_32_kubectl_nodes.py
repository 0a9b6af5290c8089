"""kubectl against running containers: streams, terminals, copies, tunnels; with today's kubectl and
with 1.20.

1.20 speaks SPDY/3.1 where newer ones speak WebSocket, so both of the kubelet's streaming protocols are
used by the programs that use them in the field. The old one is unpacked from its Debian package beside
the installed one.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import termios
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import Lab, eventually, run

NAMESPACE = "e2e-kubectl"
MINE = "kubernetes.io/service-name=metrics-server"
TALKER = """
apiVersion: v1
kind: Pod
metadata: {name: talker, labels: {app: talker}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: busybox:1.35
      stdin: true
      command:
        - sh
        - -c
        - "echo born; while read line; do echo got $line; [ $line = die ] && exit 5; done; sleep 3600"
    - name: web
      image: busybox:1.35
      command: [sh, -c, "mkdir /w; echo hello > /w/index.html; exec httpd -f -p 8080 -h /w"]
      readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: talker}
spec: {selector: {app: talker}, ports: [{port: 80, targetPort: 8080}]}
"""


class Kubectl:
    """One version of it, in the tests' namespace."""

    def __init__(self, program: str, lab: Lab) -> None:
        self.program, self.lab = program, lab
        self.argv = [program, "--kubeconfig", str(lab.kubeconfig), "-n", NAMESPACE]
        listed = json.loads(run([program, "version", "--client", "-o", "json"]))
        self.minor = int(re.sub(r"\D", "", listed["clientVersion"]["minor"]))

    def __call__(
        self, *arguments: str, stdin: str | None = None, timeout: float = 120, code: int | None = 0
    ) -> str:
        return run([*self.argv, *arguments], stdin=stdin, timeout=timeout, code=code)

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A command that goes on until it is ended here."""
        process = subprocess.Popen(
            [*self.argv, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


class Terminal:
    """kubectl on a terminal of its own, as a person sits at it."""

    def __init__(self, kubectl: Kubectl, *arguments: str) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execvp(kubectl.argv[0], [*kubectl.argv, *arguments])
        self.seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        os.close(self.master)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.master, (rows, columns))

    def until(self, pattern: str, timeout: float = 90) -> str:
        """Read until the pattern has been seen; what came before is used up."""
        deadline = time.monotonic() + timeout
        while (found := re.search(pattern, self.seen)) is None:
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            chunk = ""
            with contextlib.suppress(OSError):  # EIO: the other side has hung up
                chunk = os.read(self.master, 4096).decode(errors="replace") if ready else ""
            if not chunk:
                raise AssertionError(f"{pattern!r} was not seen:\n{self.seen}")
            self.seen += chunk
        self.seen = self.seen[found.end() :]
        return found[0]


@pytest.fixture(scope="module")
def namespace(lab: Lab) -> Iterator[Lab]:
    lab.kubectl("create", "namespace", NAMESPACE)
    get = ("-n", NAMESPACE, "get", "serviceaccounts", "-o", "name")
    eventually("service account", lambda: "default" in lab.kubectl(*get))
    lab.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=TALKER)
    lab.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "pod/talker", "--timeout=120s")
    yield lab
    lab.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")


@pytest.fixture(scope="module", params=["current", "1.20"])
def kubectl(
    request: pytest.FixtureRequest, namespace: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Kubectl:
    if request.param == "current":
        return Kubectl("kubectl", namespace)
    folder = tmp_path_factory.mktemp("kubectl")
    if shutil.which("apt-get") is None:
        pytest.skip("kubectl 1.20 is unpacked from a Debian package")
    got = subprocess.run(
        ["apt-get", "download", "kubernetes-client"], cwd=folder, capture_output=True, text=True, check=False
    )
    packages = list(folder.glob("*.deb"))
    if not packages:
        pytest.skip(f"package kubernetes-client cannot be had: {got.stderr.strip()[-200:]}")
    run(["dpkg", "-x", str(packages[0]), str(folder)])
    return Kubectl(str(folder / "usr" / "bin" / "kubectl"), namespace)


def test_exec_with_and_without_a_terminal(kubectl: Kubectl) -> None:
    assert kubectl("exec", "talker", "-c", "web", "--", "cat", "/w/index.html") == "hello\n"
    assert (
        kubectl("exec", "-i", "talker", "-c", "web", "--", "wc", "-c", stdin="x" * 70000).strip() == "70000"
    )
    kubectl("exec", "talker", "-c", "web", "--", "sh", "-c", "exit 7", code=7)
    with Terminal(kubectl, "exec", "-it", "talker", "-c", "web", "--", "sh") as terminal:
        terminal.until(r"/ # ")
        terminal.resize(33, 101)
        terminal.type("sleep 1; stty size; tty\n")
        terminal.until(r"33 101\r\n/dev/pts/\d")
        terminal.type("exit 3\n")
        terminal.until(r"exit code 3")


def test_run_with_a_terminal_and_no_trace(kubectl: Kubectl) -> None:
    guest = f"guest-{kubectl.minor}"
    asked = ("run", "-it", "--rm", guest, "--image=busybox:1.35", "--restart=Never")
    with Terminal(kubectl, *asked) as terminal:
        terminal.until(r"/ # |see a command prompt")
        terminal.type("\n")
        terminal.until(r"/ # ")
        terminal.type("echo it is $((6 * 7))\n")
        terminal.until(r"it is 42\r")
        terminal.type("exit\n")
        terminal.until(rf'pod "{guest}" deleted')
    assert "NotFound" in kubectl("get", "pod", guest, code=1)


def test_copies_go_both_ways(kubectl: Kubectl, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.mkdir()
    content = os.urandom(300_000)
    (source / "data").write_bytes(content)
    kubectl("cp", str(source), "talker:/tmp/copied", "-c", "web")
    kubectl("cp", "talker:/tmp/copied/data", str(back), "-c", "web")
    assert back.read_bytes() == content
    kubectl("exec", "talker", "-c", "web", "--", "rm", "-r", "/tmp/copied")


@pytest.mark.parametrize("target", ["pod/talker", "service/talker"])
def test_ports_are_forwarded(kubectl: Kubectl, target: str) -> None:
    port = "8080" if target.startswith("pod") else "80"
    with kubectl.running("port-forward", target, f":{port}") as tunnel:
        assert tunnel.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", tunnel.stdout.readline())
        assert found is not None
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/", timeout=60) as answer:
                assert answer.read() == b"hello\n"


def test_attach_speaks_to_the_container_and_logs_follow_it_into_its_next_life(kubectl: Kubectl) -> None:
    def restarts() -> int:
        statuses = json.loads(kubectl("get", "pod", "talker", "-o", "json"))["status"]["containerStatuses"]
        return next(int(each["restartCount"]) for each in statuses if each["name"] == "main")

    def alive() -> bool:
        statuses = json.loads(kubectl("get", "pod", "talker", "-o", "json"))["status"]["containerStatuses"]
        return any(each["name"] == "main" and "running" in each["state"] for each in statuses)

    eventually("the container runs", alive, 120)
    before = restarts()
    with (
        kubectl.running("logs", "-f", "talker", "-c", "main") as follower,
        kubectl.running("attach", "-i", "talker", "-c", "main") as attached,
    ):
        assert attached.stdin is not None and attached.stdout is not None and follower.stdout is not None
        attached.stdin.write("word\n")
        attached.stdin.flush()
        assert any("got word" in line for line in iter(attached.stdout.readline, ""))
        attached.stdin.write("die\n")
        attached.stdin.flush()
        assert follower.stdout.read().splitlines() == ["born", "got word", "got die"]
    eventually("another life", lambda: restarts() == before + 1 and alive(), 120)
    assert kubectl("logs", "talker", "-c", "main", "--previous").splitlines()[-1] == "got die"
    assert kubectl("logs", "talker", "-c", "main", "--tail=1", "--timestamps").startswith("20")


def test_debug_in_the_pod_in_a_copy_and_on_the_node(kubectl: Kubectl) -> None:
    if kubectl.minor < 25:
        pytest.skip("ephemeral containers had another API in that version")
    shared = ("debug", "talker", "--image=busybox:1.35", "--target=web", "--profile=general", "-c", "look")
    kubectl(*shared, "--", "sh", "-c", "cat /proc/1/root/w/index.html; ps | grep httpd")
    eventually("ephemeral", lambda: "hello" in kubectl("logs", "talker", "-c", "look"), 90)
    assert "httpd -f -p 8080" in kubectl("logs", "talker", "-c", "look")
    kubectl("debug", "talker", "--copy-to=twin", "--set-image=web=busybox:latest", "--profile=general")
    kubectl("wait", "--for=condition=Ready", "pod/twin", "--timeout=120s")
    images = kubectl("get", "pod", "twin", "-o", "jsonpath={.spec.containers[*].image}")
    assert images == "busybox:1.35 busybox:latest"
    kubectl("delete", "pod", "twin", "--now")
    said = kubectl(
        "debug",
        "node/worker-0",
        "--image=busybox:1.35",
        "--profile=general",
        "--",
        "cat",
        "/host/etc/hostname",
    )
    name = re.search(r"pod (\S+) with", said)
    assert name is not None, said
    eventually("node debug", lambda: kubectl("logs", name[1]).strip() == "worker-0", 90)
    kubectl("delete", "pod", name[1], "--now")


def test_top_shows_nodes_and_containers(kubectl: Kubectl) -> None:
    eventually("top nodes", lambda: len(re.findall(r"worker-\d +\d+m ", kubectl("top", "nodes"))) == 3, 120)

    def all_of_it() -> bool:
        text = kubectl("top", "pods", "--containers", "--sort-by=memory")
        return bool(re.search(r"talker +web +\d+m +\d+Mi", text))

    eventually("top pods", all_of_it, 120)
    for _ in range(5):  # what was told once is told by whichever API server is asked
        assert re.search(r"^talker ", kubectl("top", "pods", "-l", "app=talker"), re.M)
    assert re.search(r"NAME +CPU +MEMORY +WINDOW", kubectl("get", "nodes.metrics.k8s.io"))


def test_top_goes_on_when_the_metrics_server_that_leads_is_stopped(namespace: Lab) -> None:
    def leader() -> str:
        lease = namespace.get("lease/metrics-server", "-n", "kube-system")
        return str(lease["spec"]["holderIdentity"]).partition("_")[0]

    def endpoints() -> list[str]:
        found = namespace.get("endpointslices", "-n", "kube-system", "-l", MINE)
        return [
            address for item in found["items"] for each in item["endpoints"] for address in each["addresses"]
        ]

    before, address = leader(), endpoints()
    assert len(address) == 1
    namespace.hardway("stop", before, "metricsserver")
    try:
        eventually("another leads", lambda: leader() not in ("", before) and endpoints() != address, 90)
        eventually("top", lambda: "worker-0" in namespace.kubectl("top", "nodes"), 90)
        available = "jsonpath={.status.conditions[?(@.type=='Available')].status}"
        assert namespace.kubectl("get", "apiservice", "v1beta1.metrics.k8s.io", "-o", available) == "True"
        assert len(endpoints()) == 1
    finally:
        namespace.hardway("start", before, "metricsserver")


def test_drain_moves_what_it_may_and_respects_budgets(kubectl: Kubectl) -> None:
    if kubectl.minor < 25:
        pytest.skip("the eviction of that version is policy/v1beta1, which is gone since 1.22")
    kubectl("create", "deployment", "moved", "--image=busybox:1.35", "--replicas=2", "--", "sleep", "3600")
    kubectl("rollout", "status", "deployment/moved", "--timeout=120s")
    kubectl("create", "poddisruptionbudget", "moved", "--selector=app=moved", "--min-available=1")
    where = "jsonpath={.items[0].spec.nodeName}"
    node = kubectl("get", "pods", "-l", "app=moved", "-o", where)
    drain = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=app=moved")
    try:
        assert f"node/{node} drained" in kubectl(*drain, "--grace-period=1", "--timeout=120s", timeout=150)
        assert "SchedulingDisabled" in kubectl("get", "node", node)
        kubectl("rollout", "status", "deployment/moved", "--timeout=120s")
        nodes = kubectl("get", "pods", "-l", "app=moved", "-o", "jsonpath={.items[*].spec.nodeName}")
        assert node not in nodes.split()
    finally:
        kubectl("uncordon", node)
        kubectl("delete", "deployment/moved", "pdb/moved", "--wait=false")
