"""KServe's model: one request at a time."""

import os
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, ModelServer
from kserve import Model as Base  # the peer's environment has it

from benchmarks.serving import workloads
from benchmarks.serving.peers.handlers.shared import Model
from benchmarks.serving.wires import Wire


class Served(Base):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._served = Model()
        self._workload = workloads.find(name)
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        array = self._served([{one.name: one.as_numpy() for one in payload.inputs}])
        output = InferOutput(name=self._workload.output, shape=list(array.shape), datatype="FP32")
        output.set_data_from_numpy(array, binary_data=self._workload.wire is Wire.V2_BINARY)
        # It fails on an answer without id, even to a request without one.
        return InferResponse(response_id=payload.id or "none", model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    ModelServer(http_port=int(os.environ["BENCH_PORT"]), workers=1, enable_grpc=False).start(
        [Served(os.environ["BENCH_WORKLOAD"])]
    )
