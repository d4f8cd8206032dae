"""Just enough ELF (64-bit, little-endian) to make a CUDA build of PyTorch small where no GPU will ever be.

`shrink` rewrites a shared library without what a CPU never reads: the GPU machine code (section .nv_fatbin) becomes
memory that is mapped but has no bytes in the file, and symbol tables for debuggers go. Every address stays.
`stand_in` writes a shared library of a given name whose functions all fail with one status, for libraries that must be
there to load another one but are never called.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

PAGE = 4096
PT_LOAD, PT_DYNAMIC, PT_NOTE, PT_GNU_STACK = 1, 2, 4, 0x6474E551
SHT_STRTAB, SHT_DYNAMIC, SHT_DYNSYM, SHT_VERNEED, SHT_VERSYM = 3, 6, 11, 0x6FFFFFFE, 0x6FFFFFFF
SHF_ALLOC = 2
DT_NEEDED = 1
GLOBAL_FUNCTION = 0x12
WEAK = 2
X86_64 = 62
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header: what the loader maps."""

    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    in_file: int
    in_memory: int
    alignment: int

    def pack(self) -> bytes:
        """The header's bytes."""
        fields = (self.offset, self.address, self.physical, self.in_file, self.in_memory, self.alignment)
        return _SEGMENT.pack(self.kind, self.flags, *fields)


@dataclass(frozen=True, slots=True)
class Section:
    """A section header: what linkers and debuggers read."""

    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int


