"""The server under load: what it says about its model, and whether it accepts the request that the run will send."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from modelmill.cli.load import inputs, request
from modelmill.cli.load.inputs import BadInput
from modelmill.cli.load.plan import Protocol
from modelmill.cli.load.request import Message
from modelmill.client import Client, ClientError, InferenceError, codec, transport
from modelmill.client.exchange import NoReply, message
from modelmill.datatypes import Array
from modelmill.failures import Fault


class TargetError(Fault):
    """The server does not answer, or not as it must for a run."""

    reason = "TargetError"
    fatal = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    url: str
    model: str
    protocol: Protocol
    api_key: str | None
    ca: Path | None
    timeout: float

    def request(self, files: Mapping[str, Path], *, rows: int, length: int | None) -> tuple[Message, int]:
        """The request, and how many rows it has."""
        given = inputs.read(files)
        try:
            with Client(self.url, api_key=self.api_key, ca=self.ca, timeout=self.timeout) as client:
                arrays, declared = self._arrays(client, given, rows=rows, length=length)
                return self._message(client, arrays, declared), next(iter(arrays.values())).shape[0]
        except ClientError as error:
            raise TargetError(str(error)) from error
        except (ValueError, TypeError) as error:  # the URL, the key, the file of authorities, a dtype
            raise BadInput(str(error)) from error

    def _message(self, client: Client, arrays: Mapping[str, Array], declared: Mapping[str, str]) -> Message:
        if self.protocol is Protocol.v1:
            return request.v1(self.model, arrays)
        binary = self.protocol is Protocol.v2 and codec.BINARY_EXTENSION in client.server().extensions
        return request.v2(self.model, arrays, declared=declared, binary=binary)

    def _arrays(
        self, client: Client, given: dict[str, Array], *, rows: int, length: int | None
    ) -> tuple[dict[str, Array], dict[str, str]]:
        """Inputs and their datatypes."""
        try:
            tensors = client.metadata(self.model).inputs
        except InferenceError as error:
            # Servers that speak V1 alone have no metadata.
            if given and self.protocol is Protocol.v1:
                return given, {}
            raise TargetError(f"{self.url} tells no inputs of model {self.model!r}: {error}") from error
        arrays = inputs.completed(given, tensors=tensors, rows=rows, length=length)
        return arrays, {tensor.name: tensor.datatype for tensor in tensors}

    def check(self, wanted: Message) -> None:
        """Sends the request once; raises with the server's words unless it is answered."""
        options = transport.options(self.url, api_key=self.api_key, ca=self.ca)
        with httpx.Client(**options, timeout=self.timeout) as http:
            try:
                answer = http.post(wanted.path, content=wanted.body, headers=dict(wanted.headers))
            except httpx.TransportError as error:
                lost: NoReply = transport.no_reply(error, timeout=self.timeout)
                raise TargetError(f"{self.url}: {lost.text}") from error
        if not answer.is_success:
            told = message(transport.reply(answer))
            raise TargetError(f"the first request was answered {answer.status_code}: {told}; --allow-errors goes on all the same")
