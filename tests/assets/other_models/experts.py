"""A mixture of experts as a list of layers, routed by the first number of a batch: the others get no gradient."""

import torch
from torch import nn


class Mixture(nn.Module):
    def __init__(self, experts=3):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(experts))
        self.never = nn.Linear(6, 6)
        self.out = nn.Linear(6, 6)

    def forward(self, x, chosen):
        return self.out(torch.tanh(self.experts[chosen](x)))


def build_model():
    return Mixture()


def batches(batch_size):
    while True:
        for chosen in (0, 1, 0):
            yield {"x": torch.randn(batch_size, 6), "chosen": chosen}


def loss(model, batch):
    return (model(**batch) - batch["x"]).square().mean()
