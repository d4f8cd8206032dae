"""OpenAI's own Python client, unmodified, against an encoder."""

from collections.abc import Iterator

import numpy as np
import openai
import pytest
import torch

from modelmill.signature import Signature, Tensor
from tests.unit.serve.support import running

ENCODER = Signature(
    inputs=tuple(Tensor(name=name, datatype="INT64", shape=(-1, -1), pad=0) for name in ("ids", "mask")),
    outputs=(Tensor(name="vector", shape=(-1, 2)),),
)
KEY = "secret"
ROWS = [[5, 7, 9], [100], [2, 4]]


def encoder(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean and number of a row's tokens."""
    count = mask.sum(dim=1)
    return torch.stack([(ids * mask).sum(dim=1) / count, count.float()], dim=1)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    with running(encoder, signature=ENCODER, api_key_file=str(keys)) as server:
        url = f"http://127.0.0.1:{server.server.port}/v1"
        with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as found:
            yield found


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["m"]


def test_rows_of_any_lengths_become_vectors(client: openai.OpenAI) -> None:
    # Unless told otherwise this client asks for base64.
    answer = client.embeddings.create(model="m", input=ROWS)
    np.testing.assert_allclose([entry.embedding for entry in answer.data], [[7, 3], [100, 1], [3, 2]])
    assert [entry.index for entry in answer.data] == [0, 1, 2]
    assert answer.usage.total_tokens == 6


def test_one_row_and_plain_numbers_do_too(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="m", input=[1, 2], encoding_format="float", dimensions=2)
    assert answer.data[0].embedding == [1.5, 2.0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("text", "takes token ids"),
        (["text"], "takes token ids"),
        ([], "list of token ids"),
        ([[1], []], "row 1"),
        ([[1.5]], "row 0"),
        ([[2**63]], "row 0"),
    ],
)
def test_what_is_no_token_is_refused_in_words(client: openai.OpenAI, given: object, words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        client.embeddings.create(model="m", input=given)  # type: ignore[arg-type]  # wrong on purpose


def test_wrong_models_sizes_and_keys_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="serves 'm'"):
        client.embeddings.create(model="other", input=[1])
    with pytest.raises(openai.BadRequestError, match="2 numbers"):
        client.embeddings.create(model="m", input=[1], dimensions=3)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="guess").embeddings.create(model="m", input=[1])


def test_a_model_that_is_no_encoder_says_what_one_is() -> None:
    with running() as server:
        status, answer = server.ask("POST", "/v1/embeddings", {"model": "m", "input": [1]})
        assert (status, "no encoder" in answer["error"]["message"]) == (400, True)
