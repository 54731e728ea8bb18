"""A vision transformer that names handwritten digits."""

from collections.abc import Iterator

import torch
from convnet import Batch, loss
from language_model import Block
from noisy_digits import CLASSES, digits, held_out_generator, noisy
from random_batches import RandomBatches
from torch import Tensor, nn

__all__ = ["batches", "build_model", "eval_batches", "loss"]

SIDE, PATCH = 8, 2


class ViT(nn.Module):
    """Images (batch, 1, SIDE, SIDE) to logits (batch, 10), by the mean over the patches."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, PATCH, stride=PATCH)
        self.positions = nn.Embedding((SIDE // PATCH) ** 2, width)
        self.blocks = nn.ModuleList(Block(width, heads=4) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Score the ten digits."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions.weight
        for block in self.blocks:
            x = block(x, is_causal=False)
        logits: Tensor = self.head(self.norm(x).mean(dim=1))
        return logits


def build_model(width: int = 64, depth: int = 2) -> ViT:
    """Build the transformer."""
    return ViT(width, depth)


def labelled(generator: torch.Generator, batch_size: int) -> Batch:
    """Return random training images with noise, and their labels."""
    images, labels = digits(held_out=False)
    chosen = torch.randint(len(images), (batch_size,), generator=generator)
    return noisy(images[chosen, None], generator), labels[chosen]


def batches(batch_size: int) -> RandomBatches:
    """Pairs of float32 (batch_size, 1, SIDE, SIDE) and int64 (batch_size,)."""
    return RandomBatches(labelled, batch_size)


def eval_batches(batch_size: int) -> Iterator[Batch]:
    """All held-out images under fixed noise."""
    images, labels = digits(held_out=True)
    size = max(batch_size, 128)
    noised = noisy(images[:, None], held_out_generator())
    yield from zip(noised.split(size), labels.split(size), strict=True)
