"""`hardway lab check` on deliberately broken work: each mistake is said in a sentence that names it.

Hosts are folders here: what the bring-up would put on them is put there, then one thing is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deploy import doctor, steps, systemd
from deploy.goals import Reporter
from deploy.hosts import write_files
from deploy.labs import commandlines
from deploy.labs.check import Check, lacks, text_difference
from deploy.labs.commandlines import difference
from deploy.labs.prepare import Prepare
from deploy.state import State
from deploy.steps import CERTIFICATES, CONTROL_PLANE, ENCRYPTION, HOSTS, KUBECONFIGS, STEPS, STORE, Step
from deploy.topology import TOPOLOGIES, Host, load
from pki import layout
from pki.ca import ensure_authority, ensure_leaf, utc_now
from pki.certs import Profile

LAB = load(TOPOLOGIES / "lab.yaml")
PID = 77


@dataclass
class OnFolders(Check):
    """The same check, with folders for hosts; `stopped` are (host, unit) that do not run."""

    roots: Path = Path()
    stopped: set[tuple[str, str]] = field(default_factory=set)

    def root(self, host: Host) -> Path:
        return self.roots / host.name

    def states(self, host: Host) -> Mapping[str, Mapping[str, Any]]:
        names = [path.stem for path in (self.root(host) / "etc/systemd/system").glob("*.service")]
        return {
            name: {
                "state": "waiting" if (host.name, name) in self.stopped else "running",
                "last_exit": "exit code 1" if (host.name, name) in self.stopped else "",
                "pid": PID + names.index(name),
            }
            for name in names
        }


class Work:
    """A lab in which everything is done."""

    def __init__(self, folder: Path) -> None:
        self.state = State("lab", folder / "state")
        self.roots = folder / "roots"
        inventory = layout.generate(self.state.root, LAB.cluster_names())
        plan = Prepare(LAB, self.state, Reporter(), steps=STEPS)
        for host in LAB.hosts:
            root = self.roots / host.name
            write_files(root, plan.files(host, inventory, doctor.machine()))
            wants = root / systemd.WANTS.lstrip("/")
            wants.mkdir(parents=True)
            for unit in plan.units(host):
                (wants / f"{unit.name}.service").symlink_to("/etc")
                (wants.parent / f"{unit.name}.service").write_text("")
        self.check = OnFolders(LAB, self.state, Reporter(), roots=self.roots)
        for host in LAB.hosts:
            for name, state in self.check.states(host).items():
                unit = next(unit for unit in plan.units(host) if unit.name == name)
                self.write_command_line(host.name, state["pid"], ("python", *commandlines.wanted(unit)))

    def write_command_line(self, host: str, pid: int, words: tuple[str, ...]) -> None:
        process = self.roots / host / "proc" / str(pid)
        process.mkdir(parents=True, exist_ok=True)
        (process / "cmdline").write_text("\0".join(words) + "\0")

    def pid(self, host: str, unit: str) -> int:
        return int(self.check.states(LAB.host(host))[unit]["pid"])

    def pki(self, name: str) -> Path:
        return self.state.root / "pki" / name

    def on(self, host: str, path: str) -> Path:
        return self.roots / host / path.lstrip("/")

    def findings(self, step: Step) -> list[str]:
        return list(self.check.findings(step))


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def test_nothing_is_wrong_with_what_the_bring_up_does(work: Work) -> None:
    assert {step.name: work.findings(step) for step in STEPS} == {step.name: [] for step in STEPS}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def wrong_host_name(work: Work) -> None:
    edit(work.on("worker-1", "/etc/hosts"), "10.240.0.22 worker-2", "10.240.0.23 worker-2")


def environment_absent(work: Work) -> None:
    work.on("controller-0", "/etc/hardway/host.env").unlink()


def certificate_of_another(work: Work) -> None:
    work.pki("worker-0/kubelet.pem").write_bytes(work.pki("worker-1/kubelet.pem").read_bytes())


def wrong_name_in_certificate(work: Work) -> None:
    folder = work.pki("")
    authority = ensure_authority(folder, "ca", "kubernetes-ca", now=utc_now())
    work.pki("scheduler.pem").unlink()
    ensure_leaf(folder, "scheduler", Profile(common_name="scheduler"), authority, now=utc_now())


def not_copied(work: Work) -> None:
    work.on("controller-2", "/etc/etcd/peer-key.pem").unlink()


def key_for_all_to_read(work: Work) -> None:
    work.on("worker-2", "/etc/kubernetes/pki/kubelet-key.pem").chmod(0o644)


def wrong_server(work: Work) -> None:
    edit(work.pki("scheduler.kubeconfig"), "https://10.240.0.30:6443", "https://10.240.0.10:6443")


def another_users_certificate(work: Work) -> None:
    text = (
        work.pki("admin-inside.kubeconfig").read_text().replace("user: admin", "user: system:kube-scheduler")
    )
    work.pki("scheduler.kubeconfig").write_text(text.replace("name: admin", "name: system:kube-scheduler"))


def short_key(work: Work) -> None:
    path = work.pki("encryption-config.yaml")
    path.write_text(path.read_text().replace("secret: ", "secret: AAAA # "))


def no_identity(work: Work) -> None:
    path = work.pki("encryption-config.yaml")
    path.write_text(path.read_text().replace("  - identity: {}\n", ""))


def not_started(work: Work) -> None:
    work.check.stopped.add(("controller-1", "etcdlite"))


def service_absent(work: Work) -> None:
    work.on("controller-1", "/etc/systemd/system/etcdlite.service").unlink()


def not_enabled(work: Work) -> None:
    work.on("controller-1", f"{systemd.WANTS}/etcdlite.service").unlink()


def other_flag(work: Work) -> None:
    path = work.roots / "controller-0" / "proc" / str(work.pid("controller-0", "etcdlite")) / "cmdline"
    path.write_text(path.read_text().replace("hardway-lab", "hardway-other"))


def flag_missing(work: Work) -> None:
    pid = work.pid("controller-2", "apiserver")
    words = (work.roots / "controller-2" / "proc" / str(pid) / "cmdline").read_text().rstrip("\0").split("\0")
    without = tuple(word for word in words if not word.startswith("--encryption-provider-config"))
    work.write_command_line("controller-2", pid, without)


def forgotten_line(work: Work) -> None:
    edit(work.on("balancer", "/etc/haproxy/haproxy.cfg"), "    mode tcp\n", "")


@pytest.mark.parametrize(
    ("step", "mistake", "sentence"),
    [
        (
            HOSTS,
            wrong_host_name,
            "worker-1: /etc/hosts line 7 is '10.240.0.23 worker-2', must be '10.240.0.22 worker-2'",
        ),
        (HOSTS, environment_absent, "controller-0: /etc/hardway/host.env is absent"),
        (CERTIFICATES, certificate_of_another, "worker-0/kubelet.pem: belongs to another key"),
        (CERTIFICATES, wrong_name_in_certificate, "scheduler.pem: subject is CN=scheduler"),
        (CERTIFICATES, not_copied, "controller-2: /etc/etcd/peer-key.pem is absent"),
        (CERTIFICATES, key_for_all_to_read, "kubelet-key.pem has mode 644 and holds a key: it must be 600"),
        (KUBECONFIGS, wrong_server, "server is https://10.240.0.10:6443, must be https://10.240.0.30:6443"),
        (
            KUBECONFIGS,
            another_users_certificate,
            "scheduler.kubeconfig: its client certificate is not scheduler.pem",
        ),
        (ENCRYPTION, short_key, "has a key of 3 bytes, must be 32"),
        (ENCRYPTION, no_identity, "does not end its providers with identity"),
        (
            STORE,
            not_started,
            "controller-1: etcdlite.service does not run (exit code 1; see /var/log/etcdlite.log)",
        ),
        (STORE, service_absent, "controller-1: etcdlite.service is not in /etc/systemd/system"),
        (STORE, not_enabled, "controller-1: etcdlite.service is not enabled"),
        (
            STORE,
            other_flag,
            "controller-0: etcdlite runs with --initial-cluster-token=hardway-other, must be "
            "--initial-cluster-token=hardway-lab",
        ),
        (CONTROL_PLANE, flag_missing, "controller-2: apiserver runs without --encryption-provider-config="),
        (CONTROL_PLANE, forgotten_line, "balancer: /etc/haproxy/haproxy.cfg line 5 is 'timeout connect 2s'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mistake_is_named(work: Work, step: Step, mistake: Callable[[Work], None], sentence: str) -> None:
    mistake(work)
    findings = work.findings(step)
    assert findings and sentence in findings[0], findings


def test_no_sentence_shows_a_secret(work: Work) -> None:
    secret = work.pki("service-account-key.pem").read_text().splitlines()[1]
    for host in LAB.by_role("controller"):
        work.on(host.name, "/etc/kubernetes/pki/service-account-key.pem").write_text("something else\n")
        work.on(host.name, "/etc/kubernetes/encryption-config.yaml").write_text("something else\n")
    said = "\n".join(work.findings(CERTIFICATES) + work.findings(ENCRYPTION))
    assert "service-account-key.pem is not the file" in said
    assert secret not in said and "secret:" not in said


def test_every_step_can_be_checked() -> None:
    assert [steps.at(step.lab) for step in STEPS] == list(STEPS)


def test_differences_of_texts() -> None:
    assert text_difference(b"a\nb\n", b"a\nc\n") == "line 2 is 'c', must be 'b'"
    assert text_difference(b"a\nb\n", b"a\n") == "ends before line 2, which must be 'b'"
    assert text_difference(b"a\n", b"a\nb\n") == "line 2 is too much: 'b'"
    assert text_difference(b"a\n", b"a") == "differs in blanks or line ends"


def test_differences_of_command_lines() -> None:
    wanted = ("-m", "x", "--a=1", "--b=2")
    assert difference(wanted, wanted) is None
    assert difference(wanted, ("-m", "x", "--a=1")) == "runs without --b=2"
    assert difference(wanted, ("-m", "x", "--a=3", "--b=2")) == "runs with --a=3, must be --a=1"
    assert difference(wanted, (*wanted, "--c")) == "runs with --c, which is too much"


def test_an_object_may_have_more_than_was_applied_but_not_less() -> None:
    wanted = {"spec": {"replicas": 2, "ports": [{"port": 53}]}}
    assert (
        lacks(wanted, {"spec": {"replicas": 2, "ports": [{"port": 53, "name": "x"}]}, "status": {}}) is None
    )
    assert (
        lacks(wanted, {"spec": {"replicas": 1, "ports": [{"port": 53}]}}) == "spec.replicas is 1, must be 2"
    )
    assert lacks(wanted, {"spec": {"replicas": 2, "ports": []}}) is not None
