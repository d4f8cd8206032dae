"""The operators of sparse and binary weights under torch.export, all in one program: exporting takes seconds to import."""

import torch

from modelmill.kernels import binary, blocks, products, sparse
from modelmill.kernels.block_conv import block_conv2d
from tests.compression.kernels.sparse_weights import as_codes, pruned


def test_a_layer_of_every_operator_is_exported_and_answers_the_same() -> None:
    codes, scale = as_codes(pruned(20, 12, height=4))
    block = blocks.encode(codes, height=4, scale=scale)
    masked = sparse.encode_mask(pruned(20, 12))
    signs = binary.pack_signs(torch.randn(20, 12))

    class Layer(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            linear = products.block_linear(x, block) + products.sparse_linear(x, masked)
            tiles = products.decode_rows(block, 5, 9) @ products.decode_rows(masked, 0, 12)
            image = block_conv2d(x[:, :, None, None], block, kernel=(1, 1))
            return linear + image[:, :, 0, 0] + binary.binary_linear(x, signs, scale) + tiles.sum()

    x = torch.randn(2, 12)
    program = torch.export.export(Layer(), (x,))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    names = ("block_conv2d", "block_linear", "sparse_linear", "block_rows", "sparse_rows", "binary_linear")
    assert {f"modelmill.{name}.default" for name in names} <= called
    assert torch.equal(program.module()(x), Layer()(x))
