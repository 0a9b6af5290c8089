"""The Huffman code of HPACK (RFC 7541, appendix B). Pure.

The code is canonical: symbols sorted by (length, value) have consecutive codes. So the lengths are the whole
table, and a symbol is found by one binary search among the left-aligned codes.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

_BY_LENGTH: Final[dict[int, bytes]] = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\0$@[]~",
    14: b"^}",
    15: b"<`{",
    19: bytes.fromhex("5cc3d0"),
    20: bytes.fromhex("808283a2b8c2e0e2"),
    21: bytes.fromhex("99a1a7acb0b1b3d1d8d9e3e5e6"),
    22: bytes.fromhex("8184858688929a9ca0a3a4a9aaadb2b5b9babbbdbec4c6e4e8e9"),
    23: bytes.fromhex("0187898a8b8c8d8f93959697989b9d9ea5a6a8aeafb4b6b7bcbfc5e7ef"),
    24: bytes.fromhex("098e9091949fabced7e1eced"),
    25: bytes.fromhex("c7cfeaeb"),
    26: bytes.fromhex("c0c1c8c9cacdd2d5dadbeef0f2f3ff"),
    27: bytes.fromhex("cbccd3d4d6dddedff1f4f5f6f7f8fafbfcfdfe"),
    28: bytes.fromhex("020304050607080b0c0e0f1011121314151718191a1b1c1d1e1f7fdcf9"),
    30: bytes.fromhex("0a0d16"),
}
_WINDOW: Final = 32
_ONES: Final = (1 << _WINDOW) - 1
_END_OF_STRING: Final = 256


class HuffmanError(ValueError):
    """Bits that no encoder writes."""


def _canonical() -> tuple[list[int], list[tuple[int, int]]]:
    """Codes aligned to the left of 32 bits, ascending, and (symbol, length) of each."""
    starts: list[int] = []
    symbols: list[tuple[int, int]] = []
    code = before = 0
    for length, values in _BY_LENGTH.items():
        for value in (*values, _END_OF_STRING) if length == 30 else values:
            code <<= length - before
            before = length
            starts.append(code << (_WINDOW - length))
            symbols.append((value, length))
            code += 1
    return starts, symbols


_STARTS, _SYMBOLS = _canonical()


def decode(encoded: bytes) -> bytes:
    """The string. Raises HuffmanError."""
    bits = left = position = 0  # `bits` holds the `left` bits that are taken in and not decoded yet
    out = bytearray()
    while True:
        while left < _WINDOW and position < len(encoded):
            bits, left, position = bits << 8 | encoded[position], left + 8, position + 1
        if not left:
            return bytes(out)
        missing = _WINDOW - left
        window = bits >> -missing if missing <= 0 else bits << missing | (1 << missing) - 1
        if window == _ONES and left < 8:
            return bytes(out)  # padding: the first bits of the end-of-string symbol
        symbol, length = _SYMBOLS[bisect_right(_STARTS, window) - 1]
        if symbol == _END_OF_STRING or length > left:
            raise HuffmanError("a Huffman string ends within a symbol")
        out.append(symbol)
        left -= length
        bits &= (1 << left) - 1


_CODES: Final = {
    symbol: (start >> (_WINDOW - length), length)
    for start, (symbol, length) in zip(_STARTS, _SYMBOLS, strict=True)
}


def encode(plain: bytes) -> bytes:
    """The code of a string, padded with ones."""
    bits = size = 0
    for byte in plain:
        code, length = _CODES[byte]
        bits, size = bits << length | code, size + length
    padding = -size % 8
    return (bits << padding | (1 << padding) - 1).to_bytes((size + padding) // 8, "big")
