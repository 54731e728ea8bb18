"""Fetching batches and clipping are timed on the real thing, and leave the gradients as they are."""

import torch
from torch import nn

from subopt.profilers.timing.data_and_clip import time_data_and_clip


def test_gradients_stay_and_batches_are_drawn():
    model = nn.Linear(3, 2)
    model(torch.randn(4, 3)).square().sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    drawn, placed = [], []

    def batches():
        for number in range(100):
            drawn.append(number)
            yield number

    found = time_data_and_clip(model, batches(), placed.append)
    assert found.batch_ms > 0
    assert found.clip_ms > 0
    assert placed == drawn == list(range(6))
    assert all(
        torch.equal(p.grad, kept) for p, kept in zip(model.parameters(), before, strict=True)
    )


def test_gradients_that_are_not_finite_or_not_there():
    model = nn.Linear(3, 2)
    assert time_data_and_clip(model, iter(range(9)), lambda batch: batch).clip_ms == 0
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    time_data_and_clip(model, iter(range(9)), lambda batch: batch)
    assert all(torch.isinf(p.grad).all() for p in model.parameters())
