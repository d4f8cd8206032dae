"""Texts in, labels out: a recipe's own steps run in the server, in batches, and every protocol carries BYTES."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from torch import nn

from modelmill import BadInput, Recipe, Signature, Tensor
from modelmill.artifact.import_ import Source, import_model
from modelmill.artifact.registry import Registry
from modelmill.client import Client
from modelmill.contract.servicefile import ServiceFile
from modelmill.datatypes import Array
from modelmill.recipe import RecipeError
from modelmill.serve.loader import load
from modelmill.serve.model import TorchModel
from modelmill.serve.phases import Phases
from modelmill.serve.processing import ProcessedModel
from tests.unit.serve.support import Running, running

INFER = "/v2/models/m/infer"


class Sums(nn.Module):
    """Of a row's tokens, and how many there are."""

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.stack([(ids * mask).sum(dim=1), mask.sum(dim=1)], dim=1).float()


class Words(Recipe):
    """A token is a word, its id the word's length."""

    batches: list[int]

    def model(self) -> nn.Module:
        return Sums()

    def signature(self) -> Signature:
        ragged = tuple(Tensor(name=name, datatype="INT64", shape=(-1, -1), pad=0) for name in ("ids", "mask"))
        return Signature(inputs=ragged, outputs=(Tensor(name="sums", shape=(-1, 2)),))

    def service_signature(self) -> Signature:
        outputs = Tensor(name="sums", shape=(-1, 2)), Tensor(name="label", datatype="BYTES", shape=(-1,))
        return Signature(inputs=(Tensor(name="text", datatype="BYTES", shape=(-1,)),), outputs=outputs)

    def preprocess(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        rows = []
        for text in inputs["text"]:
            try:
                rows.append([len(word) for word in text.decode().split()])
            except UnicodeDecodeError:
                raise BadInput("the text is not UTF-8") from None
            if not rows[-1]:
                raise BadInput("the text has no words")
        self.batches.append(len(rows))
        longest = max(map(len, rows))
        ids = np.array([row + [0] * (longest - len(row)) for row in rows])
        return {"ids": ids, "mask": (ids != 0).astype(np.int64)}

    def postprocess(self, outputs: Mapping[str, Array]) -> Mapping[str, Array]:
        labels = ["many" if count > 3 else b"f\xffew" if total == 666 else "few" for total, count in outputs["sums"]]
        return {**outputs, "label": np.array(labels, dtype=object)}


def processed(recipe: Recipe) -> Any:
    def loader(service: ServiceFile, *, phases: Phases, into: Path) -> ProcessedModel:
        torch.set_num_threads(1)
        model = TorchModel(recipe.model(), signature=recipe.signature())
        return ProcessedModel(model, recipe, signature=recipe.service_signature())

    return loader


@pytest.fixture(scope="module")
def recipe() -> Words:
    recipe = Words({})
    recipe.batches = []
    return recipe


@pytest.fixture(scope="module")
def server(recipe: Words) -> Iterator[Running]:
    with running(loader=processed(recipe), max_request_bytes=1 << 20) as handle:
        yield handle


def text(*texts: str, **changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts), **changes}]}


def test_v1_takes_texts_and_answers_labels(server: Running) -> None:
    answer = {"predictions": [{"sums": [5.0, 2.0], "label": "few"}, {"sums": [4.0, 4.0], "label": "many"}]}
    assert server.predict(["one is", "a b c d"])[0] == 200
    assert server.predict(["a four", "a b c d"]) == (200, answer)
    assert server.ask("POST", "/v1/models/m:predict", {"inputs": {"text": ["a four", "a b c d"]}}) == (200, answer)


def test_v2_takes_texts_and_answers_labels(server: Running) -> None:
    status, answer = server.ask("POST", INFER, text("ä four", "a b c d"))
    assert status == 200
    sums, label = answer["outputs"]
    assert (sums["data"], label) == (
        [5.0, 2.0, 4.0, 4.0],
        {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["few", "many"]},
    )


@pytest.mark.parametrize("binary", [False, True])
def test_triton_s_http_client_sends_and_gets_texts(server: Running, binary: bool) -> None:
    client = triton_http.InferenceServerClient(f"127.0.0.1:{server.server.port}")
    tensor = triton_http.InferInput("text", [2], "BYTES")
    tensor.set_data_from_numpy(np.array(["ä four", "a b c d"], dtype=object), binary_data=binary)
    answer = client.infer("m", [tensor], outputs=[triton_http.InferRequestedOutput("label", binary_data=binary)])
    found = answer.as_numpy("label").tolist()
    assert [label.decode() if isinstance(label, bytes) else label for label in found] == ["few", "many"]
    client.close()


