"""scikit-learn's handwritten digits, on a larger canvas at a random place under noise.

Drawn anew each time, so that 1,400 images last for a few hundred steps without being learned by heart.
"""

import functools

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

CLASSES = 10
SIDE = 12
PLACES = range(1, 4)  # of the 8 x 8 image on it
NOISE = 0.25
BRIGHTEST = 16  # of the data set's grey values
HELD_OUT_EVERY = 5  # every fifth image is never trained on
HELD_OUT_SEED = 1


@functools.cache
def digits(*, held_out: bool, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Return images, float32 in [0, 1] of shape (count, 8, 8), of the digits below `classes`, and their labels."""
    data = load_digits()
    chosen = (np.arange(len(data.images)) % HELD_OUT_EVERY == 0) == held_out
    chosen &= data.target < classes
    images = torch.from_numpy((data.images[chosen] / BRIGHTEST).astype(np.float32))
    return images, torch.from_numpy(data.target[chosen].astype(np.int64))


def placed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return each 8 x 8 image at a random place of a canvas, shape (count, 1, SIDE, SIDE)."""
    canvas = torch.zeros(len(images), 1, SIDE, SIDE)
    places = torch.randint(
        PLACES.start, PLACES.stop, (len(images), 2), generator=generator
    ).tolist()
    for index, (top, left) in enumerate(places):
        canvas[index, 0, top : top + 8, left : left + 8] = images[index]
    return canvas


def noisy(images: Tensor, generator: torch.Generator, noise: float = NOISE) -> Tensor:
    """Return the images with Gaussian noise."""
    return images + noise * torch.randn(images.shape, generator=generator)


def random_digits(
    generator: torch.Generator, count: int, classes: int = CLASSES
) -> tuple[Tensor, Tensor]:
    """Return `count` random training images on canvases without noise, and their labels."""
    images, labels = digits(held_out=False, classes=classes)
    chosen = torch.randint(len(images), (count,), generator=generator)
    return placed(images[chosen], generator), labels[chosen]


def fixed_digits(generator: torch.Generator, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Return all held-out images on canvases without noise, and their labels."""
    images, labels = digits(held_out=True, classes=classes)
    return placed(images, generator), labels


def held_out_generator() -> torch.Generator:
    """Return a generator that makes the same held-out places and noise every time."""
    return torch.Generator().manual_seed(HELD_OUT_SEED)
