"""MLServer's runtime: one request that holds the rows of many."""

from typing import Any

from mlserver import MLModel  # type: ignore[import-not-found]  # the peer's environment has it
from mlserver.codecs import Base64Codec, NumpyCodec  # type: ignore[import-not-found]  # as above
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]  # as above

from benchmarks.serving import workloads
from benchmarks.serving.peers.handlers.shared import Model


class Runtime(MLModel):
    async def load(self) -> bool:
        self._served = Model()
        self._output_name = workloads.find(self.name).output
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        if payload.inputs[0].datatype == "BYTES":
            columns = [Base64Codec.decode_input(one) for one in payload.inputs]
            rows = [self._served.row(b"".join(parts)) for parts in zip(*columns, strict=True)]
            output: Any = Base64Codec.encode_output(self._output_name, [row.tobytes() for row in self._served(rows)])
        else:
            array = NumpyCodec.decode_input(payload.inputs[0])
            output = NumpyCodec.encode_output(
                self._output_name, self._served([self._served.row_of_numbers(row) for row in array])
            )
        return InferenceResponse(model_name=self.name, outputs=[output])
