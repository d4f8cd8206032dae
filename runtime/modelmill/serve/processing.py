"""A recipe's own steps before and after the module, run in the server for a whole batch at a time.

Clients see the recipe's `service_signature`; the module sees its own. What `preprocess` returns is checked like a
client's request, because a step that breaks a promise is found at the promise and not somewhere in a kernel.
"""

import logging
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from modelmill.datatypes import NUMPY, Array
from modelmill.recipe import Recipe
from modelmill.serve.errors import BadRequest
from modelmill.serve.model import TorchModel, WrongOutput
from modelmill.serve.protocols.embeddings import is_encoder, takes_texts
from modelmill.serve.rows import TOKENS, Rows
from modelmill.serve.shapes import Shapes
from modelmill.serve.warmup import zeros
from modelmill.signature import Signature, Tensor

log = logging.getLogger(__name__)


class WrongStep(ValueError):
    """`preprocess` returned something else than the module's signature says."""


class ProcessedModel:
    """Rows as clients send them in, rows as they get them out; like the `TorchModel` within."""

    def __init__(
        self, module: TorchModel, recipe: Recipe, *, signature: Signature, alone: "threading.Lock | None" = None
    ) -> None:
        """`alone` is held while a step of the recipe runs."""
        self.signature = signature
        self.device = module.device
        self.module = module
        self._recipe = recipe
        self._alone = alone or threading.Lock()
        self._shapes = Shapes(module.signature)
        self._encoder = takes_texts(signature) and is_encoder(module.signature)

    def __call__(self, rows: Rows) -> Rows:
        # As recipes are promised: whoever writes one need not think of threads.
        with self._alone:
            prepared = self._recipe.preprocess(rows.arrays)
        given = self._checked(prepared, rows.count)
        outputs = self.module(given)
        with self._alone:
            made = self._recipe.postprocess(outputs.arrays)
        arrays = {tensor.name: _output(tensor, made, rows.count) for tensor in self.signature.outputs}
        if self._encoder:
            arrays[TOKENS] = self._tokens(given)
        return Rows(arrays, rows.count)

    def copy(self) -> "ProcessedModel":
        return ProcessedModel(self.module.copy(), self._recipe, signature=self.signature, alone=self._alone)

    def _checked(self, given: Mapping[str, Any], count: int) -> Rows:
        try:
            wanted = {tensor.name: tensor for tensor in self.module.signature.inputs}
            arrays = {name: _array(wanted[name], value) if name in wanted else value for name, value in given.items()}
            rows = self._shapes.checked(arrays)
        except BadRequest as error:
            # Its words are about a client's request, and this is the recipe's mistake.
            raise WrongStep(f"preprocess: {error}") from error
        if rows.count != count:
            raise WrongStep(f"preprocess: {rows.count} rows for {count}; the first dimension must be the batch")
        return rows

    def _tokens(self, given: Rows) -> Array:
        """The last input is the attention mask, where there are two."""
        tensor = self.module.signature.inputs[-1]
        counts: Array = (given.arrays[tensor.name] != tensor.pad).reshape(given.count, -1).sum(axis=1)
        return counts

    def try_out(self) -> None:
        """Runs all steps once; what is sent may be nothing that they understand, so a failure is told and no more."""
        try:
            self(zeros(self.signature, count=1))
        except Exception as error:
            log.info("the recipe's steps could not be tried with made-up input: %s: %s", type(error).__name__, error)


def _array(tensor: Tensor, value: Any) -> Array:
    """numpy's own conversions within a kind, such as float64 to FP32."""
    array = np.asarray(value)
    wanted = NUMPY[tensor.datatype]
    if array.dtype != wanted and not np.can_cast(array.dtype, wanted, casting="same_kind"):
        raise WrongStep(f"preprocess: input {tensor.name!r} is {array.dtype}, the module needs {tensor.datatype}")
    return np.ascontiguousarray(array, wanted)


def _output(tensor: Tensor, made: Mapping[str, Any], count: int) -> Array:
    if tensor.name not in made:
        raise WrongOutput(f"output {tensor.name!r} is missing: postprocess returned {', '.join(made) or 'nothing'}")
    array = np.asarray(made[tensor.name], dtype=object if tensor.datatype == "BYTES" else None)
    if not array.ndim or len(array) != count:
        raise WrongOutput(
            f"output {tensor.name!r}: shape {list(array.shape)} for {count} rows; the first dimension must be the batch"
        )
    return array if tensor.datatype == "BYTES" else np.ascontiguousarray(array, NUMPY[tensor.datatype])
