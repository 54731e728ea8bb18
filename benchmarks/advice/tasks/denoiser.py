"""A U-Net that takes the noise off handwritten digits."""

from collections.abc import Iterator

import torch
from noisy_digits import fixed_digits, held_out_generator, noisy, random_digits
from random_batches import RandomBatches
from torch import Tensor, nn
from torch.nn import functional as F

NOISE = 0.5

Batch = tuple[Tensor, Tensor]


def convolutions(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return two 3 x 3 convolutions with group norm."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.GroupNorm(4, channels_out), nn.SiLU(),
        nn.Conv2d(channels_out, channels_out, 3, padding=1), nn.GroupNorm(4, channels_out), nn.SiLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """Noisy images (batch, 1, height, width) to clean ones, by two scales and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine, self.coarse = convolutions(1, width), convolutions(width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.joined = convolutions(2 * width, width)
        self.output = nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the images without their noise."""
        fine = self.fine(images)
        up = self.up(self.coarse(F.max_pool2d(fine, 2)))
        clean: Tensor = self.output(self.joined(torch.cat([fine, up], dim=1)))
        return clean


def build_model(width: int = 12) -> UNet:
    """Build the net."""
    return UNet(width)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of the pixels, as a share of the variance about 0."""
    images, clean = batch
    return F.mse_loss(model(images), clean) / clean.square().mean()


def pairs(generator: torch.Generator, batch_size: int) -> Batch:
    """Return random training images with noise, and without."""
    clean, _ = random_digits(generator, batch_size)
    return noisy(clean, generator, NOISE), clean


def batches(batch_size: int) -> RandomBatches:
    """Pairs of float32 (batch_size, 1, SIDE, SIDE)."""
    return RandomBatches(pairs, batch_size)


def eval_batches(batch_size: int) -> Iterator[Batch]:
    """All held-out images, at fixed places under fixed noise."""
    generator = held_out_generator()
    clean, _ = fixed_digits(generator)
    size = max(batch_size, 120)
    yield from zip(noisy(clean, generator, NOISE).split(size), clean.split(size), strict=True)