class Library:
    """A shared library as it lies in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        fields = _HEADER.unpack_from(self.data)
        if fields[0][:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path} is not a 64-bit little-endian ELF file")
        self.machine: int = fields[2]
        self.segments_at, self._sections_at = int(fields[5]), int(fields[6])
        table = [_SEGMENT.unpack_from(self.data, self.segments_at + i * _SEGMENT.size) for i in range(fields[10])]
        self.segments = [Segment(*entry) for entry in table]
        self.sections = self._read_sections(count=fields[12], names=fields[13])

    def _read_sections(self, *, count: int, names: int) -> list[Section]:
        raw = [_SECTION.unpack_from(self.data, self._sections_at + i * _SECTION.size) for i in range(count)]
        start = raw[names][4] if raw else 0
        return [Section(self._text(start + name), *rest[:6]) for name, *rest in raw]

    def _text(self, at: int) -> str:
        return self.data[at : self.data.index(b"\0", at)].decode()

    def _section(self, kind: int) -> Section | None:
        return next((section for section in self.sections if section.kind == kind), None)

    def needed(self) -> list[str]:
        """The libraries that this one loads."""
        dynamic = self._section(SHT_DYNAMIC)
        if dynamic is None:
            return []
        names = self.sections[dynamic.link].offset
        entries = struct.iter_unpack("<QQ", self.data[dynamic.offset : dynamic.offset + dynamic.size])
        return [self._text(names + value) for tag, value in entries if tag == DT_NEEDED]

    def symbols(self) -> Iterator[tuple[str, bool, tuple[str, str] | None]]:
        """Each dynamic symbol that must be found: name, whether it is defined here, the (library, version) asked for."""
        table, versions = self._section(SHT_DYNSYM), self._section(SHT_VERSYM)
        if table is None:
            return
        names, wanted = self.sections[table.link].offset, self._wanted_versions()
        for index in range(1, table.size // _SYMBOL.size):
            name, info, _, section, _, _ = _SYMBOL.unpack_from(self.data, table.offset + index * _SYMBOL.size)
            if section == 0 and info >> 4 == WEAK:
                continue
            number = struct.unpack_from("<H", self.data, versions.offset + 2 * index)[0] if versions else 1
            yield self._text(names + name), section != 0, wanted.get(number & 0x7FFF)

    def _wanted_versions(self) -> dict[int, tuple[str, str]]:
        section = self._section(SHT_VERNEED)
        if section is None:
            return {}
        found, names, at = {}, self.sections[section.link].offset, section.offset
        while True:
            _, count, library, first, following = struct.unpack_from("<HHIII", self.data, at)
            entry = at + first
            for _ in range(count):
                _, _, number, version, onward = struct.unpack_from("<IHHII", self.data, entry)
                found[number & 0x7FFF] = (self._text(names + library), self._text(names + version))
                entry += onward
            if not following:
                return found
            at += following


def shrink(path: Path) -> int:
    """Rewrites the library in place, smaller; returns the bytes saved, 0 when its layout leaves no room to do it."""
    library = Library(path)
    pieces = [piece for segment in library.segments for piece in _without_gpu_code(segment, library.sections)]
    table_end = library.segments_at + len(pieces) * _SEGMENT.size
    lowest = min((s.offset for s in library.sections if s.flags & SHF_ALLOC and s.size), default=0)
    if table_end > lowest:
        return 0
    body, moved = bytearray(), {}
    for segment in pieces:
        if segment.kind == PT_LOAD:
            body += bytes(-len(body) % PAGE)
            start = segment.offset - segment.offset % PAGE  # the loader maps whole pages
            moved[segment] = len(body) + segment.offset % PAGE
            body += library.data[start : segment.offset + segment.in_file]
    final = [replace(segment, offset=_moved(segment, moved)) for segment in pieces]
    header = list(_HEADER.unpack_from(library.data))
    header[6], header[10], header[12], header[13] = 0, len(final), 0, 0  # no section headers any more
    body[: _HEADER.size] = _HEADER.pack(*header)
    body[library.segments_at : table_end] = b"".join(segment.pack() for segment in final)
    if len(body) >= len(library.data):
        return 0
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(body)
    beside.chmod(path.stat().st_mode)
    beside.replace(path)  # never in place: the file may be a hard link into a package cache
    return len(library.data) - len(body)


def _without_gpu_code(segment: Segment, sections: list[Section]) -> list[Segment]:
    """The segment in up to three parts: before the GPU code, a stretch of zeros that no file backs, and after it."""
    code = next((s for s in sections if s.name == ".nv_fatbin"), None)
    if code is None or segment.kind != PT_LOAD or not segment.address <= code.address < segment.address + segment.in_file:
        return [segment]
    start = -(-code.address // PAGE) * PAGE
    end = (code.address + code.size) // PAGE * PAGE
    if end <= start:
        return [segment]
    before = start - segment.address
    skipped = end - segment.address
    return [
        replace(segment, in_file=before, in_memory=before),
        replace(segment, offset=segment.offset + before, address=start, physical=start, in_file=0, in_memory=end - start),
        replace(
            segment,
            offset=segment.offset + skipped,
            address=end,
            physical=end,
            in_file=segment.in_file - skipped,
            in_memory=segment.in_memory - skipped,
        ),
    ]


def _moved(segment: Segment, moved: Mapping[Segment, int]) -> int:
    """Where the segment's bytes lie in the new file: with the loaded segment that holds its address."""
    if segment in moved:
        return moved[segment]
    for loaded, offset in moved.items():
        if segment.in_file and loaded.address <= segment.address < loaded.address + loaded.in_file:
            return offset + segment.address - loaded.address
    return 0


def stand_in(name: str, *, versions: Mapping[str, str | None], texts: Iterable[str], status: int) -> bytes:
    """A shared library (x86-64) called `name`: each function returns `status`, those in `texts` a sentence instead.

    `versions` gives each function's symbol version, None for functions without one.
    """
    return _StandIn(name, dict(versions), frozenset(texts), status).build()


