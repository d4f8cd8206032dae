"""all-MiniLM-L6-v2 (Wang et al. 2020, sentence-transformers) written out: BERT's encoder, mean pooling, unit length."""

import re
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

WIDTH, HEADS, HIDDEN, LAYERS, WORDS, POSITIONS, KINDS = 384, 12, 1536, 6, 30522, 512, 2
NORM_EPSILON = 1e-12
_NAMES = (
    (r"^embeddings\.word_embeddings\.", "words."),
    (r"^embeddings\.position_embeddings\.", "positions."),
    (r"^embeddings\.token_type_embeddings\.", "kinds."),
    (r"^embeddings\.LayerNorm\.", "norm."),
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.self\.(query|key|value)\.", r".\1."),
    (r"\.attention\.output\.dense\.", ".mix."),
    (r"\.attention\.output\.LayerNorm\.", ".norm1."),
    (r"\.intermediate\.dense\.", ".up."),
    (r"\.output\.dense\.", ".down."),
    (r"\.output\.LayerNorm\.", ".norm2."),
)
_UNUSED = ("pooler.", "embeddings.position_ids")


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mix = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=NORM_EPSILON) for _ in range(2))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x [N, T, W]; mask [N, 1, 1, T], true where a token may be looked at."""
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm1(x + self.mix(seen.transpose(1, 2).flatten(2)))
        y: torch.Tensor = self.norm2(x + self.down(functional.gelu(self.up(x))))
        return y


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.kinds = nn.Embedding(KINDS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=NORM_EPSILON)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Both [N, T]; the embeddings [N, W] have length 1."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.positions(positions) + self.kinds.weight[0])
        mask = attention_mask[:, None, None, :].bool()
        for layer in self.layers:
            x = layer(x, mask)
        weights = attention_mask[:, :, None].to(x.dtype)
        return functional.normalize((x * weights).sum(1) / weights.sum(1).clamp(min=1e-9))


def from_bert(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The published state dict under this module's names."""
    renamed = {}
    for name, tensor in weights.items():
        if not name.startswith(_UNUSED):
            for pattern, ours in _NAMES:
                name = re.sub(pattern, ours, name)
            renamed[name] = tensor
    return renamed
