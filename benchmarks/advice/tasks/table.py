"""An MLP that predicts the worst values of a cell sample from their means and errors: scikit-learn's breast cancer."""

import functools
import itertools
from collections.abc import Iterator

import torch
from random_batches import RandomBatches
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.nn import functional as F

INPUTS, OUTPUTS = 20, 10  # the columns: ten means, ten errors, ten worst values
HELD_OUT_EVERY = 4
NOISE = 0.2  # of the inputs in training, in standard deviations

Batch = tuple[Tensor, Tensor]


@functools.cache
def rows(*, held_out: bool) -> Batch:
    """Return standardised inputs and targets of the rows that are held out, or of the others."""
    table = torch.from_numpy(load_breast_cancer().data).log1p()
    chosen = torch.arange(len(table)) % HELD_OUT_EVERY == 0
    mean, deviation = table[~chosen].mean(dim=0), table[~chosen].std(dim=0)
    scaled = ((table - mean) / deviation)[chosen == held_out].float()
    return scaled[:, :INPUTS], scaled[:, INPUTS:]


def build_model(width: int = 96, depth: int = 4) -> nn.Sequential:
    """Build an MLP with ReLU."""
    widths = [INPUTS, *[width] * depth]
    layers: list[nn.Module] = []
    for below, above in itertools.pairwise(widths):
        layers += [nn.Linear(below, above), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, OUTPUTS))


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error, in variances."""
    inputs, targets = batch
    return F.mse_loss(model(inputs), targets)


def random_rows(generator: torch.Generator, batch_size: int) -> Batch:
    """Return random training rows, their inputs with noise."""
    inputs, targets = rows(held_out=False)
    chosen = torch.randint(len(inputs), (batch_size,), generator=generator)
    noise = NOISE * torch.randn(batch_size, INPUTS, generator=generator)
    return inputs[chosen] + noise, targets[chosen]


def batches(batch_size: int) -> RandomBatches:
    """Pairs of float32 (batch_size, INPUTS) and (batch_size, OUTPUTS)."""
    return RandomBatches(random_rows, batch_size)


def eval_batches(batch_size: int) -> Iterator[Batch]:
    """All held-out rows."""
    yield rows(held_out=True)
