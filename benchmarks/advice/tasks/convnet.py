"""A residual convolutional net with batch norm that names handwritten digits."""

from collections.abc import Iterator

import torch
from noisy_digits import CLASSES, fixed_digits, held_out_generator, noisy, random_digits
from random_batches import RandomBatches
from torch import Tensor, nn
from torch.nn import functional as F

Batch = tuple[Tensor, Tensor]


class Residual(nn.Module):
    """Two 3 x 3 convolutions around a shortcut that halves the sides."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels_out), nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Refine images of shape (batch, channels, height, width)."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ConvNet(nn.Module):
    """Images (batch, 1, height, width) to logits (batch, 10)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.stages = nn.Sequential(Residual(width, 2 * width), Residual(2 * width, 4 * width))
        self.head = nn.Linear(4 * width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Score the ten digits."""
        features = self.stages(F.relu(self.stem(images)))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def build_model(width: int = 12) -> ConvNet:
    """Build the net."""
    return ConvNet(width)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the digit, in nats."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def labelled(generator: torch.Generator, batch_size: int) -> Batch:
    """Return random noisy training images and their labels."""
    images, labels = random_digits(generator, batch_size)
    return noisy(images, generator), labels


def batches(batch_size: int) -> RandomBatches:
    """Pairs of float32 (batch_size, 1, SIDE, SIDE) and int64 (batch_size,)."""
    return RandomBatches(labelled, batch_size)


def eval_batches(batch_size: int) -> Iterator[Batch]:
    """All held-out images, at fixed places under fixed noise."""
    generator = held_out_generator()
    images, labels = fixed_digits(generator)
    size = max(batch_size, 128)
    yield from zip(noisy(images, generator).split(size), labels.split(size), strict=True)
