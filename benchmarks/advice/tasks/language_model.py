"""A GPT that predicts the next byte of Python's standard library."""

from collections.abc import Iterator

import torch
from python_source import (
    CONTEXT,
    LIBRARY,
    VOCABULARY,
    blocks_of,
    fixed_windows,
    in_batches,
    random_windows,
)
from random_batches import RandomBatches
from torch import Tensor, nn
from torch.nn import functional as F

HELD_OUT_WINDOWS = 96
TEXT = tuple(LIBRARY)


class Block(nn.Module):
    """Attention, then two linear maps around a GELU, each added to its normalised input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, *, is_causal: bool = True) -> Tensor:
        """Refine x, shape (batch, length, width)."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        refined: Tensor = x + self.down(F.gelu(self.up(self.mlp_norm(x))))
        return refined


class GPT(nn.Module):
    """Tokens (batch, length) to logits (batch, length, vocabulary)."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        vocabulary: int = VOCABULARY,
        length: int = CONTEXT,
    ) -> None:
        super().__init__()
        self.embedding, self.positions = (
            nn.Embedding(vocabulary, width),
            nn.Embedding(length, width),
        )
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Score each next token."""
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def gpt2_initialised(model: GPT) -> GPT:
    """Return the model with GPT-2's weights: std 0.02, what is added to the residual stream smaller by its depth."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            depth = len(model.blocks) if name.endswith(("output.weight", "down.weight")) else 0.5
            nn.init.normal_(parameter, std=0.02 / (2 * depth) ** 0.5)
    return model


def build_model(
    width: int = 64, depth: int = 2, heads: int = 4, initialisation: str = "gpt2"
) -> GPT:
    """Build a GPT; `initialisation` "gpt2", or "torch": PyTorch's own, with the head tied to the embedding."""
    model = GPT(width, depth, heads)
    if initialisation == "gpt2":
        return gpt2_initialised(model)
    model.head.weight = model.embedding.weight
    return model


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean cross-entropy of the next byte, in nats."""
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def windows(generator: torch.Generator, batch_size: int) -> Tensor:
    """Return random windows of the training text."""
    return random_windows(blocks_of(TEXT, held_out=False), generator, batch_size)


def batches(batch_size: int) -> RandomBatches:
    """Random windows, int64 of shape (batch_size, CONTEXT + 1)."""
    return RandomBatches(windows, batch_size)


def eval_batches(batch_size: int) -> Iterator[Tensor]:
    """Fixed windows of text that is never trained on."""
    yield from in_batches(
        fixed_windows(blocks_of(TEXT, held_out=True), HELD_OUT_WINDOWS), batch_size
    )
