"""Network namespaces without a name: each lives as long as the process that holds it, and leaves no
mount behind (`ip netns add` makes /run/netns a shared mount that stays).
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

OURS = Path("/proc/self/ns/net")


@contextlib.contextmanager
def namespace() -> Iterator[int]:
    """A fresh namespace, as the pid of the process that is in it; `/proc/<pid>/ns/net` is its file."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "3600"])
    try:
        deadline = time.monotonic() + 60
        while Path(f"/proc/{holder.pid}/ns/net").readlink() == OURS.readlink():
            assert time.monotonic() < deadline, "unshare did not make a namespace"
            time.sleep(0.005)
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()
