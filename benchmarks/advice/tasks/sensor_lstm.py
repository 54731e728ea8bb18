"""An LSTM that names what a machine does by three of its sensors: made-up oscillations under noise."""

import functools
import math
from collections.abc import Iterator

import torch
from random_batches import RandomBatches
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES, CHANNELS, LENGTH, TONES = 12, 3, 32, 2
NOISE = 0.7
DRIFT = 0.15  # a recording's own speed, as a share
HELD_OUT = 600
SEED = 9

Batch = tuple[Tensor, Tensor]


@functools.cache
def tones() -> tuple[Tensor, Tensor, Tensor]:
    """Return periods over LENGTH (CLASSES, TONES), and heights and phases (CLASSES, TONES, CHANNELS)."""
    generator = torch.Generator().manual_seed(SEED)
    periods = 1 + 5 * torch.rand(CLASSES, TONES, generator=generator)
    heights = torch.rand(CLASSES, TONES, CHANNELS, generator=generator)
    phases = 2 * math.pi * torch.rand(CLASSES, TONES, CHANNELS, generator=generator)
    return periods, heights, phases


class Recogniser(nn.Module):
    """Recordings (batch, LENGTH, CHANNELS) to logits (batch, CLASSES), by the last state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(CHANNELS, width, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, recordings: Tensor) -> Tensor:
        """Score the classes."""
        states, _ = self.recurrent(recordings)
        logits: Tensor = self.head(states[:, -1])
        return logits


def build_model(width: int = 64) -> Recogniser:
    """Build it with PyTorch's own initial weights."""
    return Recogniser(width)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the class, in nats."""
    recordings, labels = batch
    return F.cross_entropy(model(recordings), labels)


def recordings(generator: torch.Generator, batch_size: int) -> Batch:
    """Return random recordings, each begun at any time and at its own speed, and their classes."""
    labels = torch.randint(CLASSES, (batch_size,), generator=generator)
    periods, heights, phases = (part[labels] for part in tones())
    speed = 1 + DRIFT * torch.randn(batch_size, 1, generator=generator)
    begun = torch.rand(batch_size, 1, generator=generator)
    times = begun + torch.arange(LENGTH) / LENGTH
    angles = 2 * math.pi * (speed * times)[:, :, None] * periods[:, None]
    waves = heights[:, None] * torch.sin(angles[..., None] + phases[:, None])
    noise = NOISE * torch.randn(batch_size, LENGTH, CHANNELS, generator=generator)
    return waves.sum(dim=2) + noise, labels


def batches(batch_size: int) -> RandomBatches:
    """Pairs of float32 (batch_size, LENGTH, CHANNELS) and int64 (batch_size,)."""
    return RandomBatches(recordings, batch_size)


def eval_batches(batch_size: int) -> Iterator[Batch]:
    """Fixed recordings of the same machine."""
    yield recordings(torch.Generator().manual_seed(1), HELD_OUT)
