"""A compiled model with a part that was compiled by itself: parameter names have `_orig_mod.` in two places."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, backend):
        super().__init__()
        self.embed = nn.Embedding(15, 8)
        self.body = torch.compile(nn.Sequential(nn.Linear(8, 12), nn.GELU()), backend=backend)
        self.lm_head = nn.Linear(12, 15)

    def forward(self, tokens):
        return self.lm_head(self.body(self.embed(tokens)))


def build_model(backend: str = "eager"):
    return torch.compile(Model(backend), backend=backend)


def batches(batch_size):
    while True:
        yield torch.randint(15, (batch_size, 6))


def loss(model, batch):
    logits = model(batch[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
