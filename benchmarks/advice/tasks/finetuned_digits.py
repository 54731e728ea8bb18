"""A convolutional net that was trained on the digits 0 to 4 learns all ten."""

import torch
from convnet import ConvNet, batches, eval_batches, loss
from convnet import build_model as build_fresh
from noisy_digits import noisy, random_digits
from pretrained import checkpoint
from random_batches import RandomBatches
from torch import Tensor

__all__ = ["batches", "build_model", "eval_batches", "loss"]

EARLIER_CLASSES = 5
EARLIER_STEPS, EARLIER_BATCH = 800, 32


def first_digits(generator: torch.Generator, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return random noisy training images of the digits 0 to 4, and their labels."""
    images, labels = random_digits(generator, batch_size, EARLIER_CLASSES)
    return noisy(images, generator), labels


def build_model() -> ConvNet:
    """Load the weights that the earlier training ended with."""
    model = build_fresh()
    path = checkpoint(
        "digits", build_fresh, loss, RandomBatches(first_digits, EARLIER_BATCH), EARLIER_STEPS
    )
    model.load_state_dict(torch.load(path, weights_only=True))
    return model
