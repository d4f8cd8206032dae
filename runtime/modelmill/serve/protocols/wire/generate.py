"""Generates from the .proto files what `pool` loads, and its types: `python -m modelmill.serve.protocols.wire.generate`.

Needs grpcio-tools, which only the development environment has.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
FILES = ("health", "inference")
DESCRIPTORS = "descriptors.binpb"
HEADER = """\
# Generated from {file}.proto by `make proto`: nobody formats it, and protoc leaves out what mappings map.
# ruff: noqa
# fmt: off
# mypy: disable-error-code="type-arg"
"""


def generate(into: Path = FOLDER) -> None:
    """Writes the descriptors and the types of the messages into this folder; raises when a text has a mistake."""
    from grpc_tools import protoc

    options = (f"--proto_path={FOLDER}", f"--descriptor_set_out={into / DESCRIPTORS}", f"--pyi_out={into}")
    if protoc.main(("protoc", *options, *(f"{file}.proto" for file in FILES))):
        raise SystemExit("protoc found a mistake")
    for file in FILES:
        generated = into / f"{file}_pb2.pyi"
        (into / f"{file}.pyi").write_text(HEADER.format(file=file) + generated.read_text())
        generated.unlink()


if __name__ == "__main__":
    generate()
