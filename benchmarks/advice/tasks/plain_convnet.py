"""A plain convolutional net, without norms or shortcuts, that names handwritten digits of which a part is covered."""

from collections.abc import Iterator

import torch
from noisy_digits import CLASSES, digits, held_out_generator
from random_batches import RandomBatches
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 8
COVER = 4  # side of the square that is covered

Batch = tuple[Tensor, Tensor]


def build_model(width: int = 24) -> nn.Sequential:
    """Build three convolutions with pooling, and two linear maps."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * width, 64), nn.ReLU(), nn.Linear(64, CLASSES),
    )  # fmt: skip


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the digit, in nats."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def covered(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (count, SIDE, SIDE) with a grey square at a random place, shape (count, 1, SIDE, SIDE)."""
    corners = torch.randint(SIDE - COVER + 1, (len(images), 2, 1), generator=generator)
    places = torch.arange(SIDE)
    within = (places >= corners) & (places < corners + COVER)
    square = within[:, 0, :, None] & within[:, 1, None, :]
    return images.masked_fill(square, 0.5)[:, None]


def labelled(generator: torch.Generator, batch_size: int) -> Batch:
    """Return random training images, partly covered, and their labels."""
    images, labels = digits(held_out=False)
    chosen = torch.randint(len(images), (batch_size,), generator=generator)
    return covered(images[chosen], generator), labels[chosen]


def batches(batch_size: int) -> RandomBatches:
    """Pairs of float32 (batch_size, 1, SIDE, SIDE) and int64 (batch_size,)."""
    return RandomBatches(labelled, batch_size)


def eval_batches(batch_size: int) -> Iterator[Batch]:
    """All held-out images, covered at fixed places."""
    images, labels = digits(held_out=True)
    size = max(batch_size, 360)
    images = covered(images, held_out_generator())
    yield from zip(images.split(size), labels.split(size), strict=True)
