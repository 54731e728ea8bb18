"""A physics-informed network: the Poisson equation on the unit square, -(u_xx + u_yy) = f, u = 0 on its boundary.

f belongs to u = sin(pi x) sin(2 pi y) + sin(3 pi x) sin(pi y) / 2.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from random_batches import RandomBatches
from torch import Tensor, nn

MODES = ((1, 2, 1.0), (3, 1, 0.5))
BOUNDARY_WEIGHT = 100.0
HELD_OUT = 256

Batch = tuple[Tensor, Tensor]


def source(points: Tensor) -> Tensor:
    """Return f at points of shape (count, 2)."""
    x, y = math.pi * points[:, 0], math.pi * points[:, 1]
    parts = [
        height * math.pi**2 * (m * m + n * n) * torch.sin(m * x) * torch.sin(n * y)
        for m, n, height in MODES
    ]
    return torch.stack(parts).sum(dim=0)


def build_model(width: int = 48, depth: int = 3) -> nn.Sequential:
    """Build an MLP with tanh."""
    widths = [2, *[width] * depth]
    layers: list[nn.Module] = []
    for below, above in itertools.pairwise(widths):
        layers += [nn.Linear(below, above), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean square of the residual inside and, weighted, of u on the boundary, as a share of that of f."""
    inside, boundary = batch
    f = source(inside)
    with torch.enable_grad():  # derivatives with respect to the points, in an evaluation too
        residual = laplacian(model, inside) + f
    total = residual.square().mean() + BOUNDARY_WEIGHT * model(boundary).square().mean()
    relative: Tensor = total / f.square().mean()
    return relative if torch.is_grad_enabled() else relative.detach()


def laplacian(model: nn.Module, inside: Tensor) -> Tensor:
    """Return u_xx + u_yy at points of shape (count, 2)."""
    points = inside.detach().requires_grad_()
    (slope,) = torch.autograd.grad(model(points).sum(), points, create_graph=True)
    total = torch.zeros(len(points))
    for axis in range(2):
        (second,) = torch.autograd.grad(slope[:, axis].sum(), points, create_graph=True)
        total = total + second[:, axis]
    return total


def points(generator: torch.Generator, batch_size: int) -> Batch:
    """Return random points inside, and as many on the four sides."""
    inside = torch.rand(batch_size, 2, generator=generator)
    boundary = torch.rand(batch_size, 2, generator=generator)
    side = torch.arange(batch_size)
    boundary[side, side % 2] = (side // 2 % 2).float()
    return inside, boundary


def batches(batch_size: int) -> RandomBatches:
    """Pairs of float32 (batch_size, 2)."""
    return RandomBatches(points, batch_size)


def eval_batches(batch_size: int) -> Iterator[Batch]:
    """Fixed points."""
    yield points(torch.Generator().manual_seed(1), HELD_OUT)
