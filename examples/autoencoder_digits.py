"""A deep tanh autoencoder on scikit-learn's handwritten digits.

    subopt profile examples/autoencoder_digits.py --batch-size 100

The layers 1000-500-250-30-250-500-1000 are the benchmark that second-order optimizers have been
compared on for years ("Block Low-Rank Preconditioner with Shared Basis", section 3.1). There the
pixels are MNIST's 784; the 64 of scikit-learn's digits come with the package, without a download.
"""

import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

PIXELS = 64
WIDTHS = (1000, 500, 250, 30, 250, 500, 1000)
HELD_OUT_EVERY = 5  # every fifth image is never trained on
BRIGHTEST = 16  # of the data set's grey values


def build_model() -> nn.Sequential:
    """Build the autoencoder with fresh weights: 64 pixels in [0, 1] to 64 logits."""
    layers: list[nn.Module] = []
    width = PIXELS
    for next_width in WIDTHS:
        layers += [nn.Linear(width, next_width), nn.Tanh()]
        width = next_width
    layers.append(nn.Linear(width, PIXELS))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)  # made for tanh
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean over pixels of the cross-entropy between a grey value and its reconstruction, nats."""
    return F.binary_cross_entropy_with_logits(model(batch), batch)


@functools.cache
def images(held_out: bool) -> np.ndarray:
    """Training or held-out images, float32 in [0, 1], shape (count, 64).

    Raises:
        ModuleNotFoundError: scikit-learn, which has the images, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "this example takes its images from scikit-learn: pip install scikit-learn"
        ) from error
    pixels = (load_digits().data / BRIGHTEST).astype(np.float32)
    is_held_out = np.arange(len(pixels)) % HELD_OUT_EVERY == 0
    return pixels[is_held_out == held_out]


class RandomImages:
    """Endless training batches that can be saved and continued.

    Batch k depends on the seed and k alone, so the state is two integers.
    """

    def __init__(self, batch_size: int, seed: int) -> None:
        self.images = images(held_out=False)
        self.batch_size = batch_size
        self.seed = seed
        self.position = 0

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        generator = np.random.default_rng((self.seed, self.position))
        self.position += 1
        return torch.from_numpy(
            self.images[generator.integers(0, len(self.images), self.batch_size)]
        )

    def state_dict(self) -> dict[str, int]:
        """What `load_state_dict` needs to continue with the next batch."""
        return {"seed": self.seed, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken."""
        self.seed, self.position = int(state["seed"]), int(state["position"])


def batches(batch_size: int) -> RandomImages:
    """Random training images; the order follows torch's seed at the time of the call.

    Returns:
        Endless batches, float32, shape (batch_size, 64).
    """
    return RandomImages(batch_size, seed=int(torch.randint(2**31, ()).item()))


def eval_batches(batch_size: int) -> Iterator[Tensor]:
    """All held-out images in their fixed order.

    Yields:
        float32, shape (batch_size, 64); the last one may be smaller.
    """
    yield from torch.tensor(images(held_out=True)).split(batch_size)  # a copy: callers may write
