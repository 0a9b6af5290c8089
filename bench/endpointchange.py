"""From a change of a Service's endpoint to the first packet that goes there: the slice is written to the API,
a client on a node connects to the Service's address meanwhile. The limit beside it: the watch event alone, as
a client of the API sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import namespaces
from deploy.control import Control
from deploy.state import State
from deploy.topology import Topology
from kubeclient.resources import ENDPOINTSLICES, SERVICES
from kubeclient.rest import RestClient

NAMESPACE, NAME = "default", "bench-endpoint"
SERVERS, CLIENT = ("worker-1", "worker-2"), "worker-0"
PORT = 9911
ROUNDS = 15
PAUSE = 1.5  # seconds between changes: longer than the proxy waits between two syncs
LIMIT = 60.0

Object = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """Medians and maxima in seconds: to the first packet, and to the watch event."""

    packet: float
    slowest: float
    event: float


def slice_to(address: str) -> Object:
    """The Service's only EndpointSlice, leading to one server."""
    return {
        "apiVersion": ENDPOINTSLICES.api_version,
        "kind": ENDPOINTSLICES.kind,
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": NAME},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": PORT, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }


@contextlib.contextmanager
def server(namespace: str, address: str) -> Iterator[None]:
    """A server on a host that tells every caller its address and hangs up."""
    listening = namespaces.socket_in(namespace, socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((address, PORT))
    listening.listen()

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(address.encode())

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


def reached(namespace: str, service: str, wanted: str) -> float:
    """The moment at which the Service first led to `wanted`; blocks. Raises TimeoutError."""
    moments: list[float] = []

    def look() -> None:
        namespaces.enter_network(namespace)  # for good: the thread ends in there
        deadline = time.perf_counter() + LIMIT
        while time.perf_counter() < deadline and not moments:
            with contextlib.suppress(OSError), socket.create_connection((service, 80), 1) as connection:
                if connection.recv(64).decode() == wanted:
                    moments.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=look, name="client")
    thread.start()
    thread.join()
    if not moments:
        raise TimeoutError(f"{service} does not lead to {wanted} within {LIMIT:g} s")
    return moments[0]


async def _seen(client: RestClient, version: str, wanted: str) -> float:
    async with asyncio.timeout(LIMIT):
        watch = client.watch(ENDPOINTSLICES, NAMESPACE, resource_version=version)
        async with contextlib.aclosing(watch) as events:
            async for event in events:
                endpoints = event.object.get("endpoints") or [{"addresses": []}]
                if event.object["metadata"].get("name") == NAME and wanted in endpoints[0]["addresses"]:
                    return time.perf_counter()
    raise TimeoutError("the watch ended without the change")


async def _once(client: RestClient, namespace: str, service: str, address: str) -> tuple[float, float]:
    """Seconds from the write to the packet, and to the event."""
    current = await client.get(ENDPOINTSLICES, NAME, NAMESPACE)
    version = current["metadata"]["resourceVersion"]
    async with asyncio.TaskGroup() as group:
        packet = group.create_task(asyncio.to_thread(reached, namespace, service, address))
        event = group.create_task(_seen(client, version, address))
        await asyncio.sleep(PAUSE)
        began = time.perf_counter()
        await client.update(ENDPOINTSLICES, {**current, "endpoints": slice_to(address)["endpoints"]})
    return packet.result() - began, event.result() - began


async def measure(topology: Topology, state: State, kubeconfig: Path) -> Change:
    """Move the endpoint to and fro."""
    addresses = {host.name: host.address for host in topology.hosts}
    spaces = {name: f"/proc/{Control(name, state.socket(name)).pid()}/ns/net" for name in (*SERVERS, CLIENT)}
    with contextlib.ExitStack() as servers:
        for name in SERVERS:
            servers.enter_context(server(spaces[name], addresses[name]))
        async with RestClient.from_kubeconfig(kubeconfig) as client:
            metadata = {"name": NAME, "namespace": NAMESPACE}
            body = {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": metadata,
                "spec": {"ports": [{"port": 80}]},
            }
            made = await client.create(SERVICES, body)
            service = made["spec"]["clusterIP"]
            await client.create(ENDPOINTSLICES, slice_to(addresses[SERVERS[0]]))
            try:
                await asyncio.to_thread(reached, spaces[CLIENT], service, addresses[SERVERS[0]])
                turns = [addresses[SERVERS[(number + 1) % 2]] for number in range(ROUNDS)]
                found = [await _once(client, spaces[CLIENT], service, each) for each in turns]
            finally:
                await client.delete(SERVICES, NAME, NAMESPACE)
                await client.delete(ENDPOINTSLICES, NAME, NAMESPACE)
    packets, events = [each[0] for each in found], [each[1] for each in found]
    return Change(statistics.median(packets), max(packets), statistics.median(events))
