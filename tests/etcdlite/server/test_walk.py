"""A walk through the commands of etcdctl, the same on etcdlite and on the real etcd, with the same results.

A walk is a list of steps; each adds lines to a transcript: what the command printed, with its exit status.
What cannot be equal (ids, addresses, sizes, times) is replaced by its kind before transcripts are compared.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.etcdlite.server import members
from tests.etcdlite.server.members import MemberProcess, running, running_cluster
from tests.ports import free_port

pytestmark = pytest.mark.skipif(
    shutil.which("etcdctl") is None or not members.installed("etcd"), reason="etcd is not installed"
)

_REPLACED: Sequence[tuple[str, str]] = (
    (r"https?://[\w.:-]+", "URL"),
    (r"127\.0\.0\.1:\d+", "URL"),
    (r"/\S*/(m\d|backup)", r"PATH/\1"),
    (r"\b[0-9a-f]{12,16}\b", "ID"),
    (r'"(ClusterID|MemberID)" : \d+', r'"\1" : N'),
    (r"remaining\(\d+s\)", "remaining"),
    (r"^\d+-\d+-\d+ [\d:.]+ ", ""),  # time stamps of the client's log
    (r"  +", " "),
    (r"-{3,}", "---"),
    (r"memberID:\d+", "memberID"),
    (r'CLUSTER=".*"', "CLUSTER"),  # in the order of ids
    (r"took = [\d.]+\S+", "took"),
    (r"\(took [^)]*\)", "(took)"),
    (r'"(cluster_id|member_id|leader|raft_term|raftTerm|raftIndex|raftAppliedIndex|hash|ID)":\d+', r'"\1":N'),
    (r'"(dbSize|dbSizeInUse|version|took)":("[^"]*"|\d+)', r'"\1":V'),
    (r'\{"level":.*', ""),  # the client's own log lines
)


class Walker:
    """Runs etcdctl and keeps the transcript."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.transcript: list[str] = []

    def __call__(self, *words: str, stdin: str = "", silent: bool = False, ordered: bool = True) -> str:
        """Run a command; its own output, as it is. Unless `ordered`, lines are compared as a set."""
        environment = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": self.url}
        done = subprocess.run(
            ["etcdctl", *words], input=stdin, capture_output=True, text=True, timeout=60, env=environment
        )
        if not silent:
            said = normal(done.stdout + done.stderr)
            said = said if ordered else sorted(said)
            self.transcript += [f"$ {normal(' '.join(words))}", *said, f"-> {done.returncode}"]
        return done.stdout

    def background(self, *words: str) -> subprocess.Popen[str]:
        """Start a command that does not end by itself."""
        environment = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": self.url}
        return subprocess.Popen(
            ["etcdctl", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def lines(self, process: subprocess.Popen[str], count: int) -> None:
        """Take so many lines of a background command into the transcript."""
        assert process.stdout is not None
        self.transcript += [line for _ in range(count) for line in normal(process.stdout.readline())]


def normal(text: str) -> list[str]:
    for pattern, kind in _REPLACED:
        text = re.sub(pattern, kind, text, flags=re.MULTILINE)
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def walk_keys(ctl: Walker) -> None:
    ctl("put", "/a", "1")
    ctl("put", "/b", "2", "--prev-kv")
    ctl("put", "/a", "3", "--prev-kv")
    ctl("put", "/none", "--ignore-value")
    ctl("put", "", "x")
    ctl("get", "/", "--prefix")
    ctl("get", "/a", "-w", "json")
    ctl("get", "/a", "--rev=2")
    ctl("get", "/a", "--rev=999")
    ctl("get", "/a", "-w", "fields")
    ctl("get", "/", "--prefix", "--sort-by=MODIFY", "--order=DESCEND", "--limit=1")
    ctl("get", "/", "--prefix", "--count-only", "-w", "fields")
    ctl("txn", stdin='value("/a") = "3"\n\nput /a 4\nget /a\ndel /b\n\nget /b\n\n')
    ctl("txn", stdin='mod("/a") < "2"\n\nput /a 5\n\nget /\n\n')
    ctl("del", "/", "--prefix", "--prev-kv")
    ctl("del", "/nothing")


def walk_watch(ctl: Walker) -> None:
    start = int(re.findall(r'"revision":(\d+)', ctl("get", "/w", "-w", "json", silent=True))[0]) + 1
    for number in range(3):
        ctl("put", "/w", str(number))
    ctl("del", "/w")
    with ctl.background("watch", "/w", f"--rev={start}", "--prev-kv") as watch:
        ctl.lines(watch, 3 + 5 + 5 + 5)
        watch.kill()
    ctl("compaction", str(start + 1))
    ctl("compaction", str(start + 1))
    ctl("compaction", "99999")
    ctl("get", "/w", f"--rev={start}")
    with ctl.background("watch", "/w", f"--rev={start}") as watch:
        ctl.transcript += normal(watch.communicate(timeout=20)[1])


def walk_leases(ctl: Walker) -> None:
    lease = ctl("lease", "grant", "100").split()[1]
    ctl("put", "/leased", "x", f"--lease={lease}")
    ctl("lease", "timetolive", lease, "--keys")
    ctl("lease", "keep-alive", "--once", lease)
    ctl("lease", "list")
    ctl("get", "/leased")
    ctl("lease", "revoke", lease)
    ctl("get", "/leased")
    ctl("lease", "revoke", lease)
    ctl("lease", "timetolive", lease)
    ctl("put", "/leased", "x", "--lease=1234")
    ctl("lease", "grant", "0")
    ctl("lease", "list")


def walk_cluster_of_one(ctl: Walker) -> None:
    ctl("put", "/one", "1")
    ctl("endpoint", "health")
    ctl("endpoint", "status", "-w", "json")
    ctl("endpoint", "hashkv", "-w", "json")
    ctl("member", "list")
    ctl("member", "list", "-w", "table")
    ctl("alarm", "list")
    ctl("alarm", "disarm")
    ctl("defrag")
    ctl("member", "remove", "1234")
    ctl("member", "promote", "1234")
    ctl("move-leader", "1234")
    ctl("snapshot", "save", str(ctl.folder / "backup"))
    ctl("version")


def walk_coordination(ctl: Walker) -> None:
    ctl("lock", "mutex", "echo", "held")
    first = ctl.background("elect", "cabinet", "one")
    ctl.lines(first, 2)
    second = ctl.background("elect", "cabinet", "two")
    with ctl.background("elect", "-l", "cabinet") as observer:
        ctl.lines(observer, 2)
        first.send_signal(2)
        first.communicate(timeout=10)
        ctl.lines(second, 2)
        ctl.lines(observer, 2)
        observer.kill()
    second.send_signal(2)
    second.communicate(timeout=10)
    ctl("get", "cabinet", "--prefix")


def walk_auth(ctl: Walker) -> None:
    ctl("auth", "enable")
    ctl("role", "add", "reader")
    ctl("role", "add", "reader")
    ctl("role", "grant-permission", "reader", "read", "/pub/", "/pub0")
    ctl("role", "grant-permission", "reader", "readwrite", "/own")
    ctl("role", "grant-permission", "nobody", "read", "/own")
    ctl("role", "get", "reader")
    ctl("role", "get", "nobody")
    ctl("role", "revoke-permission", "reader", "/nothing")
    ctl("user", "add", "root:secret")
    ctl("user", "add", "root:secret")
    ctl("user", "add", ":x")
    ctl("auth", "enable")
    ctl("user", "grant-role", "root", "root")
    ctl("user", "add", "ann:pw")
    ctl("user", "grant-role", "ann", "reader")
    ctl("user", "grant-role", "ann", "nobody")
    ctl("user", "revoke-role", "ann", "root")
    ctl("user", "get", "ann")
    ctl("user", "get", "bob")
    ctl("user", "list")
    ctl("role", "list")
    ctl("put", "/pub/x", "1")
    ctl("auth", "enable")
    _walk_enabled(ctl)
    ctl("--user=root:secret", "auth", "disable")
    ctl("auth", "disable")
    ctl("get", "/pub/x")
    ctl("user", "delete", "ann")
    ctl("user", "delete", "ann")
    ctl("role", "delete", "reader")
    ctl("role", "delete", "reader")


def _walk_enabled(ctl: Walker) -> None:
    ann, root = "--user=ann:pw", "--user=root:secret"
    ctl("get", "/pub/x")
    ctl("put", "/pub/x", "2")
    ctl("user", "list")
    ctl(ann, "get", "/pub/x")
    ctl(ann, "get", "/pub/", "--prefix")
    ctl(ann, "get", "/", "--prefix")
    ctl(ann, "put", "/pub/x", "2")
    ctl(ann, "put", "/own", "mine", "--prev-kv")
    ctl(ann, "del", "/own", "--prev-kv")
    ctl(ann, "del", "/own", "--prefix")
    ctl(ann, "txn", stdin='value("/own") = "x"\n\nput /own 1\n\nget /pub/x\n\n')
    ctl(ann, "txn", stdin='value("/secret") = "x"\n\nput /own 1\n\nget /pub/x\n\n')
    ctl(ann, "user", "list")
    ctl(ann, "user", "get", "ann")
    ctl(ann, "user", "get", "root")
    ctl(ann, "role", "get", "reader")
    ctl(ann, "snapshot", "save", str(ctl.folder / "backup"))
    ctl(ann, "defrag")
    ctl(ann, "endpoint", "hashkv")
    ctl(ann, "member", "remove", "1234")
    ctl("--user=ann:wrong", "get", "/pub/x")
    ctl("--user=bob:pw", "get", "/pub/x")
    ctl(root, "get", "/", "--prefix", "--keys-only")
    ctl(root, "user", "passwd", "ann", "--interactive=false", stdin="new\n")
    ctl(ann, "get", "/pub/x")
    ctl("--user=ann:new", "get", "/pub/x")
    with ctl.background("--user=ann:new", "watch", "/secret") as watch:
        ctl.transcript += normal(watch.communicate(timeout=20)[1])
    ctl(root, "user", "delete", "root")
    ctl(root, "role", "delete", "root")
    ctl(root, "user", "revoke-role", "root", "root")
    ctl(root, "role", "revoke-permission", "reader", "/pub/", "/pub0")
    ctl("--user=ann:new", "get", "/pub/x")


def walk_quota(ctl: Walker) -> None:
    """Run with a quota of 1 MiB: full, alarmed, emptied, disarmed."""
    refused = False
    for number in range(200):
        stored = ctl("put", f"/big/{number}", "x" * 20_000, silent=True)
        if not stored:
            refused = True
            break
    ctl.transcript.append(f"refused: {refused}")
    time.sleep(1.5)  # the alarm goes through the log
    ctl("put", "/more", "x")
    ctl("lease", "grant", "10")
    ctl("txn", stdin='value("/more") = "x"\n\nput /more 1\n\nget /more\n\n')
    ctl("alarm", "list")
    ctl("endpoint", "health")
    ctl("get", "/more")
    revision = re.findall(r'"revision":(\d+)', ctl("get", "/w", "-w", "json", silent=True))[0]
    ctl("del", "/big", "--prefix", silent=True)
    ctl("compaction", "--physical", str(int(revision) + 1), silent=True)
    ctl("defrag")
    ctl("alarm", "disarm")
    ctl("alarm", "list")
    ctl("put", "/more", "x")
    ctl("endpoint", "health")


WALKS = (
    walk_keys,
    walk_watch,
    walk_leases,
    walk_cluster_of_one,
    walk_coordination,
    walk_auth,
    walk_quota,
)


def compare(ours: Walker, real: Walker) -> None:
    """Step by step, so that a failure names the command."""

    def steps(walker: Walker) -> list[str]:
        return "\n".join(walker.transcript).split("\n$ ")

    for mine, theirs in zip(steps(ours), steps(real), strict=True):
        assert mine == theirs


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.__name__.removeprefix("walk_"))
def test_walk(walk: Callable[[Walker], None], tmp_path: Path) -> None:
    walkers: list[Walker] = []
    for kind in members.KINDS:
        folder = tmp_path / kind
        folder.mkdir()
        extra = ["--quota-backend-bytes=1048576"] if walk is walk_quota else []
        with running(kind, folder, extra=extra) as member:
            walkers.append(Walker(member.client_url, folder))
            walk(walkers[-1])
    compare(*walkers)


def test_make_mirror(tmp_path: Path) -> None:
    """From each kind of store to the other one."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with running("etcdlite", tmp_path / "a") as ours, running("etcd", tmp_path / "b") as real:
        for source, target in ((ours, real), (real, ours)):
            here, there = Walker(source.client_url, tmp_path), Walker(target.client_url, tmp_path)
            here("put", f"/m/{source.client_url}", "before")
            mirror = here.background("make-mirror", "--prefix=/m/", target.client_url.removeprefix("http://"))
            try:
                _until(lambda t=there, s=source: "before" in t("get", f"/m/{s.client_url}"))  # type: ignore[misc]
                here("put", f"/m/{source.client_url}", "after")
                _until(lambda t=there, s=source: "after" in t("get", f"/m/{s.client_url}"))  # type: ignore[misc]
            finally:
                mirror.kill()
                mirror.communicate()


@pytest.mark.skipif(os.environ.get("HARDWAY_LONG") != "1", reason="a minute for each; HARDWAY_LONG=1 runs it")
@pytest.mark.serial
@pytest.mark.parametrize("kind", members.KINDS)
def test_check_perf(tmp_path: Path, kind: str) -> None:
    with running(kind, tmp_path) as one:
        environment = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": one.client_url}
        done = subprocess.run(
            ["etcdctl", "check", "perf"], capture_output=True, text=True, timeout=110, env=environment
        )
        assert done.returncode == 0 and "PASS: Throughput is" in done.stdout, done.stdout[-500:]


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.2)


def _id_of(ctl: Walker, url: str) -> str:
    """The id of the member with that peer URL."""
    listed = ctl("member", "list", silent=True).splitlines()
    return next(line.split(",")[0] for line in listed if url in line)


def _add(ctl: Walker, kind: str, running_now: list[MemberProcess], name: str, *flags: str) -> MemberProcess:
    url = f"http://127.0.0.1:{free_port()}"
    ctl("member", "add", name, f"--peer-urls={url}", *flags)
    known = [f"m{n}={each.peer_url}" for n, each in enumerate(running_now)]
    cluster = ",".join([*known, f"{name}={url}"])
    return members.member(kind, ctl.folder, name, cluster=cluster, extra=["--initial-cluster-state=existing"])


def walk_membership(ctl: Walker, kind: str, now: list[MemberProcess]) -> None:
    ctl("put", "/before", "x")
    time.sleep(6)  # the real etcd refuses changes until all members have been connected for five seconds
    learner = _add(ctl, kind, now, "m3", "--learner")
    ctl("member", "add", "m4", "--peer-urls=http://127.0.0.1:1", "--learner")
    ctl("member", "add", "m4", f"--peer-urls={now[0].peer_url}")
    id = _id_of(ctl, learner.peer_url)
    ctl("member", "promote", id)
    learner.start()
    now.append(learner)
    learner.wait_ready()
    for words in (("get", "/before", "--consistency=s"), ("get", "/before"), ("put", "/x", "1")):
        ctl(f"--endpoints={learner.client_url}", *words)
    end = time.monotonic() + 15
    while "promoted" not in ctl("member", "promote", id, silent=True) and time.monotonic() < end:
        time.sleep(0.3)
    ctl("member", "promote", id)
    ctl(f"--endpoints={learner.client_url}", "get", "/before")
    ctl("endpoint", "health", "--cluster")
    ctl("member", "update", id, f"--peer-urls={learner.peer_url},http://127.0.0.1:{free_port()}")
    ctl("member", "remove", id)
    assert learner.process is not None
    ctl.transcript.append(f"removed member ends with {learner.process.wait(30) != 0 or kind == 'etcd'}")
    learner.process = None
    ctl("member", "remove", id)
    ctl("member", "list", ordered=False)


def walk_transfer(ctl: Walker, kind: str, now: list[MemberProcess]) -> None:
    ids = {_id_of(ctl, each.peer_url): each for each in now}
    leaders = [
        line for line in ctl("endpoint", "status", "--cluster", silent=True).splitlines() if "true" in line
    ]
    leader = next(id for id, each in ids.items() if each.client_url in leaders[0])
    target = next(id for id in ids if id != leader)
    everybody = "--endpoints=" + ",".join(each.client_url for each in now)
    ctl(f"--endpoints={ids[target].client_url}", "move-leader", target)
    ctl(everybody, "move-leader", target)
    ctl(f"--endpoints={ids[target].client_url}", "move-leader", leader)
    ctl(f"--endpoints={ids[leader].client_url}", "move-leader", "1234")


@pytest.mark.parametrize("walk", [walk_membership, walk_transfer])
def test_walk_of_three(walk: Callable[[Walker, str, list[MemberProcess]], None], tmp_path: Path) -> None:
    walkers: list[Walker] = []
    for kind in members.KINDS:
        folder = tmp_path / kind
        folder.mkdir()
        with running_cluster(folder, kind=kind) as now:
            walkers.append(Walker(now[0].client_url, folder))
            walk(walkers[-1], kind, now)
    compare(*walkers)
