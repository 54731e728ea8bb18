"""A small residual convolutional net with batch norm that names scikit-learn's handwritten digits.

    subopt profile examples/convnet_digits.py --batch-size 64

Convolutions are trained as matrices of shape (out, in * height * width); the batch norms make this
also the example of a model with buffers.
"""

import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10
HELD_OUT_EVERY = 5  # every fifth image is never trained on
BRIGHTEST = 16  # of the data set's grey values


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut; a stride of 2 halves the image's sides."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Refine images of shape (batch, channels, height, width)."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ConvNet(nn.Module):
    """Images of shape (batch, 1, 8, 8) to logits of shape (batch, 10)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.stages = nn.Sequential(
            Residual(width, width, stride=1),
            Residual(width, 2 * width, stride=2),
            Residual(2 * width, 4 * width, stride=2),
        )
        self.head = nn.Linear(4 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Score the ten digits."""
        features = self.stages(F.relu(self.norm(self.stem(x))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def build_model(width: int = 16) -> ConvNet:
    """Build the net with fresh weights.

    Args:
        width: Channels of the first stage; the later ones have two and four times as many.

    Raises:
        ValueError: A width below 1.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    return ConvNet(width)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy of the digit, in nats."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


@functools.cache
def digits(held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images, float32 in [0, 1], shape (count, 1, 8, 8), and their labels, int64.

    Raises:
        ModuleNotFoundError: scikit-learn, which has the images, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "this example takes its images from scikit-learn: pip install scikit-learn"
        ) from error
    data = load_digits()
    images = (data.images / BRIGHTEST).astype(np.float32)[:, None]
    chosen = (np.arange(len(images)) % HELD_OUT_EVERY == 0) == held_out
    return images[chosen], data.target.astype(np.int64)[chosen]


class RandomDigits:
    """Endless training batches that can be saved and continued.

    Batch k depends on the seed and k alone, so the state is two integers.
    """

    def __init__(self, batch_size: int, seed: int) -> None:
        self.images, self.labels = digits(held_out=False)
        self.batch_size = batch_size
        self.seed = seed
        self.position = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        generator = np.random.default_rng((self.seed, self.position))
        chosen = generator.integers(0, len(self.images), self.batch_size)
        self.position += 1
        return torch.from_numpy(self.images[chosen]), torch.from_numpy(self.labels[chosen])

    def state_dict(self) -> dict[str, int]:
        """What `load_state_dict` needs to continue with the next batch."""
        return {"seed": self.seed, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken."""
        self.seed, self.position = int(state["seed"]), int(state["position"])


def batches(batch_size: int) -> RandomDigits:
    """Random training images; the order follows torch's seed at the time of the call.

    Returns:
        Endless pairs of float32 (batch_size, 1, 8, 8) and int64 (batch_size,).
    """
    return RandomDigits(batch_size, seed=int(torch.randint(2**31, ()).item()))


def eval_batches(batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All held-out images in their fixed order.

    Yields:
        Pairs as in training; the last one may be smaller.
    """
    # Copies: a caller may write into a batch.
    images, labels = (torch.tensor(array) for array in digits(held_out=True))
    yield from zip(images.split(batch_size), labels.split(batch_size), strict=True)
