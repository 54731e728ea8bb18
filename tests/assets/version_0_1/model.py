import torch
from torch import nn


def build_model(width=12):
    return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 3))


def batches(batch_size):
    generator = torch.Generator().manual_seed(0)
    for _ in range(64):
        x = torch.randn(batch_size, 8, generator=generator)
        yield x, x[:, :3].tanh()


def loss(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()
