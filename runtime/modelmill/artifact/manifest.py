"""The manifest: all that is known about one version, and the digest of every byte of it.

It is canonical JSON (sorted keys, no spaces, no NaN), so that a version's identity is one number: the SHA-256 of
manifest.json. Files are digested whole and in chunks: a reader can check the part that it reads. Whoever reads a
manifest trusts the digest it came with, and nothing else: paths, sizes and counts are checked here before use.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from modelmill.artifact.compiled import Compiled
from modelmill.artifact.errors import DigestMismatch, ManifestError
from modelmill.contract import codec
from modelmill.contract.servicefile import VLLM
from modelmill.contract.steps import Step
from modelmill.signature import Signature

SCHEMA = 1
NAME = "manifest.json"
CLAIM = "claim"
RECIPE = "recipe"
PROGRAM = "program"
HUGGINGFACE = "huggingface"
MAX_BYTES = 64 << 20
"""Of manifest.json; its chunk digests then cover some terabytes of weights."""
MAX_FILE_BYTES = 1 << 44
MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = 1 << 10, 1 << 30
_HEX = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_VARIANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    path: str
    """Below the version's folder."""
    bytes: int
    digest: str
    """sha256:<hex> of the whole file"""
    chunk_bytes: int
    chunks: tuple[str, ...]
    """Hex SHA-256 of each chunk; the last one may be shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    name: str
    file: str
    bytes: int
    """Of all its files."""
    more_files: tuple[str, ...] = ()
    """The rest of the weights, where they are in several files: those of a generative model."""
    steps: tuple[Step, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    """Measured on held-out data; empty for an imported model."""
    latency_millis: float | None = None
    """Median of one forward pass of one row, one thread, on the machine that evaluated it."""
    tier: str | None = None
    compiled: tuple[Compiled, ...] = ()
    """For machines of different kinds; readers that know nothing of them serve as ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What rebuilds the module: a recipe's sources, or one exported program. Of a generative model: all but its weights."""

    kind: str
    """recipe | program | huggingface: config.json, tokenizer and the like, without any code"""
    files: tuple[str, ...]
    entrypoint: str | None = None
    """`module:Class` of a recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where the version comes from."""

    origin: str
    """training | import"""
    job: str | None = None
    uid: str | None = None
    modelmill: str | None = None
    """Release of Modelmill that wrote the manifest."""
    seed: int | None = None
    data: dict[str, str] = field(default_factory=dict)
    """Digest of each data set, by its part: train, validation, test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    model: str
    version: int
    created: str
    """RFC 3339, UTC"""
    lineage: Lineage
    signature: Signature
    """The module's; empty for a generative model, which speaks OpenAI's protocol."""
    code: Code
    variants: tuple[Variant, ...]
    files: tuple[File, ...]
    schema: int = SCHEMA
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    service: Signature | None = None
    """What clients see, where the recipe's own steps before or after the module run in the server."""

    @property
    def engine(self) -> str | None:
        """What serves the version instead of this runtime: vLLM, if the model is generative."""
        return VLLM if self.code.kind == HUGGINGFACE else None

    def variant(self, name: str) -> Variant | None:
        return next((variant for variant in self.variants if variant.name == name), None)

    def file(self, path: str) -> File:
        """A listed file; `parse` has checked that code and variants name listed ones."""
        return next(file for file in self.files if file.path == path)


