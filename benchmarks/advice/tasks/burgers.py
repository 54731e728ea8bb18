"""A physics-informed network: the viscous Burgers equation u_t + u u_x = VISCOSITY u_xx for x in (-1, 1), t in (0, 1).

It begins with u = -sin(pi x) and is 0 at both ends: a wave that steepens to a front at x = 0.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from random_batches import RandomBatches
from torch import Tensor, nn

VISCOSITY = 0.05
HELD_OUT = 512

# Points inside, points at t = 0, points at x = -1 and 1; each (x, t).
Batch = tuple[Tensor, Tensor, Tensor]


def build_model(width: int = 64, depth: int = 4) -> nn.Sequential:
    """Build an MLP with tanh from (x, t) to u."""
    widths = [2, *[width] * depth]
    layers: list[nn.Module] = []
    for below, above in itertools.pairwise(widths):
        layers += [nn.Linear(below, above), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squares of the residual inside, of what is wrong at the start, and of u at the ends."""
    inside, start, ends = batch
    with torch.enable_grad():  # derivatives with respect to the points, in an evaluation too
        inner = residual(model, inside)
    wrong = model(start)[:, 0] + torch.sin(math.pi * start[:, 0])
    total: Tensor = inner.square().mean() + wrong.square().mean() + model(ends).square().mean()
    return total if torch.is_grad_enabled() else total.detach()


def residual(model: nn.Module, inside: Tensor) -> Tensor:
    """Return u_t + u u_x - VISCOSITY u_xx at points of shape (count, 2)."""
    points = inside.detach().requires_grad_()
    u = model(points)[:, 0]
    (slope,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(slope[:, 0].sum(), points, create_graph=True)
    return slope[:, 1] + u * slope[:, 0] - VISCOSITY * second[:, 0]


def points(generator: torch.Generator, batch_size: int) -> Batch:
    """Return random points inside, and half as many at the start and at the ends."""
    inside, start, ends = (
        torch.rand(count, 2, generator=generator)
        for count in (batch_size, batch_size // 2, batch_size // 2)
    )
    inside[:, 0] = 2 * inside[:, 0] - 1
    start[:, 0], start[:, 1] = 2 * start[:, 0] - 1, 0.0
    ends[:, 0] = 2 * (torch.arange(len(ends)) % 2) - 1
    return inside, start, ends


def batches(batch_size: int) -> RandomBatches:
    """Points, float32 of shape (batch_size, 2) and twice (batch_size / 2, 2)."""
    return RandomBatches(points, batch_size)


def eval_batches(batch_size: int) -> Iterator[Batch]:
    """Fixed points."""
    yield points(torch.Generator().manual_seed(1), HELD_OUT)
