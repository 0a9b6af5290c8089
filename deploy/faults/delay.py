"""Latency on everything that enters or leaves one network namespace by one device.

tc-netem(8) is a kernel module that many kernels are built without, so packets are held back in a helper
process instead: iptables hands each to a queue (NFQUEUE), the helper is told its number and lets it go on
when its time has come. Only numbers leave the kernel, not packets. A queue without a helper lets everything
through (`--queue-bypass`), so a helper that is killed ends the fault, and nothing hangs.

    python -m deploy.faults.delay NAMESPACE NAME MILLISECONDS JITTER

is the helper. It ends when somebody connects to the abstract socket of its NAME.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from componentbase import linux
from deploy import namespaces
from deploy.faults.fault import Fault, FaultError
from deploy.faults.network import run_inside

QUEUE = 4711
QUEUE_LENGTH = 1 << 16
BUFFER = 1 << 22
START_TIMEOUT = 20.0

NETLINK_NETFILTER = 12
NLM_F_REQUEST, NLM_F_ACK = 1, 4
NLMSG_ERROR = 2
SUBSYSTEM = 3 << 8  # NFNL_SUBSYS_QUEUE; the messages: <linux/netfilter/nfnetlink_queue.h>
PACKET, VERDICT, CONFIG = SUBSYSTEM | 0, SUBSYSTEM | 1, SUBSYSTEM | 2
CFG_CMD, CFG_PARAMS, CFG_MAXLEN, CFG_MASK, CFG_FLAGS = 1, 2, 3, 4, 5
PACKET_HDR, VERDICT_HDR = 1, 2
BIND, COPY_META, FLAG_GSO, ACCEPT = 1, 1, 4, 1
HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
GENERIC = struct.Struct(">BBH")  # struct nfgenmsg: family, version, queue


def delayed(
    namespace: str | Path, milliseconds: float, jitter: float = 0.0, *, device: str = "eth0", name: str
) -> Fault:
    """Each packet in or out of `device` waits `milliseconds`, more or less up to `jitter` by chance.

    `name` tells this fault from others of the machine, for whoever undoes it. Raises FaultError.
    """

    def apply() -> None:
        argv = [sys.executable, "-m", "deploy.faults.delay", os.fspath(namespace), name]
        helper = subprocess.Popen(
            [*argv, str(milliseconds), str(jitter)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        )
        _await_ready(helper)
        for rule in _rules(device, name):
            run_inside(namespace, "iptables", "-w", "-t", "mangle", "-A", *rule)

    def undo() -> None:
        if Path(namespace).exists():
            for rule in _rules(device, name):
                with contextlib.suppress(FaultError):  # it was not there
                    run_inside(namespace, "iptables", "-w", "-t", "mangle", "-D", *rule)
        _tell_to_end(name)

    return Fault(f"delay of {milliseconds:g} ms at {namespace} {device}", apply, undo)


def _rules(device: str, name: str) -> list[list[str]]:
    tail = ["-m", "comment", "--comment", name, "-j", "NFQUEUE", "--queue-num", str(QUEUE), "--queue-bypass"]
    return [["PREROUTING", "-i", device, *tail], ["POSTROUTING", "-o", device, *tail]]


def _await_ready(helper: subprocess.Popen[bytes]) -> None:
    assert helper.stdout is not None and helper.stderr is not None
    with helper.stdout, helper.stderr:
        ready, _, _ = select.select([helper.stdout], [], [], START_TIMEOUT)
        started = bool(ready) and helper.stdout.readline() == b"ready\n"
        if not started:
            helper.kill()
        said = "" if started else helper.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
    helper.wait()  # what serves is its child: nobody has to wait for the end of that one
    if not started:
        raise FaultError(f"delay: the helper did not start: {said or 'no answer'}")


def _socket_name(name: str) -> str:
    return f"\0hardway-delay-{name}"


def _tell_to_end(name: str) -> None:
    """Connect, and wait until the helper has closed the line by ending."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line, contextlib.suppress(OSError):
        line.settimeout(START_TIMEOUT)
        line.connect(_socket_name(name))
        line.recv(1)


