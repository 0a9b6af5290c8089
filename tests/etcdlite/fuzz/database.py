"""`python -m tests.etcdlite.fuzz.database FOLDER SEED COUNT`: open damaged databases, each in a process of
its own, since LMDB maps the file and a bad one may take the process with it. Prints what came of them.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from pathlib import Path

from etcdlite.consensus.statemachine import Entry
from etcdlite.mvcc.errors import DatabaseDamaged
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.pb.internal_pb2 import InternalRaftRequest
from etcdlite.server.machine import Machine
from tests.etcdlite.fuzz.damage import damaged

OUTCOMES = {0: "the truth", 1: "refused by name", 2: "another error", 3: "a wrong answer"}


def open_machine(path: Path) -> Machine:
    return Machine(path, quota_bytes=1 << 24, minimum_lease_ttl=2, on_applied=lambda id, outcome: None)


def everything(machine: Machine) -> tuple[int, list[bytes]]:
    """The revision and all keys with their values."""
    view = machine.store.view()
    return view.main, view.values(list(view.scan(b"\0", b"\0")))


def make(path: Path) -> tuple[int, list[bytes]]:
    machine = open_machine(path)
    for index in range(1, 500):
        request = rpc.PutRequest(key=b"k%d" % (index % 40), value=b"v" * (index % 300))
        machine.apply([Entry(index, 1, InternalRaftRequest(put=request).SerializeToString())])
    machine._flush_now()
    truth = everything(machine)
    machine.backend.close()
    return truth


def look(path: Path, truth: tuple[int, list[bytes]]) -> int:
    try:
        found = everything(open_machine(path))
    except DatabaseDamaged:
        return 1
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return 2
    # A file whose newest page was lost is an older state, whole; its member has the rest in its log.
    return 0 if found == truth or found[0] < truth[0] else 3


def main() -> None:
    folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    truth = make(folder / "good")
    good = (folder / "good").read_bytes()
    chance, outcomes = random.Random(seed), Counter[str]()
    for _ in range(count):
        bad = folder / "bad"
        bad.write_bytes(damaged(good, chance))
        pid = os.fork()
        if pid == 0:
            os._exit(look(bad, truth))
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status)
        outcomes[f"signal {os.WTERMSIG(status)}" if killed else OUTCOMES[os.WEXITSTATUS(status)]] += 1
    for outcome, times in sorted(outcomes.items()):
        print(f"{outcome}: {times}")


if __name__ == "__main__":
    main()
