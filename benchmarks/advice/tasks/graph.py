"""A graph network that names noisy digits by those most like them."""

import functools
from collections.abc import Iterator

import torch
from random_batches import RandomBatches
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

NEIGHBOURS = 8
NOISE = 0.4
SEED = 3
DROPOUT = 0.5
CLASSES, PIXELS, BRIGHTEST = 10, 64, 16

Batch = tuple[Tensor, Tensor]


@functools.cache
def graph() -> tuple[Tensor, Tensor, Tensor]:
    """Return noisy images (nodes, PIXELS), the nodes most like each, itself among them, and the labels."""
    data = load_digits()
    generator = torch.Generator().manual_seed(SEED)
    images = torch.from_numpy(data.data).float() / BRIGHTEST
    images = images + NOISE * torch.randn(images.shape, generator=generator)
    near = torch.cdist(images, images).topk(NEIGHBOURS + 1, largest=False).indices
    return images, near, torch.from_numpy(data.target).long()


class GraphNet(nn.Module):
    """Nodes (batch,) to logits (batch, 10): each layer takes a node's features and its neighbours' mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2 * PIXELS, width), nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, nodes: Tensor) -> Tensor:
        """Score the ten digits."""
        images, near, _ = graph()
        x = torch.cat([images, images[near].mean(dim=1)], dim=1)[near[nodes]]
        x = F.relu(self.first(F.dropout(x, DROPOUT, self.training)))
        x = F.relu(self.second(torch.cat([x[:, 0], x.mean(dim=1)], dim=1)))
        logits: Tensor = self.head(self.norm(x))
        return logits


def build_model(width: int = 96) -> GraphNet:
    """Build the net."""
    return GraphNet(width)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the digit, in nats."""
    nodes, labels = batch
    return F.cross_entropy(model(nodes), labels)


def random_nodes(generator: torch.Generator, batch_size: int) -> Batch:
    """Return random nodes whose label is known: the odd ones."""
    labels = graph()[2]
    nodes = 2 * torch.randint(len(labels) // 2, (batch_size,), generator=generator) + 1
    return nodes, labels[nodes]


def batches(batch_size: int) -> RandomBatches:
    """Pairs of int64 (batch_size,)."""
    return RandomBatches(random_nodes, batch_size)


def eval_batches(batch_size: int) -> Iterator[Batch]:
    """The even nodes."""
    labels = graph()[2]
    nodes = torch.arange(0, len(labels), 2)
    yield nodes, labels[nodes]
