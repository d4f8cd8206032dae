"""HPACK, HTTP/2's compression of headers (RFC 7541).

Decoding keeps the table that the client builds up. Encoding needs none: what we send is short, and mostly constant.
"""

from collections.abc import Iterable

from modelmill.serve.http2 import huffman
from modelmill.serve.http2.frames import ConnectionFailed, Error

Field = tuple[str, str]
TABLE_BYTES = 4096
"""What a client may use of our table unless told otherwise."""
FIELD_BYTES = 32
"""What a field counts besides its texts."""

_PAIRS = """\
:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate"""
_NAMES = """
accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control
content-disposition content-encoding content-language content-length content-location content-range content-type cookie
date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified
link location max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after server set-cookie
strict-transport-security transfer-encoding user-agent vary via www-authenticate"""
STATIC: tuple[Field, ...] = (
    *((name, value) for name, _, value in (line.partition(" ") for line in _PAIRS.splitlines())),
    *((name, "") for name in _NAMES.split()),
)
"""Appendix A; counted from 1."""
_STATIC_NUMBERS = {field: number for number, field in reversed(tuple(enumerate(STATIC, 1)))}


class Decoder:
    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._table: list[Field] = []
        """The newest last."""
        self._size = 0
        self._limit = TABLE_BYTES
        self.changes = 0
        """As long as it stays, equal blocks mean equal fields."""

    def decode(self, block: bytes) -> list[Field]:
        try:
            return self._decode(block)
        except (IndexError, ValueError) as error:
            raise ConnectionFailed(Error.COMPRESSION_ERROR, f"headers: {error}") from error

    def _decode(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        position = total = 0
        while position < len(block):
            first = block[position]
            if first & 0x80:
                index, position = _integer(block, position, 7)
                field = self._field(index)
            elif first & 0xE0 == 0x20:
                limit, position = _integer(block, position, 5)
                if fields or limit > TABLE_BYTES:
                    raise ValueError("a table's size where none may be, or too large")
                self._resize(limit)
                continue
            else:
                field, position = self._literal(block, position, 6 if first & 0x40 else 4)
                if first & 0x40:
                    self._add(field)
            total += len(field[0]) + len(field[1]) + FIELD_BYTES
            if total > self._max_bytes:
                raise ConnectionFailed(Error.ENHANCE_YOUR_CALM, f"the headers are larger than {self._max_bytes} bytes")
            fields.append(field)
        return fields

    def _literal(self, block: bytes, position: int, bits: int) -> tuple[Field, int]:
        index, position = _integer(block, position, bits)
        if index:
            name = self._field(index)[0]
        else:
            name, position = _text(block, position)
        value, position = _text(block, position)
        return (name, value), position

    def _field(self, index: int) -> Field:
        if not index:
            raise ValueError("index 0")
        return STATIC[index - 1] if index <= len(STATIC) else self._table[-(index - len(STATIC))]

    def _add(self, field: Field) -> None:
        self._table.append(field)
        self._size += len(field[0]) + len(field[1]) + FIELD_BYTES
        self._resize(self._limit)

    def _resize(self, limit: int) -> None:
        self._limit = limit
        self.changes += 1
        while self._size > limit:
            name, value = self._table.pop(0)
            self._size -= len(name) + len(value) + FIELD_BYTES


def _integer(block: bytes, position: int, bits: int) -> tuple[int, int]:
    """The number in the last `bits` of a byte and, where they do not suffice, in those after it."""
    most = (1 << bits) - 1
    value = block[position] & most
    position += 1
    if value < most:
        return value, position
    for shift in range(0, 28, 7):
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is too large")


def _text(block: bytes, position: int) -> tuple[str, int]:
    coded = block[position] & 0x80
    length, position = _integer(block, position, 7)
    end = position + length
    if end > len(block):
        raise ValueError("a text goes beyond the end")
    data = block[position:end]
    return (huffman.decode(data) if coded else data).decode("latin-1"), end


def encode(fields: Iterable[Field]) -> bytes:
    """Names in lower case. Nothing is added to the client's table."""
    block = bytearray()
    for name, value in fields:
        if indexed := _STATIC_NUMBERS.get((name, value)):
            block.append(0x80 | indexed)
            continue
        block.append(0)
        for text in (name.encode("latin-1"), value.encode("latin-1")):
            block += _length(len(text)) + text
    return bytes(block)


def _length(value: int) -> bytes:
    if value < 0x7F:
        return bytes((value,))
    value -= 0x7F
    coded = bytearray((0x7F,))
    while value >= 0x80:
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    coded.append(value)
    return bytes(coded)
