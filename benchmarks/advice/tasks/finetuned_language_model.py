"""A GPT that was trained on modules of Python's standard library goes on with its packages email and asyncio."""

from collections.abc import Iterator

import torch
from language_model import GPT, HELD_OUT_WINDOWS, loss
from language_model import batches as earlier_batches
from language_model import build_model as build_fresh
from pretrained import checkpoint
from python_source import blocks_of, fixed_windows, in_batches, random_windows
from random_batches import RandomBatches
from torch import Tensor

__all__ = ["batches", "build_model", "eval_batches", "loss"]

TEXT = ("email", "asyncio")
EARLIER_STEPS, EARLIER_BATCH = 2000, 16


def build_model() -> GPT:
    """Load the weights that the earlier training ended with."""
    model = build_fresh()
    path = checkpoint(
        "language_model", build_fresh, loss, earlier_batches(EARLIER_BATCH), EARLIER_STEPS
    )
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


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
