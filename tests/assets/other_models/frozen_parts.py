"""A trunk that is kept, and a head that is trained; of its groups the norm is left out."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 12), nn.Tanh()).requires_grad_(False)
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.norm(self.trunk(x)))


def build_model():
    return Model()


def param_groups(model):
    return [{"params": model.head.parameters(), "lr": 1e-2}]


def batches(batch_size):
    while True:
        yield torch.randn(batch_size, 6), torch.randint(3, (batch_size,))


def loss(model, batch):
    inputs, target = batch
    return nn.functional.cross_entropy(model(inputs), target)
