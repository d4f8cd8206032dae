"""LitServe's API: decode, batch, predict, unbatch, encode."""

import base64
import os
from typing import Any

import litserve  # type: ignore[import-not-found]  # the peer's environment has it

from benchmarks.serving import workloads
from benchmarks.serving.peers.handlers.shared import Array, Model
from benchmarks.serving.peers.peer import DELAY_SECONDS, MAX_ROWS


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self._model = Model()

    def decode_request(self, request: dict[str, Any]) -> workloads.Row:
        row = request["rows"][0]
        self._text = isinstance(row, str)
        return self._model.row(base64.b64decode(row)) if self._text else self._model.row_of_numbers(row)

    def batch(self, inputs: list[workloads.Row]) -> list[workloads.Row]:
        return inputs

    def predict(self, batch: list[workloads.Row]) -> Array:
        return self._model(batch)

    def unbatch(self, output: Array) -> list[Array]:
        return list(output)

    def encode_response(self, output: Array) -> dict[str, Any]:
        return {"rows": [base64.b64encode(output.tobytes()).decode() if self._text else output.tolist()]}


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=MAX_ROWS, batch_timeout=DELAY_SECONDS), accelerator="cpu", workers_per_device=1
    )
    server.run(
        host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), num_api_servers=1, generate_client_file=False, access_log=False
    )
