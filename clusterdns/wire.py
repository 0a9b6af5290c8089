"""Between DNS messages and records: what a query asks, and the bytes of an answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import dnslib
from dnslib import QTYPE, RCODE, RR, DNSHeader, DNSRecord

from clusterdns.records import Answer, Record, Soa, Srv, Status

MIN_UDP = 512
MAX_UDP = 1232
"""The largest answer sent in one datagram, whatever the client claims to take (DNS flag day 2020)."""


class BadQuery(Exception):
    """The message is no query that can be answered; `reply` is what to send back, None when nothing is."""

    def __init__(self, reply: bytes | None) -> None:
        super().__init__("not a query")
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Query:
    """One question. `udp_size` is what the client takes in a datagram; `message` is the parsed query."""

    name: str
    type: str
    udp_size: int
    message: DNSRecord


def parse(data: bytes) -> Query:
    """Raises BadQuery, with FORMERR or NOTIMP as its reply where the header could be read."""
    try:
        message = DNSRecord.parse(data)
    except Exception as error:
        # dnslib raises several types, some of them not its own, for malformed messages.
        raise BadQuery(_header_only(data, RCODE.FORMERR)) from error
    header = message.header
    if header.qr:
        # Answering an answer could go on for ever.
        raise BadQuery(None)
    if header.opcode != 0:
        raise BadQuery(_header_only(data, RCODE.NOTIMP))
    if len(message.questions) != 1 or message.q.qclass not in (1, 255):
        raise BadQuery(_header_only(data, RCODE.FORMERR))
    options = [rr for rr in message.ar if rr.rtype == QTYPE.OPT]
    if len(options) > 1:
        raise BadQuery(_header_only(data, RCODE.FORMERR))
    if options and options[0].edns_ver != 0:
        raise BadQuery(_bad_version(message))
    size = options[0].edns_len if options else MIN_UDP
    name = str(message.q.qname)
    return Query(name, str(QTYPE[message.q.qtype]), min(MAX_UDP, max(MIN_UDP, size)), message)


def _header_only(data: bytes, rcode: int) -> bytes | None:
    if len(data) < 12 or data[2] & 0x80:
        return None
    identity = int.from_bytes(data[:2], "big")
    return bytes(DNSRecord(DNSHeader(id=identity, qr=1, rcode=rcode)).pack())


def _bad_version(message: DNSRecord) -> bytes:
    """BADVERS, whose upper bits are in the OPT record (RFC 6891 6.1.3)."""
    header = DNSHeader(id=message.header.id, qr=1, rd=message.header.rd, rcode=0)
    reply = DNSRecord(header, q=message.q)
    reply.add_ar(dnslib.EDNS0(udp_len=MAX_UDP, ext_rcode=1))
    return bytes(reply.pack())


def respond(query: Query, answer: Answer) -> DNSRecord:
    """An authoritative answer."""
    rcode = RCODE.NXDOMAIN if answer.status is Status.NO_SUCH_NAME else RCODE.NOERROR
    message = _reply(query, rcode, authoritative=True)
    message.add_answer(*_rrs(answer.answers))
    message.add_auth(*_rrs(answer.authority))
    message.add_ar(*_rrs(answer.additional))
    return message


def failure(query: Query, rcode: str) -> DNSRecord:
    """An empty answer with this rcode, such as SERVFAIL or REFUSED."""
    return _reply(query, getattr(RCODE, rcode), authoritative=False)


def _reply(query: Query, rcode: int, *, authoritative: bool) -> DNSRecord:
    asked = query.message.header
    header = DNSHeader(id=asked.id, qr=1, aa=int(authoritative), rd=asked.rd, ra=1, rcode=rcode)
    message = DNSRecord(header, q=query.message.q)
    if any(rr.rtype == QTYPE.OPT for rr in query.message.ar):
        message.add_ar(dnslib.EDNS0(udp_len=MAX_UDP))
    return message


def completed(query: Query, answer: Answer, rest: bytes) -> DNSRecord:
    """A CNAME of ours, and what an upstream server said about its target. Raises BadQuery."""
    try:
        upstream = DNSRecord.parse(rest)
    except Exception as error:
        raise BadQuery(None) from error
    message = _reply(query, upstream.header.rcode, authoritative=False)
    message.add_answer(*_rrs(answer.answers), *upstream.rr)
    message.add_auth(*(rr for rr in upstream.auth if rr.rtype == QTYPE.SOA))
    return message


def question(name: str, kind: str) -> bytes:
    """A query of our own; its id is given to it when it is sent."""
    return bytes(DNSRecord.question(name, kind).pack())


def truncated(query: Query) -> bytes:
    """An empty answer that tells the client to ask over TCP."""
    short = failure(query, "NOERROR")
    short.header.tc = 1
    return bytes(short.pack())


def pack(message: DNSRecord, limit: int | None = None) -> bytes:
    """The bytes; above `limit` the records are left out and the client is told to ask over TCP (RFC 2181
    9).
    """
    data = bytes(message.pack())
    if limit is None or len(data) <= limit:
        return data
    short = DNSRecord(message.header, q=message.q, ar=[rr for rr in message.ar if rr.rtype == QTYPE.OPT])
    short.header.tc = 1
    return bytes(short.pack())


def _rrs(records: Iterable[Record]) -> list[RR]:
    return [
        RR(record.name, getattr(QTYPE, record.type), ttl=record.ttl, rdata=_data(record))
        for record in records
    ]


def _data(record: Record) -> object:
    data = record.data
    if isinstance(data, Srv):
        return dnslib.SRV(data.priority, data.weight, data.port, data.target)
    if isinstance(data, Soa):
        return dnslib.SOA(data.primary, data.mailbox, data[2:])
    return getattr(dnslib, record.type)(data)


def rcode_of(data: bytes) -> str:
    """The rcode's name in a packed answer."""
    return str(RCODE.get(data[3] & 0x0F, "SERVFAIL")) if len(data) >= 4 else "SERVFAIL"
