"""What Triton's and KServe's clients ask besides inference: the repository, the model's configuration, statistics.

A pod serves one version for as long as it lives. So loading that model is done already, and everything else about the
repository is the ModelService's affair: another version comes with another pod. The statistics are the metrics' counters
since the pod's start, of all protocols together.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from modelmill.contract.servicefile import Batcher
from modelmill.observe import triton
from modelmill.observe.metrics import ROWS, Metrics
from modelmill.observe.series import Distribution
from modelmill.serve.errors import BadRequest
from modelmill.serve.http import Request, Response, json_response
from modelmill.serve.inference import Inference, Phase
from modelmill.serve.protocols.oip_http import PLATFORM
from modelmill.serve.protocols.v1 import document
from modelmill.serve.router import Route
from modelmill.signature import Tensor

BACKEND = "pytorch"
STATES = {Phase.LOADING: "LOADING", Phase.READY: "READY", Phase.DRAINING: "UNLOADING"}
DATA_TYPES = {"BYTES": "TYPE_STRING"}
"""Where a model's configuration has another name for a datatype."""
OTHER_VERSION = "another version comes with the channel that the ModelService follows, or with its spec.model.version"


def routes(inference: Inference, *, batcher: Batcher, metrics: Metrics) -> tuple[Route, ...]:
    api = Repository(inference, batcher=batcher, metrics=metrics)
    of_model = []
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        of_model += [
            Route(method="GET", path=f"{base}/config", endpoint=api.config),
            Route(method="GET", path=f"{base}/stats", endpoint=api.stats),
        ]
    return (
        Route(method="GET", path="/v2/models", endpoint=api.models),
        Route(method="GET", path="/v2/models/stats", endpoint=api.stats),
        Route(method="POST", path="/v2/repository/index", endpoint=api.index),
        Route(method="POST", path="/v2/repository/models/{model}/load", endpoint=api.load),
        Route(method="POST", path="/v2/repository/models/{model}/unload", endpoint=api.unload),
        *of_model,
    )


class Repository:
    def __init__(self, inference: Inference, *, batcher: Batcher, metrics: Metrics) -> None:
        self._inference = inference
        self._batcher = batcher
        self._metrics = metrics

    def models(self, request: Request, values: Mapping[str, str]) -> Response:
        return json_response({"models": [self._inference.model]})

    def index(self, request: Request, values: Mapping[str, str]) -> Response:
        inference = self._inference
        only_ready = _content(request).get("ready", False)
        if not isinstance(only_ready, bool):
            raise BadRequest(f'expected "ready" to be true or false, got {only_ready!r}')
        if only_ready and inference.phase is not Phase.READY:
            return json_response([])
        state = STATES[inference.phase]
        return json_response([{"name": inference.model, "version": inference.version, "state": state, "reason": ""}])

    def load(self, request: Request, values: Mapping[str, str]) -> Response:
        model = values["model"]
        parameters = _content(request).get("parameters", {})
        if model != self._inference.model:
            raise BadRequest(f"model {model!r} cannot be loaded: this pod serves {self._inference.model!r} only; {OTHER_VERSION}")
        if parameters != {}:
            raise BadRequest(f"model {model!r} cannot be loaded with a configuration or files of your own; {OTHER_VERSION}")
        self._inference.require(model)
        return json_response({"name": model, "load": True})

    def unload(self, request: Request, values: Mapping[str, str]) -> Response:
        model = values["model"]
        raise BadRequest(f"model {model!r} cannot be unloaded: a pod serves its version for as long as it lives; {OTHER_VERSION}")

    # --- configuration

    def config(self, request: Request, values: Mapping[str, str]) -> Response:
        inference, batcher = self._inference, self._batcher
        inference.require(values["model"], values.get("version"))
        return json_response(
            {
                "name": inference.model,
                "platform": PLATFORM,
                "backend": BACKEND,
                "max_batch_size": batcher.max_batch_size,
                "input": [_configured(tensor) for tensor in inference.inputs.values()],
                "output": [_configured(tensor) for tensor in inference.outputs.values()],
                "dynamic_batching": {"max_queue_delay_microseconds": round(batcher.max_latency_seconds * 1e6)},
            }
        )

    # --- statistics

    def stats(self, request: Request, values: Mapping[str, str]) -> Response:
        inference, metrics = self._inference, self._metrics
        inference.require(values.get("model", inference.model), values.get("version"))
        compute = _duration(metrics.compute_seconds.labels())
        success = {"count": triton.requests(metrics, triton.SUCCEEDED), "ns": round(triton.request_seconds(metrics) * 1e9)}
        statistics = {
            "name": inference.model,
            "version": inference.version,
            "inference_count": int(metrics.inferences.labels().value),
            "execution_count": int(metrics.executions.labels().value),
            "inference_stats": {
                "success": success,
                "fail": {"count": triton.requests(metrics, triton.FAILED)},
                "queue": _duration(metrics.queue_seconds.labels()),
                "compute_infer": compute,
            },
            "batch_stats": list(self._batches()),
        }
        return json_response({"model_stats": [statistics]})

    def _batches(self) -> Iterator[dict[str, Any]]:
        """Batches by size, up to the next larger one that is listed: the metrics' buckets."""
        sizes = (*ROWS, self._batcher.max_batch_size)
        for size, count in zip(sizes, self._metrics.batch_rows.labels().counts, strict=True):
            if count:
                yield {"batch_size": size, "compute_infer": {"count": count}}


def _content(request: Request) -> Mapping[str, Any]:
    """The request's JSON; clients that have nothing to say send no body."""
    return document(request.body) if request.body else {}


def _configured(tensor: Tensor) -> dict[str, Any]:
    data_type = DATA_TYPES.get(tensor.datatype, f"TYPE_{tensor.datatype}")
    return {"name": tensor.name, "data_type": data_type, "dims": list(tensor.shape[1:])}


def _duration(distribution: Distribution) -> dict[str, int]:
    return {"count": sum(distribution.counts), "ns": round(distribution.sum * 1e9)}