def test_triton_s_grpc_client_sends_and_gets_texts(server: Running) -> None:
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{server.server.grpc_port}")
    tensor = triton_grpc.InferInput("text", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([b"a four", b"a b c d"], dtype=object))
    answer = client.infer("m", [tensor])
    assert answer.as_numpy("label").tolist() == [b"few", b"many"]
    np.testing.assert_array_equal(answer.as_numpy("sums"), [[5, 2], [4, 4]])
    client.close()


def test_our_client_sends_and_gets_texts(server: Running) -> None:
    with Client(f"http://127.0.0.1:{server.server.port}") as client:
        answer = client.infer("m", {"text": np.array(["a four", "a b c d"], dtype=object)})
        assert answer["label"].tolist() == [b"few", b"many"]


def test_embeddings_of_texts_tell_their_tokens(server: Running) -> None:
    asked = {"model": "m", "input": ["a four", "a b c d"]}
    status, answer = server.ask("POST", "/v1/embeddings", asked)
    assert status == 200
    assert [entry["embedding"] for entry in answer["data"]] == [[5.0, 2.0], [4.0, 4.0]]
    assert answer["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert server.ask("POST", "/v1/embeddings", {"model": "m", "input": "a four"})[1]["usage"]["total_tokens"] == 2
    status, answer = server.ask("POST", "/v1/embeddings", {"model": "m", "input": [[1, 2]]})
    assert (status, "a text or a list of texts" in answer["error"]["message"]) == (400, True)


TEXTS = st.lists(
    st.lists(st.sampled_from(["a", "bb", "ccc", "dädä"]), min_size=1, max_size=30).map(" ".join), min_size=1, max_size=6
)


@given(requests=st.lists(TEXTS, min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_texts_of_all_lengths_are_answered_as_if_each_was_alone(server: Running, requests: list[list[str]]) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(server.predict, requests))
    for texts, (status, answer) in zip(requests, answers, strict=True):
        assert status == 200
        expected = [[float(sum(map(len, each.split()))), float(len(each.split()))] for each in texts]
        assert [row["sums"] for row in answer["predictions"]] == expected


def test_steps_run_for_a_batch_at_a_time(server: Running, recipe: Words) -> None:
    recipe.batches.clear()
    assert server.predict(["some words"] * 20)[0] == 200
    assert recipe.batches == [20]


def test_what_a_step_refuses_is_told_to_that_client_alone(server: Running) -> None:
    failed = server.metric("failed_executions_total")
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda each: server.predict([each]), ["a", "", "b c", " ", "d"] * 4))
    for i, (status, answer) in enumerate(answers):
        if i % 5 in (1, 3):
            assert (status, answer) == (400, {"error": "the text has no words"})
        else:
            assert status == 200
    assert server.metric("failed_executions_total") == failed


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a number among texts": (text("a", data=["a", 1], shape=[2]), "input 'text': expected strings, got 1"),
    "too few": (text("a", shape=[2]), "input 'text': 1 values given, shape [2] holds 2"),
    "ragged": (text("a", data=[["a", "b"], ["c"]], shape=[2]), "input 'text': its rows have different lengths"),
    "nested and not": (text("a", data=[["a"], "c"], shape=[2]), "input 'text': its rows have different lengths"),
    "another datatype": (text("a", datatype="FP32"), "input 'text': datatype 'FP32' given, the model needs BYTES"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_text_is_refused_in_words(server: Running, name: str) -> None:
    request, words = REFUSED[name]
    status, answer = server.ask("POST", INFER, request)
    assert status == 400
    assert words in answer["error"]


@pytest.mark.parametrize("tail", [b"\5\0\0\0abc", b"\1\0", b"\xff\xff\xff\xffa", b"\1\0\0\0a\1\0\0\0b"])
def test_raw_texts_that_do_not_fit_are_refused(server: Running, tail: bytes) -> None:
    header = json.dumps(text(shape=[1], parameters={"binary_data_size": len(tail)})).replace('"data": [], ', "").encode()
    status, answer = server.ask("POST", INFER, header + tail, headers={"Inference-Header-Content-Length": str(len(header))})
    assert status == 400
    assert answer["error"].startswith("input 'text': ")


def test_bytes_that_are_no_text_come_raw_or_are_refused_in_words(server: Running) -> None:
    asked = ["x" * 666]
    status, answer = server.predict(asked)
    assert (status, "output 'label' is not text" in answer["error"]) == (400, True)
    with Client(f"http://127.0.0.1:{server.server.port}") as client:
        assert client.infer("m", {"text": np.array(asked, dtype=object)})["label"].tolist() == [b"f\xffew"]


class Wrong(Words):
    """Breaks its promise in the way that the hyperparameter says."""

    def preprocess(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        made = {"ids": np.ones((len(inputs["text"]), 2), np.int64), "mask": np.ones((len(inputs["text"]), 2), np.int64)}
        way = self.hyperparameters["way"]
        if way == "rows":
            return {name: np.ones((7, 2), np.int64) for name in made}
        if way == "datatype":
            return {**made, "ids": np.ones((len(inputs["text"]), 2))}
        if way == "missing":
            return {"ids": made["ids"]}
        return made

    def postprocess(self, outputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return outputs


WRONG = {
    "rows": "WrongStep: preprocess: 7 rows for 1",
    "datatype": "WrongStep: preprocess: input 'ids' is float64, the module needs INT64",
    "missing": "WrongStep: preprocess: input 'mask' is missing",
    "output": "WrongOutput: output 'label' is missing: postprocess returned sums",
}


@pytest.mark.parametrize("way", WRONG)
def test_a_step_that_breaks_its_promise_is_told(way: str) -> None:
    with running(loader=processed(Wrong({"way": way}))) as server:
        status, answer = server.predict(["a"])
        assert status == 500
        assert WRONG[way] in answer["error"]


RECIPE = """
import numpy as np
from torch import nn
from modelmill import Recipe, Signature, Tensor


class Named(Recipe):
    def model(self):
        return nn.Linear(3, 2, bias=False)

    def signature(self):
        return Signature(inputs=(Tensor(name="x", shape=(-1, 3)),), outputs=(Tensor(name="y", shape=(-1, 2)),))

    def service_signature(self):
        return Signature(inputs=self.signature().inputs, outputs=(Tensor(name="class", datatype="BYTES", shape=(-1,)),))

    def preprocess(self, inputs):
        return {"x": inputs["x"] / 255}

    def postprocess(self, outputs):
        return {"class": np.array(["cat", "dog"], dtype=object)[outputs["y"].argmax(axis=1)]}
"""


def test_a_module_that_is_to_take_texts_itself_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "named.py").write_text(RECIPE.replace("shape=(-1, 3)", 'datatype="BYTES", shape=(-1, 3)'))
    save_file({"weight": torch.zeros(2, 3)}, tmp_path / "w.safetensors")
    source = Source(weights=tmp_path / "w.safetensors", recipe=tmp_path, entrypoint="named:Named")
    with pytest.raises(RecipeError, match=r"signature\(\): 'x' is BYTES, which no module computes on; declare it in service_sig"):
        import_model(Registry(url=f"file://{tmp_path}/registry", namespace="default"), "m", source=source, channel=None)


def test_the_steps_are_published_with_the_model_and_served(tmp_path: Path) -> None:
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "named.py").write_text(RECIPE)
    save_file({"weight": torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])}, tmp_path / "w.safetensors")
    registry = Registry(url=f"file://{tmp_path}/registry", namespace="default")
    source = Source(weights=tmp_path / "w.safetensors", recipe=folder, entrypoint="named:Named")
    published = import_model(registry, "m", source=source, channel=None)
    assert published.manifest.service is not None
    with running(loader=load, registry=registry.url, digest=published.digest, version=1) as server:
        assert server.predict([[255, 0, 0], [0, 255, 0]]) == (200, {"predictions": ["cat", "dog"]})
        described = server.ask("GET", "/v2/models/m")[1]
        assert described["outputs"] == [{"name": "class", "datatype": "BYTES", "shape": [-1]}]


