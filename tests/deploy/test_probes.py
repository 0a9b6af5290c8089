"""Probes against small local servers: what counts as an answer."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable

import pytest

from deploy import probes

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="setns needs root")]
HERE = "/proc/self/ns/net"


def test_a_query_is_what_rfc_1035_says() -> None:
    query = probes.dns_query("a.bc.", 0x1234)
    assert query == b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02bc\x00\x00\x01\x00\x01"


@pytest.mark.parametrize(
    ("answer", "lacking"),
    [
        (lambda query: query[:2] + struct.pack(">HHHHH", 0x8400, 1, 1, 0, 0) + query[12:], None),
        (
            lambda query: query[:2] + struct.pack(">HHHHH", 0x8403, 1, 0, 0, 0) + query[12:],
            "code 3, 0 answers",
        ),
        (lambda query: b"\0", "too short"),
    ],
    ids=["address", "no such name", "garbage"],
)
def test_dns(answer: Callable[[bytes], bytes], lacking: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    server.settimeout(5)
    port = server.getsockname()[1]
    connect = socket.socket.connect

    class Redirected(socket.socket):
        def connect(self, address: tuple[str, int]) -> None:  # type: ignore[override]
            connect(self, (address[0], port))

    monkeypatch.setattr(probes.socket, "socket", Redirected)  # type: ignore[attr-defined]

    def serve() -> None:
        query, client = server.recvfrom(1500)
        server.sendto(answer(query), client)

    thread = threading.Thread(target=serve)
    thread.start()
    found = probes.dns_lacking(HERE, "127.0.0.1", "x.y")
    thread.join()
    server.close()
    assert found is None if lacking is None else lacking in (found or "")


def test_a_closed_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    found = probes.lacking(HERE, "127.0.0.1", port, "/readyz")
    assert found == f"127.0.0.1:{port}/readyz: [Errno 111] Connection refused"
