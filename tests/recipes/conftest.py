"""A small model on small data, as a user would write it: dropout, a buffer, tied weights, shuffled batches."""

from pathlib import Path

import pytest

from subopt.recipes.recipe.load import parse_recipe

MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.inner = nn.Linear(6, width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(dropout)
        self.outer = nn.Linear(width, 6, bias=False)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        hidden = self.drop(torch.tanh(self.norm(self.inner(self.embed(ids)))))
        return self.head(self.outer(hidden))


def build_model(width: int = 8, dropout: float = 0.1):
    return Net(width, dropout)


def batches(batch_size):
    ids = torch.arange(44) % 11
    for _ in range(3):
        order = torch.randperm(len(ids))
        for start in range(0, len(ids) - batch_size + 1, batch_size):
            yield ids[order[start : start + batch_size]]


def eval_batches(batch_size):
    for _ in range(3):
        yield torch.randint(0, 11, (batch_size,))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch), (batch * 3 + 1) % 11)
"""

RECIPE = """
model: {target: model.py}
data: {batch_size: 8}
optimizer: {method: adamw, lr: 1e-2}
schedule: {steps: 6, warmup_steps: 2}
"""


@pytest.fixture
def recipe_path(tmp_path) -> Path:
    """A recipe file beside its model file."""
    (tmp_path / "model.py").write_text(MODEL)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def recipe(recipe_path):
    return parse_recipe(RECIPE)
