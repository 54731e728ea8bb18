"""A project with packages called `optimizers`, `profilers` and `recipes`, as many training projects have."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import optimizers
from profilers.sizes import INPUTS


def build_model() -> nn.Module:
    return nn.Sequential(
        nn.Linear(INPUTS, optimizers.HIDDEN), nn.Tanh(), nn.Linear(optimizers.HIDDEN, 1)
    )


def batches(batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    import profilers
    import recipes  # late, when subopt has long imported its own

    files = {module.__name__: module.__file__ for module in (optimizers, profilers, recipes)}
    Path("imported.json").write_text(json.dumps(files))
    generator = torch.Generator().manual_seed(0)
    for _ in range(recipes.BATCHES):
        inputs = torch.randn(batch_size, INPUTS, generator=generator)
        yield inputs, inputs.sum(dim=1, keepdim=True)


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    inputs, targets = batch
    return nn.functional.mse_loss(model(inputs), targets)
