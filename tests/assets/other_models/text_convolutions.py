"""An embedding under convolutions over time, and a head that is no vocabulary's."""

import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.position = nn.Parameter(torch.randn(1, 12, 8) * 0.02)
        self.convolve = nn.Conv1d(8, 6, 3, padding=1)
        self.decide = nn.Linear(6, 4)

    def forward(self, ids):
        hidden = torch.relu(self.convolve((self.embed(ids) + self.position).mT))
        return self.decide(hidden.mean(-1))


def build_model():
    return Classifier()


def batches(batch_size):
    while True:
        ids = torch.randint(30, (batch_size, 12))
        yield ids, ids.sum(-1) % 4


def loss(model, batch):
    ids, target = batch
    return nn.functional.cross_entropy(model(ids), target)
