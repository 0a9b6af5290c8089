"""HPACK against the examples of RFC 7541, against itself, and against nonsense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from componentbase.grpcwire import huffman
from componentbase.grpcwire.hpack import Decoder, Encoder, Fields, HeaderListTooLarge, HpackError


def block(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


FIRST = ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com"))
SECOND = (*FIRST, ("cache-control", "no-cache"))
THIRD = (
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
)


@pytest.mark.parametrize(
    "blocks",
    [
        (  # C.3
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ),
        (  # C.4, the same with Huffman coding
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ),
    ],
)
def test_requests_of_the_rfc(blocks: tuple[str, str, str]) -> None:
    decoder = Decoder()
    for encoded, wanted in zip(blocks, (FIRST, SECOND, THIRD), strict=True):
        assert decoder.decode(block(encoded)) == wanted


def test_eviction_as_in_the_rfc() -> None:
    """C.6: the peer has shrunk the table to 256 bytes, so each answer pushes out the oldest fields."""
    decoder = Decoder()
    decoder.decode(block("3fe101"))
    first = decoder.decode(
        block(
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6"
            "2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3"
        )
    )
    assert first[0] == (":status", "302")
    second = decoder.decode(block("4883 640e ffc1 c0bf"))
    assert second == ((":status", "307"), *first[1:])
    with pytest.raises(HpackError, match="no field"):
        decoder.decode(block("c2"))  # what the fifth place held has been evicted


TEXT = st.text(st.characters(max_codepoint=255), max_size=40)
NAMES = st.sampled_from(["content-type", ":path", "x-a", "x-b", "token", "grpc-timeout", "grpc-status"])
LISTS = st.lists(st.tuples(NAMES, TEXT), max_size=12).map(tuple)


@given(st.lists(st.tuples(LISTS, st.sampled_from([None, 0, 100, 4096])), max_size=20))
def test_what_is_encoded_is_decoded(story: list[tuple[Fields, int | None]]) -> None:
    encoder, decoder = Encoder(), Decoder()
    for fields, limit in story:
        if limit is not None:
            encoder.set_limit(limit)
        assert decoder.decode(encoder.encode(fields)) == fields
        assert decoder.decode(encoder.encode(fields)) == fields


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_nonsense_is_refused_by_name(blocks: list[bytes]) -> None:
    decoder = Decoder()
    for each in blocks:
        try:
            decoder.decode(each)
        except (HpackError, HeaderListTooLarge):
            return


def test_secrets_stay_out_of_the_table() -> None:
    encoder = Encoder()
    first = encoder.encode((("authorization", "secret"), ("token", "secret")))
    assert first == encoder.encode((("authorization", "secret"), ("token", "secret")))
    assert first[0] & 0xF0 == 0x10, "literal, never indexed"


def test_repetition_is_one_index_a_field() -> None:
    encoder = Encoder()
    fields = ((":path", "/etcdserverpb.KV/Put"), ("te", "trailers"))
    assert len(encoder.encode(fields)) > 30
    assert len(encoder.encode(fields)) == 2


def test_a_list_that_is_too_large_leaves_the_table_right() -> None:
    encoder, decoder = Encoder(), Decoder(max_list=200)
    large: Fields = (("x-a", "1"), ("x-b", "y" * 300), ("x-c", "2"))
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(encoder.encode(large))
    assert decoder.decode(encoder.encode((("x-c", "2"), ("x-a", "1")))) == (("x-c", "2"), ("x-a", "1"))


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ("80", "no field 0"),
        ("ff ff ff ff ff 7f", "integer too large"),
        ("40 0a 61", "runs past"),
        ("3f e2 1f", "table of"),
        ("82 3f e1 01", "must come first"),
        ("00 81 00 00", "within a symbol"),
        ("41", "early|range"),
    ],
)
def test_what_no_encoder_writes(encoded: str, reason: str) -> None:
    with pytest.raises(HpackError, match=reason):
        Decoder().decode(block(encoded))


@given(st.binary(max_size=300))
def test_huffman_there_and_back(plain: bytes) -> None:
    assert huffman.decode(huffman.encode(plain)) == plain


@pytest.mark.parametrize(
    ("plain", "coded"),
    [(b"www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"), (b"no-cache", "a8eb10649cbf"), (b"", "")],
)
def test_huffman_of_the_rfc(plain: bytes, coded: str) -> None:
    assert huffman.encode(plain) == bytes.fromhex(coded)
    assert huffman.decode(bytes.fromhex(coded)) == plain


@pytest.mark.parametrize("coded", ["ffffffff", "ff", "f8ff", "fffffffc"])
def test_huffman_padding_is_short_and_ones(coded: str) -> None:
    with pytest.raises(huffman.HuffmanError):
        huffman.decode(bytes.fromhex(coded))
