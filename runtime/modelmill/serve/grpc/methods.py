"""The methods of `inference.GRPCInferenceService`: what `protocols.oip_http` and `protocols.repository` are for HTTP.

Inference has a codec of its own. Whatever else there is to know is asked there, so that both protocols say the same.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import orjson
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message as Protobuf

from modelmill.contract.servicefile import Batcher
from modelmill.observe.metrics import Metrics
from modelmill.serve.errors import Refusal
from modelmill.serve.grpc.exchange import Endpoint, Message, Method, Question
from modelmill.serve.http import Request, Response
from modelmill.serve.http2.stream import Pieces
from modelmill.serve.inference import Inference, Phase
from modelmill.serve.options import Options, options_of
from modelmill.serve.protocols import oip_grpc as codec
from modelmill.serve.protocols.forms import Forms
from modelmill.serve.protocols.grpc_forms import Form, form_of
from modelmill.serve.protocols.oip_http import OpenInference
from modelmill.serve.protocols.repository import Repository
from modelmill.serve.protocols.wire import inference as m
from modelmill.serve.protocols.wire.pool import decoded

Q = TypeVar("Q", bound=Protobuf)
A = TypeVar("A", bound=Protobuf)
HttpEndpoint = Callable[[Request, Mapping[str, str]], Response]
SERVICE = m.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
OPEN = frozenset({"ServerLive", "ServerReady"})


class InferenceService:
    def __init__(self, inference: Inference, *, batcher: Batcher, metrics: Metrics) -> None:
        self._inference = inference
        self._http = OpenInference(inference)
        self._forms: Forms[int, Form] = Forms()
        self._repository = Repository(inference, batcher=batcher, metrics=metrics)

    def unary(self) -> list[Method]:
        endpoints: dict[str, Endpoint] = {
            "ServerLive": plain(m.ServerLiveRequest, self._live),
            "ServerReady": plain(m.ServerReadyRequest, self._ready),
            "ModelReady": plain(m.ModelReadyRequest, self._model_ready),
            "ServerMetadata": plain(m.ServerMetadataRequest, self._server),
            "ModelMetadata": plain(m.ModelMetadataRequest, self._model),
            "ModelConfig": plain(m.ModelConfigRequest, self._config),
            "ModelStatistics": plain(m.ModelStatisticsRequest, self._statistics),
            "RepositoryIndex": plain(m.RepositoryIndexRequest, self._index),
            "RepositoryModelLoad": plain(m.RepositoryModelLoadRequest, self._load),
            "RepositoryModelUnload": plain(m.RepositoryModelUnloadRequest, self._unload),
        }
        plain_methods = [Method(path=f"/{SERVICE}/{name}", endpoint=e, open=name in OPEN) for name, e in endpoints.items()]
        return [Method(path=f"/{SERVICE}/ModelInfer", endpoint=self._infer, protocol="grpc"), *plain_methods]

    def stream(self) -> Method:
        return Method(path=f"/{SERVICE}/ModelStreamInfer", endpoint=self._stream_infer, protocol="grpc")

    # --- inference

    def _infer(self, message: Message, remaining: float | None) -> Question:
        form = self._forms.get(len(message))
        if form and (rows := form.rows(message)):
            options = form.options if remaining is None else _options(form.parameters, remaining)
            return Question(rows=rows, options=options, encode=form.encode)
        return self._question(message, remaining, m.ModelInferResponse(), learn=True)

    def _stream_infer(self, message: Message, remaining: float | None) -> Question:
        # Clients of streams may be told that no other answer to this request follows.
        answer = m.ModelInferResponse(parameters={"triton_final_response": m.InferParameter(bool_param=True)})
        question = self._question(message, remaining, answer)
        encode = question.encode
        question.encode = lambda rows: codec.in_stream(encode(rows))
        return question

    def _question(
        self, message: Message, remaining: float | None, answer: m.ModelInferResponse, *, learn: bool = False
    ) -> Question:
        inference = self._inference
        request, raw = codec.parsed(message)
        inference.require(request.model_name, request.model_version or None)
        arrays = codec.decode(inference.inputs, request, raw)
        asked = codec.outputs_asked(inference.outputs, request)
        parameters = codec.parameters_of(request.parameters)
        options = _options(parameters, remaining)
        answer.model_name, answer.model_version, answer.id = inference.model, inference.version, request.id
        rows, encode = inference.rows(arrays), codec.Answers(answer, asked)
        # A name of its own makes each request another; of a large one reading it is no cost.
        learn = learn and bool(raw) and not request.id and len(message) < codec.SPLIT_BYTES
        if learn and (form := form_of(message, raw, rows, arrays, encode=encode, parameters=parameters)):
            self._forms.learn(len(message), form)
        return Question(rows=rows, options=options, encode=encode)

    # --- health and metadata

    def _live(self, request: m.ServerLiveRequest) -> m.ServerLiveResponse:
        return m.ServerLiveResponse(live=True)

    def _ready(self, request: m.ServerReadyRequest) -> m.ServerReadyResponse:
        return m.ServerReadyResponse(ready=self._inference.phase is Phase.READY)

    def _model_ready(self, request: m.ModelReadyRequest) -> m.ModelReadyResponse:
        try:
            self._inference.require(request.name, request.version or None)
        except Refusal:
            return m.ModelReadyResponse(ready=False)
        return m.ModelReadyResponse(ready=True)

    def _server(self, request: m.ServerMetadataRequest) -> m.ServerMetadataResponse:
        return _same(self._http.server, m.ServerMetadataResponse())

    def _model(self, request: m.ModelMetadataRequest) -> m.ModelMetadataResponse:
        return _same(self._http.model, m.ModelMetadataResponse(), model=request.name, version=request.version)

    # --- configuration, statistics, repository

    def _config(self, request: m.ModelConfigRequest) -> m.ModelConfigResponse:
        config = _same(self._repository.config, m.ModelConfig(), model=request.name, version=request.version)
        return m.ModelConfigResponse(config=config)

    def _statistics(self, request: m.ModelStatisticsRequest) -> m.ModelStatisticsResponse:
        return _same(self._repository.stats, m.ModelStatisticsResponse(), model=request.name, version=request.version)

    def _index(self, request: m.RepositoryIndexRequest) -> m.RepositoryIndexResponse:
        models = _asked(self._repository.index, {"ready": request.ready})
        return ParseDict({"models": models}, m.RepositoryIndexResponse())

    def _load(self, request: m.RepositoryModelLoadRequest) -> m.RepositoryModelLoadResponse:
        _asked(self._repository.load, {"parameters": dict.fromkeys(request.parameters)}, model=request.model_name)
        return m.RepositoryModelLoadResponse()

    def _unload(self, request: m.RepositoryModelUnloadRequest) -> m.RepositoryModelUnloadResponse:
        _asked(self._repository.unload, {}, model=request.model_name)
        return m.RepositoryModelUnloadResponse()


def _options(parameters: Mapping[str, Any], remaining: float | None) -> Options:
    return options_of(parameters if remaining is None else codec.with_deadline(dict(parameters), remaining))


def _same(endpoint: HttpEndpoint, answer: A, **values: str) -> A:
    """What the same question is answered over HTTP, as a message."""
    return ParseDict(_asked(endpoint, {}, **values), answer)


def _asked(endpoint: HttpEndpoint, body: Mapping[str, Any], **values: str) -> Any:
    """gRPC's empty texts are what HTTP leaves out."""
    request = Request(method="POST", path="", headers={}, body=orjson.dumps(body))
    response = endpoint(request, {name: value for name, value in values.items() if value})
    return orjson.loads(b"".join(response.body))


def plain(request: type[Q], method: Callable[[Q], Protobuf]) -> Endpoint:
    """A method that answers at once, as an endpoint."""

    def endpoint(message: Message, remaining: float | None) -> Pieces:
        return [method(decoded(request, message)).SerializeToString()]

    return endpoint
