"""The size of what a model puts out, seen while it runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from subopt.profilers.target.watched_outputs import WatchedOutputs


class Returns(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self):
        return self.output


LOGITS = torch.zeros(2, 3, 7)


@pytest.mark.parametrize(
    ("output", "size"),
    [
        (LOGITS, 7),
        (SimpleNamespace(logits=LOGITS, loss=torch.zeros(())), 7),
        ({"logits": LOGITS}, 7),
        ((LOGITS, None), 7),
        (torch.zeros(()), None),
        ("text", None),
        ({}, None),
        ((), None),
    ],
)
def test_the_size_is_the_last_dimension_of_the_logits(output, size):
    model = Returns(output)
    with WatchedOutputs(model) as watched:
        model()
    assert watched.size == size
    assert not model._forward_hooks
