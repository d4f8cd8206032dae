"""Compressed bodies: gzip, deflate (which is zlib's format, RFC 9110) and zstd, in requests and in answers.

A request is decompressed up to the server's limit and no further, so a small body cannot become a large one in memory;
it must be exactly one stream. An answer is compressed when the client accepts it, from `LEAST_BYTES` on, and only where
that makes it smaller. All of this takes longer than the rest of a request: call it in a thread.
"""

import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from modelmill.serve.errors import BadRequest, Refusal, UnsupportedEncoding
from modelmill.serve.http import Bytes, Request, Response

CODINGS = ("zstd", "gzip", "deflate")
"""What is possible, best first."""
LEAST_BYTES = 8 << 10
"""Answers below are sent as they are: in most networks they take no more packets."""
LEVEL = 1
"""More costs several times the CPU for a few per cent."""
MAX_WINDOW_BYTES = 8 << 20
"""What RFC 9659 allows a zstd body to ask a decoder to keep."""
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_ALIASES = {"x-gzip": "gzip"}
_ACCEPTED = re.compile(r"([!#$%&'*+.^_`|~\w-]+)\s*(?:;\s*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?", re.ASCII)


class Compressor(Protocol):
    def compress(self, data: Bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def coding_of(request: Request) -> str | None:
    """How the request's body is compressed, if at all."""
    name = request.headers.get("content-encoding")
    return None if name is None or not request.body or name.lower() == "identity" else name.lower()


def decompressed(body: Bytes, coding: str, *, most_bytes: int) -> bytes:
    """Raises a `Refusal`: 415 for other codings, 413 for more than `most_bytes`, 400 for what is not one whole stream."""
    coding = _ALIASES.get(coding, coding)
    if coding not in CODINGS:
        possible = ", ".join(sorted(CODINGS))
        raise UnsupportedEncoding(f"Content-Encoding {coding[:40]!r} is not supported: use one of {possible}, or none")
    return _unzstd(body, most_bytes) if coding == "zstd" else _inflated(body, coding, most_bytes)


def _inflated(body: Bytes, coding: str, most_bytes: int) -> bytes:
    inflater = zlib.decompressobj(_WINDOW_BITS[coding])
    try:
        content = inflater.decompress(body, most_bytes + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not {coding}: {error}") from error
    if len(content) > most_bytes:
        raise _too_large(most_bytes)
    if not inflater.eof:
        raise BadRequest(f"the body ends before its {coding} stream does")
    if inflater.unused_data:
        raise BadRequest(f"{len(inflater.unused_data)} bytes follow the end of the body's {coding} stream")
    return content


def _unzstd(body: Bytes, most_bytes: int) -> bytes:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    try:
        size = zstandard.frame_content_size(body)
        if size < 0:
            # The frame does not say. With the exact size, the library notices what is missing and what follows.
            size = len(decompressor.stream_reader(body).read(most_bytes + 1))
        if size > most_bytes:
            raise _too_large(most_bytes)
        return decompressor.decompress(body, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadRequest(f"the body is not one whole zstd frame: {error}") from error


def _too_large(most_bytes: int) -> Refusal:
    return Refusal(f"the request's body is larger than {most_bytes} bytes once decompressed", status=413)


def compressed(response: Response, accepted: str) -> Response:
    """The answer in the coding that the client likes best; `accepted` is the request's Accept-Encoding."""
    varying = replace(response, headers=(*response.headers, ("Vary", "Accept-Encoding")))
    coding = preferred(accepted)
    if coding is None:
        return varying
    length = response.length
    compressor = _COMPRESSORS[coding](length)
    body = b"".join([*(compressor.compress(part) for part in response.body), compressor.flush()])
    if len(body) >= length:
        return varying
    return replace(varying, body=(body,), headers=(*varying.headers, ("Content-Encoding", coding)))


def preferred(accepted: str) -> str | None:
    """The coding with the highest weight, the best one among equals; None when the answer should stay as it is."""
    weights: dict[str, float] = {}
    for item in accepted.lower().split(","):
        if match := _ACCEPTED.fullmatch(item.strip()):
            weights[_ALIASES.get(match[1], match[1])] = float(match[2] or 1)
    others = weights.get("*", 0.0)
    best = max(CODINGS, key=lambda coding: weights.get(coding, others))
    weight = weights.get(best, others)
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


def _zstd(length: int) -> Compressor:
    import zstandard

    return zstandard.ZstdCompressor(level=LEVEL).compressobj(size=length)


_COMPRESSORS: dict[str, Callable[[int], Compressor]] = {
    "zstd": _zstd,
    "gzip": lambda length: zlib.compressobj(LEVEL, wbits=_WINDOW_BITS["gzip"]),
    "deflate": lambda length: zlib.compressobj(LEVEL, wbits=_WINDOW_BITS["deflate"]),
}
"""By coding; each is told how many bytes will come."""
