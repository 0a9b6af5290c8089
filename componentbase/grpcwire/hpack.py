"""HPACK (RFC 7541): header lists to bytes and back, each direction with its table. Pure.

A block that changes nothing in the table means the same until something does. Both sides here remember such
blocks, so a connection that repeats itself, as one to a store does, pays one dictionary look-up per block.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from componentbase.grpcwire import huffman

Field = tuple[str, str]
Fields = tuple[Field, ...]

DEFAULT_TABLE: Final = 4096
_ENTRY_OVERHEAD: Final = 32  # section 4.1
_REMEMBERED: Final = 256  # blocks
_MAX_INTEGER: Final = 1 << 28

# Appendix A, in its order; `name` alone has an empty value.
_STATIC_TEXT: Final = """
:authority|:method GET|:method POST|:path /|:path /index.html|:scheme http|:scheme https|:status 200
:status 204|:status 206|:status 304|:status 400|:status 404|:status 500|accept-charset
accept-encoding gzip, deflate
accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|authorization|cache-control
content-disposition|content-encoding|content-language|content-length|content-location|content-range|content-type
cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since
last-modified|link|location|max-forwards|proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after
server|set-cookie|strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate
"""
_STATIC: Final[Fields] = tuple(
    (name, value)
    for name, _, value in (
        entry.partition(" ") for entry in _STATIC_TEXT.strip().replace("\n", "|").split("|")
    )
)
_FIRST_DYNAMIC: Final = len(_STATIC) + 1
_STATIC_FIELD: Final = {field: index for index, field in enumerate(_STATIC, 1)}
_STATIC_NAME: Final = {name: index for index, (name, _) in reversed(list(enumerate(_STATIC, 1)))}

# Not worth a place in the table, or too secret for it (section 7.1.3).
_NEVER_INDEXED: Final = frozenset({"authorization", "token", "cookie"})
_NOT_INDEXED: Final = frozenset({"grpc-timeout", "grpc-message", "content-length", "grpc-status-details-bin"})


class HpackError(Exception):
    """A block that cannot be decoded: the connection's tables are out of step for good."""


class HeaderListTooLarge(Exception):
    """More headers than we take. The table is intact; only this list is refused."""


def _size(field: Field) -> int:
    return len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD


class _Table:
    """The dynamic table: newest first. Invariant: `size` <= `limit`."""

    __slots__ = ("entries", "limit", "size")

    def __init__(self) -> None:
        self.entries: deque[Field] = deque()
        self.size, self.limit = 0, DEFAULT_TABLE

    def add(self, field: Field) -> None:
        """Insert; one that is larger than the whole table empties it (section 4.4)."""
        size = _size(field)
        self._evict(self.limit - size)
        if size <= self.limit:
            self.entries.appendleft(field)
            self.size += size

    def resize(self, limit: int) -> None:
        """Evict down to a new limit."""
        self.limit = limit
        self._evict(limit)

    def _evict(self, room: int) -> None:
        while self.entries and self.size > room:
            self.size -= _size(self.entries.pop())


