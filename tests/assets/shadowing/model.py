"""A project whose own packages and files have the names of ours and of libraries we use."""

import optimizers
import torch
import yaml
from profilers import SIZE
from torch import nn


def build_model(width=4):
    import recipes  # imported late, when only the view of this project is left to find it
    import yaml as again

    assert again is yaml
    assert yaml.OWNER == recipes.OWNER == optimizers.OWNER == "shadowing"
    return nn.Linear(SIZE, width)


def batches(batch_size):
    import profile  # the standard library has one too

    for _ in range(profile.BATCHES):
        yield torch.randn(batch_size, SIZE)


def loss(model, batch):
    return model(batch).square().mean()
