"""An encoder that names the module of Python's standard library that some bytes are from."""

from collections.abc import Iterator

import torch
from language_model import Block
from python_source import CONTEXT, VOCABULARY, blocks_of, fixed_windows, random_windows
from random_batches import RandomBatches
from torch import Tensor, nn
from torch.nn import functional as F

SOURCES = ("asyncio", "email", "turtle", "tarfile", "_pydecimal", "typing", "xml", "unittest")
HELD_OUT_OF_EACH = 24

Batch = tuple[Tensor, Tensor]


class Encoder(nn.Module):
    """Tokens (batch, length) to logits (batch, classes), by the mean over the positions."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embedding, self.positions = (
            nn.Embedding(VOCABULARY, width),
            nn.Embedding(CONTEXT, width),
        )
        self.blocks = nn.ModuleList(Block(width, heads=4) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(SOURCES))
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Score the sources."""
        x = self.embedding(tokens) + self.positions.weight
        for block in self.blocks:
            x = block(x, is_causal=False)
        logits: Tensor = self.head(self.norm(x).mean(dim=1))
        return logits


def build_model(width: int = 48, depth: int = 2) -> Encoder:
    """Build the encoder."""
    return Encoder(width, depth)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the source, in nats."""
    tokens, labels = batch
    return F.cross_entropy(model(tokens), labels)


def labelled(generator: torch.Generator, batch_size: int) -> Batch:
    """Return random windows, of every source as many, and which source each is from."""
    labels = torch.arange(batch_size) % len(SOURCES)
    parts = []
    for label, source in enumerate(SOURCES):
        blocks = blocks_of((source,), held_out=False)
        parts.append(random_windows(blocks, generator, int((labels == label).sum())))
    return torch.cat(parts)[:, :CONTEXT], labels.sort().values


def batches(batch_size: int) -> RandomBatches:
    """Pairs of int64 (batch_size, CONTEXT) and int64 (batch_size,)."""
    return RandomBatches(labelled, batch_size)


def eval_batches(batch_size: int) -> Iterator[Batch]:
    """Fixed windows of text that is never trained on, source by source."""
    for label, source in enumerate(SOURCES):
        tokens = fixed_windows(blocks_of((source,), held_out=True), HELD_OUT_OF_EACH)
        yield tokens[:, :CONTEXT], torch.full((HELD_OUT_OF_EACH,), label)
