"""What is remembered of upstream servers' answers, and for how long."""

from __future__ import annotations

import pytest
from dnslib import CNAME, EDNS0, QTYPE, RCODE, RR, SOA, A, DNSRecord

from clusterdns.cache import Cache, Malformed, layout

ASKED = DNSRecord.question("Example.org")
QUERY = bytes(ASKED.pack())


def answer(*ttls: int, edns: bool = False) -> bytes:
    reply = ASKED.reply()
    reply.add_answer(RR("example.org", QTYPE.CNAME, ttl=ttls[0], rdata=CNAME("other.org")))
    for number, ttl in enumerate(ttls[1:]):
        reply.add_answer(RR("other.org", QTYPE.A, ttl=ttl, rdata=A(f"192.0.2.{number}")))
    if edns:
        reply.add_ar(EDNS0(udp_len=1232))
    return bytes(reply.pack())


def denial(ttl: int, minimum: int, rcode: int = RCODE.NXDOMAIN) -> bytes:
    reply = ASKED.reply()
    reply.header.rcode = rcode
    times = (1, 2, 3, 4, minimum)
    reply.add_auth(RR("org", QTYPE.SOA, ttl=ttl, rdata=SOA("ns.org", "root.org", times)))
    return bytes(reply.pack())


def lifetime(message: bytes) -> int:
    """Whole seconds that the answer to QUERY is remembered."""
    cache = Cache()
    cache.put(QUERY, message, 100.0)
    return next(second for second in range(1000) if cache.get(QUERY, 100.0 + second) is None)


@pytest.mark.parametrize(
    ("title", "message", "seconds"),
    [
        ("the shortest TTL counts", answer(20, 7, 9), 7),
        ("but not for ever", answer(3600, 3600), 30),
        ("OPT has no TTL", answer(20, 20, edns=True), 20),
        ("zero is not remembered", answer(20, 0), 0),
        ("a denial: the SOA's minimum", denial(20, 4), 4),
        ("a denial: the SOA's TTL", denial(4, 20), 4),
        ("no data", denial(20, 6, RCODE.NOERROR), 6),
        ("a denial without SOA", bytes(ASKED.reply().pack()), 0),
        ("a failure", denial(20, 20, RCODE.SERVFAIL), 0),
        ("half a message", answer(20, 20)[:-5], 0),
        ("nothing", b"", 0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # message ids are random
)
def test_how_long(title: str, message: bytes, seconds: int) -> None:
    assert lifetime(message) == seconds, title


def test_truncated_answers_are_not_remembered() -> None:
    message = bytearray(answer(20, 20))
    message[2] |= 0x02
    assert lifetime(bytes(message)) == 0


def test_ttls_grow_older_and_the_id_is_the_askers() -> None:
    cache = Cache()
    cache.put(QUERY, answer(20, 30, edns=True), 100.0)
    again = DNSRecord.question("eXAMPLE.ORG")
    found = cache.get(bytes(again.pack()), 107.9)
    assert found is not None
    message = DNSRecord.parse(found[0])
    assert message.header.id == again.header.id
    assert [rr.ttl for rr in message.rr] == [13, 23]
    assert bytes(found[0])[12:25] == bytes(again.pack())[12:25]
    assert message.ar[0].edns_len == 1232
    assert found[1] == "success"


def test_only_who_asks_the_same_way_gets_it() -> None:
    cache = Cache()
    cache.put(QUERY, answer(20, 20), 0.0)
    other = DNSRecord.question("example.org")
    other.add_ar(EDNS0(udp_len=1232, flags="do"))
    assert cache.get(bytes(other.pack()), 0.0) is None
    assert cache.get(bytes(DNSRecord.question("example.org", "AAAA").pack()), 0.0) is None


def test_the_least_recently_used_goes_first_and_denials_have_their_own_room() -> None:
    cache = Cache(capacity=2)
    queries = [bytes(DNSRecord.question(f"{name}.org").pack()) for name in "abcdef"]
    for query in queries[:2]:
        cache.put(query, answer(30, 30), 0.0)
    assert cache.get(queries[0], 1.0)
    for query in queries[3:]:
        cache.put(query, denial(30, 30), 1.0)
    cache.put(queries[2], answer(30, 30), 1.0)
    assert [cache.get(query, 2.0) is not None for query in queries] == [True, False, True, False, True, True]
    assert cache.sizes == (2, 2)


def test_an_answer_takes_the_place_of_a_denial() -> None:
    cache = Cache()
    cache.put(QUERY, denial(30, 30), 0.0)
    cache.put(QUERY, answer(30, 30), 0.0)
    found = cache.get(QUERY, 0.0)
    assert found is not None
    assert found[1] == "success"
    assert cache.sizes == (1, 0)


def test_a_message_that_ends_too_early() -> None:
    with pytest.raises(Malformed):
        layout(answer(1, 1)[:-1])
