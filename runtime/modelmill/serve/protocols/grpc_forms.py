"""Forms of `ModelInferRequest`: messages that differ from a checked one in their raw tensors only pass without protobuf.

Fields of a message come in the order of their numbers from most clients, raw tensors last. All of a message but those is
compared byte by byte: it is found by its length, which raw tensors of fixed sizes determine.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from modelmill.serve.options import options_of
from modelmill.serve.protocols.forms import MOST_BYTES, Layout, layout
from modelmill.serve.protocols.oip_grpc import RAW_INPUT_CONTENTS, Answers, Raw, prefix
from modelmill.serve.rows import Rows


class Form:
    __slots__ = ("_begin", "_heads", "_layout", "encode", "options", "parameters")

    def __init__(
        self,
        begin: bytes,
        heads: Sequence[tuple[int, bytes]],
        found: Layout,
        *,
        encode: Answers,
        parameters: Mapping[str, Any],
    ) -> None:
        """`begin`: all before the raw tensors; `heads`: what stands before each of them, and where it ends."""
        self._begin = begin
        self._heads = [(end - len(head), end, head) for end, head in heads]
        self._layout = found
        self.encode = encode
        self.parameters = parameters
        self.options = options_of(parameters)
        """Where the client gives no deadline of its own."""

    def rows(self, message: bytes | bytearray) -> Rows | None:
        """None: this message of the same length is another."""
        if not message.startswith(self._begin):
            return None
        for start, end, head in self._heads:
            if message[start:end] != head:
                return None
        return self._layout.rows(message)


def form_of(
    message: bytes | bytearray,
    tensors: Raw,
    rows: Rows,
    names: Iterable[str],
    *,
    encode: Answers,
    parameters: Mapping[str, Any],
) -> Form | None:
    """`tensors` as they were sent, called `names`; None where others may not be taken by this message.

    Model and version are among what is compared, and were found to be this pod's.
    """
    heads, end = [], len(message) - sum(len(each) + len(prefix(RAW_INPUT_CONTENTS, len(each))) for each in tensors)
    begin = bytes(message[:end])
    for each in tensors:
        head = prefix(RAW_INPUT_CONTENTS, len(each))
        end += len(head)
        heads.append((end, head))
        end += len(each)
    ends = {name: at for name, (at, _) in zip(names, heads, strict=True)}
    as_sent = b"".join(chain.from_iterable((head, bytes(each)) for (_, head), each in zip(heads, tensors, strict=True)))
    if not heads or len(begin) > MOST_BYTES or not message.endswith(as_sent) or (found := layout(rows, ends)) is None:
        return None
    return Form(begin, heads, found, encode=encode, parameters=parameters)
