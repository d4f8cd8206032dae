"""The .proto files' messages as classes in a pool of their own.

protobuf's default pool takes each message name once. Another package's `inference.*` (tritonclient has one, a recipe
may import it) must not keep the server from starting, nor the other way round. So nothing is generated as Python: the
classes are made from the descriptors that `make proto` writes.
"""

from pathlib import Path
from typing import TypeVar

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from modelmill.serve.errors import BadRequest

M = TypeVar("M", bound=Message)
_pool = DescriptorPool()
for _file in FileDescriptorSet.FromString(Path(__file__).with_name("descriptors.binpb").read_bytes()).file:
    _pool.Add(_file)


def file(name: str) -> FileDescriptor:
    return _pool.FindFileByName(name)


def messages(name: str) -> dict[str, type[Message]]:
    return {message.name: GetMessageClass(message) for message in file(name).message_types_by_name.values()}


def decoded(kind: type[M], content: bytes | bytearray) -> M:
    try:
        return kind.FromString(bytes(content))
    except DecodeError as error:
        raise BadRequest(f"the message is not an {kind.DESCRIPTOR.full_name}") from error
