"""A deep autoencoder of handwritten digits at random places."""

import itertools
from collections.abc import Iterator

import torch
from noisy_digits import SIDE, fixed_digits, held_out_generator, random_digits
from random_batches import RandomBatches
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (SIDE * SIDE, 128, 64, 16)


def build_model() -> nn.Sequential:
    """Build linear maps down to 16 numbers and up again, with a tanh between them."""
    widths = (*WIDTHS, *WIDTHS[-2::-1])
    layers: list[nn.Module] = []
    for below, above in itertools.pairwise(widths):
        layers += [nn.Linear(below, above), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean squared error of the pixels, as a share of the variance about 0."""
    return F.mse_loss(model(batch), batch) / batch.square().mean()


def images(generator: torch.Generator, batch_size: int) -> Tensor:
    """Return random training images as rows."""
    return random_digits(generator, batch_size)[0].flatten(1)


def batches(batch_size: int) -> RandomBatches:
    """Images, float32 of shape (batch_size, SIDE^2)."""
    return RandomBatches(images, batch_size)


def eval_batches(batch_size: int) -> Iterator[Tensor]:
    """All held-out images at fixed places."""
    yield from fixed_digits(held_out_generator())[0].flatten(1).split(max(batch_size, 360))
