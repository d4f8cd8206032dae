"""HPACK's Huffman code (RFC 7541, appendix B), which some clients use for their headers' texts.

The code is canonical: within one length, codes count up in the order of the symbols, and each length goes on where the
shorter one ended. So the lengths alone define it. We only decode: our own headers are few and sent plainly.
"""

SYMBOLS = {
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
    19: bytes((92, 195, 208)),
    20: bytes((128, 130, 131, 162, 184, 194, 224, 226)),
    21: bytes((153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230)),
    22: bytes((129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185, 186, 187, 189, 190))
    + bytes((196, 198, 228, 232, 233)),
    23: bytes((1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166, 168, 174, 175))
    + bytes((180, 182, 183, 188, 191, 197, 231, 239)),
    24: bytes((9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237)),
    25: bytes((199, 207, 234, 235)),
    26: bytes((192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255)),
    27: bytes((203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252, 253, 254)),
    28: bytes((2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 30, 31, 127, 220, 249)),
    30: bytes((10, 13, 22)),
}
PADDING = frozenset((1 << n + 1) - 1 for n in range(8))
"""Up to seven ones, behind the leading one."""


def _codes() -> dict[int, int]:
    """Symbols by code; a leading 1 before each code keeps those of different lengths apart."""
    codes, code, length = {}, 0, 0
    for wanted, symbols in SYMBOLS.items():
        code <<= wanted - length
        length = wanted
        for symbol in symbols:
            codes[1 << length | code] = symbol
            code += 1
    return codes


_SYMBOLS = _codes()


def decode(data: bytes) -> bytes:
    """Raises ValueError when the end of the data is not the end of a symbol."""
    found = bytearray()
    code = 1
    for byte in data:
        for shift in range(7, -1, -1):
            code = code << 1 | byte >> shift & 1
            symbol = _SYMBOLS.get(code)
            if symbol is not None:
                found.append(symbol)
                code = 1
    if code not in PADDING:
        raise ValueError("the text ends within a symbol")
    return bytes(found)