class _StandIn:
    """Lays out the parts of the file one after the other; addresses equal offsets."""

    def __init__(self, name: str, versions: dict[str, str | None], texts: frozenset[str], status: int) -> None:
        self.name, self.versions, self.texts, self.status = name, versions, texts, status
        self.strings = bytearray(b"\0")
        self.labels = sorted({version for version in versions.values() if version is not None})
        self.image = bytearray(_HEADER.size + 4 * _SEGMENT.size)

    def _string(self, text: str) -> int:
        at = len(self.strings)
        self.strings += text.encode() + b"\0"
        return at

    def _place(self, part: bytes) -> int:
        self.image += bytes(-len(self.image) % 16)
        at = len(self.image)
        self.image += part
        return at

    def build(self) -> bytes:
        functions = list(self.versions)
        code, text = self._code()
        symbols = bytearray(_SYMBOL.size)
        for function in functions:
            at = text if function in self.texts else code
            symbols += _SYMBOL.pack(self._string(function), GLOBAL_FUNCTION, 0, 1, at, 0)
        own = self._string(self.name)
        definitions = self._version_definitions(own)
        # An index of 1 means a global symbol without a version.
        numbers = [0, *(1 if (v := self.versions[f]) is None else self.labels.index(v) + 2 for f in functions)]
        entries = {
            4: self._place(_hash_table(functions)),
            6: self._place(bytes(symbols)),
            5: self._place(bytes(self.strings)),
            10: len(self.strings),
            11: _SYMBOL.size,
            14: own,
        }
        if self.labels:
            entries[0x6FFFFFF0] = self._place(struct.pack(f"<{len(numbers)}H", *numbers))
            entries[0x6FFFFFFC] = self._place(definitions)
            entries[0x6FFFFFFD] = len(self.labels) + 1
        return self._finish(b"".join(struct.pack("<QQ", tag, value) for tag, value in entries.items()) + bytes(16))

    def _code(self) -> tuple[int, int]:
        """Where the function with the status starts, and the one with the sentence."""
        code = self._place(b"\xb8" + struct.pack("<I", self.status) + b"\xc3")  # mov eax, status; ret
        sentence = self._place(f"{self.name} is not in this image: it was built for CPUs\0".encode())
        here = len(self.image) + -len(self.image) % 16
        text = self._place(b"\x48\x8d\x05" + struct.pack("<i", sentence - (here + 7)) + b"\xc3")  # lea rax, [sentence]; ret
        return code, text

    def _version_definitions(self, own: int) -> bytes:
        """The library itself first, then each version; every entry has one name."""
        names = [(self.name, own), *((label, self._string(label)) for label in self.labels)]
        parts = []
        for number, (label, at) in enumerate(names, start=1):
            onward = 28 if number < len(names) else 0
            parts.append(struct.pack("<HHHHIII", 1, int(number == 1), number, 1, _elf_hash(label), 20, onward))
            parts.append(struct.pack("<II", at, 0))
        return b"".join(parts)

    def _finish(self, dynamic: bytes) -> bytes:
        """Code and tables in one read-only segment; the loader writes into the dynamic table, so it has its own."""
        readable = len(self.image)
        self.image += bytes(-len(self.image) % PAGE)
        at = len(self.image)
        segments = [
            Segment(PT_LOAD, 5, 0, 0, 0, readable, readable, PAGE),
            Segment(PT_LOAD, 6, at, at, at, len(dynamic), len(dynamic), PAGE),
            Segment(PT_DYNAMIC, 6, at, at, at, len(dynamic), len(dynamic), 8),
            Segment(PT_GNU_STACK, 6, 0, 0, 0, 0, 0, 16),
        ]
        self.image += dynamic
        identity = b"\x7fELF\x02\x01\x01" + bytes(9)
        header = _HEADER.pack(identity, 3, X86_64, 1, 0, _HEADER.size, 0, 0, _HEADER.size, _SEGMENT.size, len(segments), 64, 0, 0)
        self.image[: len(header)] = header
        table = b"".join(segment.pack() for segment in segments)
        self.image[_HEADER.size : _HEADER.size + len(table)] = table
        return bytes(self.image)


def _hash_table(names: list[str]) -> bytes:
    """The loader's index of symbols: buckets, each the head of a chain."""
    size = max(1, len(names))
    buckets, chains = [0] * size, [0] * (len(names) + 1)
    for number, name in enumerate(names, start=1):
        bucket = _elf_hash(name) % size
        chains[number], buckets[bucket] = buckets[bucket], number
    return struct.pack(f"<{2 + len(buckets) + len(chains)}I", len(buckets), len(chains), *buckets, *chains)


def _elf_hash(name: str) -> int:
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    return value
