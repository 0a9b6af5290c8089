"""UDP: each client of a front has a socket of its own towards its endpoint, for as long as datagrams go
through it.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from componentbase import metrics
from kubeproxy.model import Endpoint
from kubeproxy.userspace.compiler import Front, Route
from kubeproxy.userspace.director import Director

IDLE = 60.0
"""Seconds without a datagram after which a flow is forgotten (conntrack: 30 for one answer, 120 for more)."""
MAX_FLOWS = 4096
BURST = 64
"""Datagrams taken from one socket before others have their turn."""
DATAGRAM = 65535

_flows = metrics.gauge("hardway_userspace_udp_flows", "UDP flows that are being relayed.")


class Client(NamedTuple):
    front: Front
    ip: str
    port: int


@dataclass(slots=True)
class _Flow:
    endpoint: Endpoint
    sock: socket.socket
    used: float


class Flows:
    """The flows of the whole node, the one used longest ago first. When there are too many, it goes."""

    def __init__(self, director: Director, limit: int = MAX_FLOWS) -> None:
        self._director, self._limit = director, limit
        self._flows: OrderedDict[Client, _Flow] = OrderedDict()

    def __len__(self) -> int:
        return len(self._flows)

    def forward(self, client: Client, data: bytes, listener: UdpListener) -> None:
        """Send on what a client sent. What cannot be sent is lost, as datagrams are."""
        flow = self._flows.get(client) or self._begin(client, listener)
        if flow is None:
            return
        self._touch(client, flow)
        self._director.reached(listener.route, client.ip, flow.endpoint)
        try:
            flow.sock.send(data)
        except BlockingIOError:
            return
        except OSError:
            self._refused(client, listener.route)

    def retain(self, route: Route, front: Front) -> None:
        """Drop the flows of a front whose endpoint its client may no longer use."""
        for client, flow in list(self._flows.items()):
            if client.front == front and not self._director.allowed(route, client.ip, flow.endpoint):
                self._drop(client)

    def drop_front(self, front: Front | None = None) -> None:
        """Drop all flows of a front; of all fronts."""
        for client in [each for each in self._flows if front in (None, each.front)]:
            self._drop(client)

    def expire(self) -> None:
        """Drop what has been idle for too long."""
        now = self._director.now
        while self._flows:
            client, flow = next(iter(self._flows.items()))
            if flow.used + IDLE > now:
                return
            self._drop(client)

    def _begin(self, client: Client, listener: UdpListener) -> _Flow | None:
        order = self._director.order(listener.route, client.ip)
        if not order:
            return None
        if len(self._flows) >= self._limit:
            self._drop(next(iter(self._flows)))
        try:
            sock = _towards(order[0])
        except OSError:
            self._director.refused(listener.route, client.ip)
            return None
        flow = self._flows[client] = _Flow(order[0], sock, self._director.now)
        asyncio.get_running_loop().add_reader(sock.fileno(), self._answers, client, flow, listener)
        _flows.inc()
        return flow

    def _answers(self, client: Client, flow: _Flow, listener: UdpListener) -> None:
        for _ in range(BURST):
            try:
                data = flow.sock.recv(DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                # The endpoint's host says that nobody listens: the client's next datagram finds another.
                self._refused(client, listener.route)
                return
            self._touch(client, flow)
            listener.answer(data, client)

    def _touch(self, client: Client, flow: _Flow) -> None:
        flow.used = self._director.now
        self._flows.move_to_end(client)

    def _refused(self, client: Client, route: Route) -> None:
        self._director.refused(route, client.ip)
        self._drop(client)

    def _drop(self, client: Client) -> None:
        flow = self._flows.pop(client)
        asyncio.get_running_loop().remove_reader(flow.sock.fileno())
        flow.sock.close()
        _flows.dec()


def _towards(endpoint: Endpoint) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect((endpoint.ip, endpoint.port))
    except BaseException:
        sock.close()
        raise
    return sock


class UdpListener:
    """Listens on one front."""

    def __init__(self, front: Front, route: Route, flows: Flows) -> None:
        self.front, self.route = front, route
        self._flows = flows
        self._sock: socket.socket | None = None

    async def open(self) -> None:
        """Raises OSError."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind((self.front.ip, self.front.port))
        except BaseException:
            sock.close()
            raise
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable, sock)

    def close(self) -> None:
        self._flows.drop_front(self.front)
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def reroute(self, route: Route) -> None:
        self.route = route
        self._flows.retain(route, self.front)

    def answer(self, data: bytes, client: Client) -> None:
        if self._sock is not None:
            try:
                self._sock.sendto(data, (client.ip, client.port))
            except OSError:
                return

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(BURST):
            try:
                data, (ip, port) = sock.recvfrom(DATAGRAM)
            except OSError:
                # Nothing more; or what an earlier answer came to, which concerns no other client.
                return
            self._flows.forward(Client(self.front, ip, port), data, self)
