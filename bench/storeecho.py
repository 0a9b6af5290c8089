"""One process that answers what it is asked, by `componentbase.grpcwire` or by grpcio's asyncio server: what
a store in Python cannot be faster than.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop

from bench.storecluster import make_pki
from componentbase import tlsutil
from componentbase.grpcwire.server import Call, Server, Unary

METHOD = "/bench.Echo/Echo"


async def _grpcwire(pki: Path) -> None:
    async def echo(message: bytes, call: Call) -> bytes:
        return message

    tls = tlsutil.server_context(pki / "member.pem", pki / "member-key.pem", pki / "ca.pem", True)
    async with Server({METHOD: Unary(echo)}) as server:
        print(await server.listen("127.0.0.1", 0, tls), flush=True)
        await asyncio.Event().wait()


async def _grpcio(pki: Path) -> None:
    import grpc
    import grpc.aio

    async def echo(message: bytes, context: Any) -> bytes:
        return message

    server = grpc.aio.server()
    methods: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", methods),))
    pair = ((pki / "member-key.pem").read_bytes(), (pki / "member.pem").read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (pki / "ca.pem").read_bytes(), True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


@contextlib.contextmanager
def serving(kind: str) -> Iterator[tuple[int, int, Path]]:
    """Port, process and certificates of a server of this kind."""
    with tempfile.TemporaryDirectory(prefix="hardway-echo-") as name:
        pki = Path(name)
        make_pki(pki)
        argv = [sys.executable, "-m", "bench.storeecho", kind, name]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield int(process.stdout.readline()), process.pid, pki
            finally:
                process.kill()


if __name__ == "__main__":
    uvloop.run({"grpcwire": _grpcwire, "grpcio": _grpcio}[sys.argv[1]](Path(sys.argv[2])))