def encode(manifest: Manifest) -> bytes:
    check(manifest)
    try:
        text = json.dumps(codec.to_dict(manifest), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ManifestError(f"the manifest of {manifest.model} cannot be written as JSON: {error}") from error
    return text.encode()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse(data: bytes, *, expected_digest: str | None = None, where: str) -> Manifest:
    """The manifest in `data`; `expected_digest` is what the reader was told by somebody it trusts."""
    if expected_digest is not None and digest(data) != expected_digest:
        raise DigestMismatch(
            f"{where}: the manifest's digest is {digest(data)}, not {expected_digest}: the store was changed since this "
            f"version was chosen; choose it again, or restore the manifest"
        )
    try:
        if len(data) > MAX_BYTES:
            raise ManifestError(f"it has {len(data)} bytes, at most {MAX_BYTES} are read")
        raw = json.loads(data)
        if isinstance(raw, dict) and isinstance(raw.get("schema"), int) and raw["schema"] > SCHEMA:
            raise ManifestError(f"its schema is {raw['schema']}, this release reads up to {SCHEMA}: use a newer runtime image")
        manifest = codec.from_dict(Manifest, raw)
        check(manifest)
    except (ValueError, RecursionError, ManifestError) as error:
        raise ManifestError(f"{where}: not a manifest that can be used: {error}") from error
    return manifest


def check(manifest: Manifest) -> None:
    """Refuses what a reader must not act on: paths that lead elsewhere, numbers that do not add up."""
    if manifest.schema != SCHEMA:
        raise ManifestError(f"schema: {manifest.schema} is not {SCHEMA}")
    if manifest.version < 1:
        raise ManifestError(f"version: {manifest.version} is less than 1")
    for file in manifest.files:
        _check_file(file)
    paths = [file.path for file in manifest.files]
    _check_unique("files", paths)
    _check_unique("variants", [variant.name for variant in manifest.variants])
    _check_code(manifest.code, paths)
    for variant in manifest.variants:
        if not _VARIANT.fullmatch(variant.name):
            raise ManifestError(f"variants: {variant.name!r} is not a name of letters, digits, '.', '_' and '-'")
        for path in (variant.file, *variant.more_files):
            if path not in paths:
                raise ManifestError(f"variant {variant.name}: file {path!r} is not listed in files")
        for compiled in variant.compiled:
            if compiled.file not in paths:
                raise ManifestError(f"variant {variant.name}: compiled {compiled.file!r} is not listed in files")
        if variant.bytes != sum(manifest.file(path).bytes for path in (variant.file, *variant.more_files)):
            raise ManifestError(f"variant {variant.name}: {variant.bytes} bytes, but its file has another size")


def safe_path(path: str) -> bool:
    """Whether the path stays in the folder that it is joined to, written in the one canonical way."""
    parts = PurePosixPath(path).parts
    plain = all(c.isprintable() and c != "\\" for c in path)
    return bool(parts) and plain and "/".join(parts) == path and not path.startswith("/") and ".." not in parts


def _check_file(file: File) -> None:
    where = f"file {file.path!r}"
    if not safe_path(file.path) or file.path in (NAME, CLAIM):
        raise ManifestError(f"{where}: not a path inside a version")
    if not 0 <= file.bytes <= MAX_FILE_BYTES:
        raise ManifestError(f"{where}: {file.bytes} bytes is not a size from 0 to {MAX_FILE_BYTES}")
    if not MIN_CHUNK_BYTES <= file.chunk_bytes <= MAX_CHUNK_BYTES:
        raise ManifestError(f"{where}: chunkBytes {file.chunk_bytes} is not from {MIN_CHUNK_BYTES} to {MAX_CHUNK_BYTES}")
    wanted = -(-file.bytes // file.chunk_bytes)
    if len(file.chunks) != wanted:
        raise ManifestError(f"{where}: {len(file.chunks)} chunks, {wanted} are needed for {file.bytes} bytes")
    if not _DIGEST.fullmatch(file.digest) or not all(_HEX.fullmatch(chunk) for chunk in file.chunks):
        raise ManifestError(f"{where}: a digest is not SHA-256 in lower-case hex")


def _check_unique(what: str, names: list[str]) -> None:
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) != len(names) else set()
    if twice:
        raise ManifestError(f"{what}: {', '.join(sorted(twice))} more than once")


def _check_code(code: Code, paths: list[str]) -> None:
    for path in code.files:
        if path not in paths:
            raise ManifestError(f"code: {path!r} is not listed in files")
    if code.kind == RECIPE:
        if not code.entrypoint:
            raise ManifestError("code: a recipe needs an entrypoint")
    elif code.kind != HUGGINGFACE and (code.kind != PROGRAM or len(code.files) != 1):
        raise ManifestError(
            f"code: {code.kind!r} with {len(code.files)} files is neither a recipe nor one exported program "
            f"nor a generative model"
        )
