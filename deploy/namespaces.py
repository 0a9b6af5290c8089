"""Into the namespaces of a host, and out of the machine's.

All raise OSError with the target's name.
"""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from componentbase.linux import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    join,
    setns,
)

HOST_NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET


def enter_network(path: str | Path) -> None:
    """Leave the present network namespace for the one at `path`; for a process that has no way back to go.

    Whoever is root only in a user namespace may leave the machine's network, and not return to it: others
    use `socket_in`, or a child.
    """
    join(path, CLONE_NEWNET)


def socket_in(path: str | Path, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """A socket of the network namespace at `path`, where it stays whoever uses it. Raises OSError.

    Made by a thread that ends in there: a namespace is a thread's, and no other code ever runs in it.
    """
    made: list[socket.socket | OSError] = []

    def make() -> None:
        try:
            enter_network(path)
            made.append(socket.socket(family, kind))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make, name="socket")
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def enter(pid: int, *, processes: bool = True) -> None:
    """Join the namespaces of the host whose pid 1 is `pid`.

    With `processes`, a child forked afterwards is inside its PID namespace, and the caller itself can no
    longer start threads (clone(2): EINVAL when the namespace for children differs): a caller that goes on to
    execute a program without forking leaves it out.
    """
    kinds = ("mnt", "uts", "ipc", "net", *(("pid",) if processes else ()))
    descriptors = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
    for descriptor in descriptors:
        setns(descriptor)
        os.close(descriptor)