# -- the helper ----------------------------------------------------------------------------------------------


def _attribute(kind: int, data: bytes) -> bytes:
    """struct nlattr and its payload, padded to four bytes."""
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def message(kind: int, flags: int, *attributes: tuple[int, bytes]) -> bytes:
    """One netlink message to the queue."""
    body = GENERIC.pack(socket.AF_UNSPEC, 0, QUEUE) + b"".join(_attribute(*one) for one in attributes)
    return HEADER.pack(HEADER.size + len(body), kind, flags, 0, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and body of each message in what was received."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, _, _, _ = HEADER.unpack_from(data, offset)
        yield kind, data[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def packet_number(body: bytes) -> int | None:
    """The number of a queued packet, out of the body of its message."""
    offset = GENERIC.size
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if kind & 0x3FFF == PACKET_HDR:
            return int(struct.unpack_from(">I", body, offset + 4)[0])
        offset += max(4, (length + 3) & ~3)
    return None


def _configure(queue: socket.socket, *attributes: tuple[int, bytes]) -> None:
    queue.send(message(CONFIG, NLM_F_REQUEST | NLM_F_ACK, *attributes))
    for kind, body in messages(queue.recv(1 << 16)):
        if kind == NLMSG_ERROR and (code := -struct.unpack_from("=i", body)[0]):
            raise OSError(code, f"nfnetlink_queue: {os.strerror(code)}")


def open_queue() -> socket.socket:
    """The queue of the network namespace that this thread is in. Raises OSError."""
    queue = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    queue.bind((0, 0))
    queue.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    _configure(queue, (CFG_CMD, struct.pack(">BBH", BIND, 0, 0)))
    _configure(queue, (CFG_PARAMS, struct.pack(">IB", 0, COPY_META)))
    _configure(queue, (CFG_MAXLEN, struct.pack(">I", QUEUE_LENGTH)))
    # Large segments stay whole: they are split behind us, as they would have been.
    _configure(queue, (CFG_MASK, struct.pack(">I", FLAG_GSO)), (CFG_FLAGS, struct.pack(">I", FLAG_GSO)))
    return queue


def serve(queue: socket.socket, end: socket.socket, delay: float, jitter: float) -> None:
    """Let every packet go on when its time has come, until somebody connects to `end`. Times in seconds."""
    held: list[tuple[float, int]] = []  # a heap
    chance = random.Random()
    while True:
        wait = max(0.0, held[0][0] - time.monotonic()) if held else None
        ready, _, _ = select.select([queue, end], [], [], wait)
        if end in ready:
            return
        if queue in ready:
            for number in _received(queue):
                due = time.monotonic() + max(0.0, delay + chance.uniform(-jitter, jitter))
                heapq.heappush(held, (due, number))
        now = time.monotonic()
        while held and held[0][0] <= now:
            _, number = heapq.heappop(held)
            verdict = struct.pack(">II", ACCEPT, number)
            with contextlib.suppress(OSError):  # the packet's namespace or device went away
                queue.send(message(VERDICT, NLM_F_REQUEST, (VERDICT_HDR, verdict)))


def _received(queue: socket.socket) -> Iterator[int]:
    try:
        data = queue.recv(1 << 16)
    except OSError as error:
        if error.errno != errno.ENOBUFS:  # a burst was lost, as on any full link
            raise
        return
    for kind, body in messages(data):
        number = packet_number(body) if kind == PACKET else None
        if number is not None:
            yield number


def main(argv: Sequence[str]) -> int:
    """`NAMESPACE NAME MILLISECONDS JITTER`."""
    namespace, name, milliseconds, jitter = argv
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.bind(_socket_name(name))
        end.listen(1)
        home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.enter_network(namespace)
        try:
            queue = open_queue()
        finally:
            # Packets come by the socket; `end` and whoever knocks at it stay in the network they began in.
            linux.setns(home, linux.CLONE_NEWNET)
            os.close(home)
        with queue:
            if os.fork() != 0:
                return 0
            os.write(1, b"ready\n")
            os.close(1)
            os.close(2)
            serve(queue, end, float(milliseconds) / 1000, float(jitter) / 1000)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