def test_the_documented_encoder_of_texts_is_served_to_openai_s_protocol(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text()
    (code,) = [block.partition("```")[0] for block in page.split("```python\n")[1:] if "class TextEncoder" in block]
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "encoder.py").write_text(code)
    words = {"[PAD]": 0, "[UNK]": 1, "small": 2, "large": 3, "mill": 4, "##s": 5}
    tokenizer = Tokenizer(WordPiece(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    vectors = torch.randn(100, 4)
    save_file({"words.weight": vectors}, tmp_path / "w.safetensors")
    registry = Registry(url=f"file://{tmp_path}/registry", namespace="default")
    source = Source(weights=tmp_path / "w.safetensors", recipe=folder, entrypoint="encoder:TextEncoder")
    published = import_model(registry, "m", source=source, channel=None)
    with running(loader=load, registry=registry.url, digest=published.digest, version=1) as server:
        status, answer = server.ask("POST", "/v1/embeddings", {"model": "m", "input": ["small mills", "large"]})
        assert status == 200
        assert answer["usage"]["total_tokens"] == 4
        found = [entry["embedding"] for entry in answer["data"]]
        np.testing.assert_allclose(found, [vectors[[2, 4, 5]].mean(0).tolist(), vectors[3].tolist()], rtol=1e-5)