class Decoder:
    """What the other side encodes. `max_list` bounds a list as SETTINGS_MAX_HEADER_LIST_SIZE counts it."""

    def __init__(self, *, max_list: int = 64 * 1024) -> None:
        self._table = _Table()
        self._max_list = max_list
        self._known: dict[bytes, Fields] = {}
        self._block, self._position, self._changed = b"", 0, False

    def decode(self, block: bytes) -> Fields:
        """The fields, in order. Raises HpackError, HeaderListTooLarge."""
        known = self._known.get(block)
        if known is not None:
            return known
        self._block, self._position, self._changed = block, 0, False
        try:
            fields = self._fields()
        except (IndexError, huffman.HuffmanError) as error:
            raise HpackError(str(error) or "the block ends early") from error
        if self._changed:
            self._known.clear()
        elif len(self._known) < _REMEMBERED:
            self._known[block] = fields
        return fields

    def _fields(self) -> Fields:
        block, size = self._block, 0
        fields: list[Field] = []
        while self._position < len(block):
            first = block[self._position]
            if first & 0xE0 == 0x20:
                if fields:
                    raise HpackError("a table size update must come first")
                self._resize()
                continue
            field = self._indexed(self._integer(7)) if first & 0x80 else self._literal(first)
            size += _size(field)
            if size <= self._max_list:  # go on without it: the table must see the whole block
                fields.append(field)
        if size > self._max_list:
            raise HeaderListTooLarge
        return tuple(fields)

    def _literal(self, first: int) -> Field:
        indexing = bool(first & 0x40)
        index = self._integer(6 if indexing else 4)
        name = self._indexed(index)[0] if index else self._string()
        field = (name, self._string())
        if indexing:
            self._table.add(field)
            self._changed = True
        return field

    def _indexed(self, index: int) -> Field:
        if 0 < index < _FIRST_DYNAMIC:
            return _STATIC[index - 1]
        if index and index - _FIRST_DYNAMIC < len(self._table.entries):
            return self._table.entries[index - _FIRST_DYNAMIC]
        raise HpackError(f"there is no field {index}")

    def _resize(self) -> None:
        limit = self._integer(5)
        if limit > DEFAULT_TABLE:
            raise HpackError(f"table of {limit} bytes where {DEFAULT_TABLE} are allowed")
        self._table.resize(limit)
        self._changed = True

    def _integer(self, bits: int) -> int:
        mask = (1 << bits) - 1
        value = self._block[self._position] & mask
        self._position += 1
        if value < mask:
            return value
        shift = 0
        while True:
            byte = self._block[self._position]
            self._position += 1
            value += (byte & 0x7F) << shift
            if value > _MAX_INTEGER or shift > 28:
                raise HpackError("integer too large")
            if not byte & 0x80:
                return value
            shift += 7

    def _string(self) -> str:
        coded = self._block[self._position] & 0x80
        length = self._integer(7)
        end = self._position + length
        if end > len(self._block):
            raise HpackError("a string runs past the end of the block")
        raw = self._block[self._position : end]
        self._position = end
        return (huffman.decode(raw) if coded else raw).decode("latin-1")


class Encoder:
    """What the other side decodes. Strings go without Huffman coding: they are sent once, then indexed."""

    def __init__(self) -> None:
        self._table = _Table()
        self._known: dict[Fields, bytes] = {}
        self._resized: int | None = None

    def set_limit(self, limit: int) -> None:
        """The other side's SETTINGS_HEADER_TABLE_SIZE; we never use more than the default."""
        wanted = min(limit, DEFAULT_TABLE)
        if wanted != self._table.limit:
            self._resized = wanted
            self._table.resize(wanted)
            self._known.clear()

    def encode(self, fields: Fields) -> bytes:
        """One header block, to be sent before any that is encoded later."""
        known = self._known.get(fields)
        if known is not None:
            return known
        out, changed = bytearray(), False
        if self._resized is not None:
            _put_integer(out, self._resized, 5, 0x20)
            self._resized, changed = None, True
        for field in fields:
            changed |= self._put(out, field)
        block = bytes(out)
        if changed:
            self._known.clear()
        elif len(self._known) < _REMEMBERED:
            self._known[fields] = block
        return block

    def _put(self, out: bytearray, field: Field) -> bool:
        """Append one field; return whether the table changed."""
        name, value = field
        index = _STATIC_FIELD.get(field)
        if index is None and field in self._table.entries:
            index = _FIRST_DYNAMIC + self._table.entries.index(field)
        if index is not None:
            _put_integer(out, index, 7, 0x80)
            return False
        known_name = _STATIC_NAME.get(name, 0)
        if name in _NEVER_INDEXED:
            _put_integer(out, known_name, 4, 0x10)
        elif name in _NOT_INDEXED or _size(field) > self._table.limit // 4:
            _put_integer(out, known_name, 4, 0x00)
        else:
            _put_integer(out, known_name, 6, 0x40)
        if not known_name:
            _put_string(out, name)
        _put_string(out, value)
        if name in _NEVER_INDEXED or name in _NOT_INDEXED or _size(field) > self._table.limit // 4:
            return False
        self._table.add(field)
        return True


def _put_integer(out: bytearray, value: int, bits: int, pattern: int) -> None:
    mask = (1 << bits) - 1
    if value < mask:
        out.append(pattern | value)
        return
    out.append(pattern | mask)
    value -= mask
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _put_string(out: bytearray, text: str) -> None:
    raw = text.encode("latin-1", "replace")
    _put_integer(out, len(raw), 7, 0x00)
    out += raw
