"""Triton's Python backend: a list of requests in, a list of responses out."""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb  # type: ignore[import-not-found]  # Triton brings it

from benchmarks.serving import workloads
from benchmarks.serving.peers.handlers.shared import Model


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._model = Model()
        workload = workloads.find(args["model_name"])
        self._inputs, self._output = tuple(workload.all_rows()[0]), workload.output

    def execute(self, requests: list[Any]) -> list[Any]:
        rows = [{name: pb.get_input_tensor_by_name(one, name).as_numpy() for name in self._inputs} for one in requests]
        output = np.ascontiguousarray(self._model(rows))
        return [pb.InferenceResponse(output_tensors=[pb.Tensor(self._output, output[i : i + 1])]) for i in range(len(requests))]
