"""What a kubelet does to a container from outside: HTTP requests, TCP connects and commands, for probes and
hooks.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubelet.cri.port import Runtime, RuntimeFailure, TimedOut

MAX_BODY = 10 * 1024
USER_AGENT = "kube-probe/1.34"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether an action succeeded, and what to tell if not; `ok` None: it could not be asked, nothing is
    known.
    """

    ok: bool | None
    detail: str = ""


def port_number(container: Mapping[str, Any], port: object) -> int:
    """A port given by number or by the name of one of the container's ports; raises ValueError."""
    if isinstance(port, int) or (isinstance(port, str) and port.isdigit()):
        number = int(port)
    else:
        named = (p["containerPort"] for p in container.get("ports", []) if p.get("name") == port)
        number = int(next(named, 0))
    if not 0 < number < 65536:
        raise ValueError(f"couldn't find port: {port}")
    return number


async def act(
    runtime: Runtime,
    container: Mapping[str, Any],
    container_id: str,
    pod_ip: str,
    action: Mapping[str, Any],
    timeout: float,
) -> Outcome:
    """Carry out one handler (exec, httpGet, tcpSocket, sleep) within `timeout` seconds; never raises but
    for cancel.
    """
    try:
        if "exec" in action:
            return await _command(runtime, container_id, action["exec"].get("command", []), timeout)
        if "sleep" in action:
            await asyncio.sleep(float(action["sleep"].get("seconds", 0)))
            return Outcome(True)
        async with asyncio.timeout(timeout):
            if "httpGet" in action:
                return await _http(container, pod_ip, action["httpGet"])
            if "tcpSocket" in action:
                return await _tcp(container, pod_ip, action["tcpSocket"])
            if "grpc" in action:
                return await _grpc(pod_ip, action["grpc"], timeout)
    except (TimeoutError, TimedOut):
        return Outcome(False, f"timeout: no answer within {timeout:g}s")
    except RuntimeFailure as error:
        return Outcome(None, str(error))
    except (OSError, ValueError, EOFError, asyncio.LimitOverrunError) as error:
        return Outcome(False, str(error) or type(error).__name__)
    return Outcome(False, f"handler {sorted(action)} is not supported")


async def _command(runtime: Runtime, container_id: str, command: list[str], timeout: float) -> Outcome:
    result = await runtime.exec_sync(container_id, list(command), timeout)
    output = (result.stdout + result.stderr)[:MAX_BODY].decode("utf-8", "replace")
    return Outcome(result.exit_code == 0, output or f"command exited with {result.exit_code}")


async def _tcp(container: Mapping[str, Any], pod_ip: str, action: Mapping[str, Any]) -> Outcome:
    port = port_number(container, action["port"])
    _, writer = await asyncio.open_connection(action.get("host") or pod_ip, port)
    writer.close()
    return Outcome(True)


def _unverified() -> ssl.SSLContext:
    """Probes do not verify: they ask whether the container answers, not who it is."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _http(container: Mapping[str, Any], pod_ip: str, action: Mapping[str, Any]) -> Outcome:
    port = port_number(container, action["port"])
    host = action.get("host") or pod_ip
    secure = str(action.get("scheme", "HTTP")).upper() == "HTTPS"
    path = action.get("path") or "/"
    path = path if path.startswith("/") else f"/{path}"
    headers = {h["name"]: h["value"] for h in action.get("httpHeaders", [])}
    lowered = {name.lower() for name in headers}
    defaults = {"Host": f"{host}:{port}", "User-Agent": USER_AGENT, "Accept": "*/*", "Connection": "close"}
    headers = {name: value for name, value in defaults.items() if name.lower() not in lowered} | headers
    reader, writer = await asyncio.open_connection(host, port, ssl=_unverified() if secure else None)
    try:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
        status_line = (await reader.readline()).decode("latin-1").split()
        code = int(status_line[1])
    except IndexError:
        return Outcome(False, "malformed HTTP response")
    finally:
        with contextlib.suppress(OSError):
            writer.close()
    return Outcome(200 <= code < 400, f"HTTP probe failed with statuscode: {code}")


async def _grpc(pod_ip: str, action: Mapping[str, Any], timeout: float) -> Outcome:
    """The standard health service (grpc.health.v1), its two one-field messages written by hand."""
    import grpc.aio

    service = str(action.get("service") or "").encode()
    request = b"\x0a" + bytes([len(service)]) + service if service else b""
    async with grpc.aio.insecure_channel(f"{pod_ip}:{int(action['port'])}") as channel:
        try:
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            answer: bytes = await check(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return Outcome(False, f"grpc health check failed: {error.code().name}")
    return Outcome(answer == b"\x08\x01", "service unhealthy")
