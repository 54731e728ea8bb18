"""A recommender that is mostly embeddings: ratings of low rank under noise, made from a fixed seed."""

import functools
from collections.abc import Iterator

import torch
from random_batches import RandomBatches
from torch import Tensor, nn
from torch.nn import functional as F

USERS, ITEMS, RANK = 1000, 500, 4
RATINGS = 100_000
HELD_OUT = 4_000
NOISE = 0.3
SEED = 7

Batch = tuple[Tensor, Tensor]


@functools.cache
def ratings() -> Batch:
    """Return pairs of user and item, int64 of shape (RATINGS, 2), and their standardised ratings."""
    generator = torch.Generator().manual_seed(SEED)
    users = torch.randn(USERS, RANK, generator=generator)
    items = torch.randn(ITEMS, RANK, generator=generator)
    popularity = torch.rand(ITEMS, generator=generator).square()
    who = torch.randint(USERS, (RATINGS,), generator=generator)
    what = torch.multinomial(popularity, RATINGS, replacement=True, generator=generator)
    liked = torch.tanh((users[who] * items[what]).sum(dim=1) / RANK**0.5)
    rated = liked + NOISE * torch.randn(RATINGS, generator=generator)
    return torch.stack([who, what], dim=1), (rated - rated.mean()) / rated.std()


class Recommender(nn.Module):
    """Pairs (batch, 2) to ratings (batch,): the embeddings, their product, and an MLP of both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(USERS, width), nn.Embedding(ITEMS, width)
        self.hidden, self.middle = nn.Linear(3 * width, 64), nn.Linear(64, 64)
        self.output = nn.Linear(64, 1)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, pairs: Tensor) -> Tensor:
        """Rate."""
        user, item = self.users(pairs[:, 0]), self.items(pairs[:, 1])
        x = F.relu(self.hidden(torch.cat([user, item, user * item], dim=1)))
        rated: Tensor = self.output(F.relu(self.middle(x)))[:, 0]
        return rated


def build_model(width: int = 32) -> Recommender:
    """Build it."""
    return Recommender(width)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error, in variances."""
    pairs, rated = batch
    return F.mse_loss(model(pairs), rated)


def random_ratings(generator: torch.Generator, batch_size: int) -> Batch:
    """Return random ratings that are not held out."""
    pairs, rated = ratings()
    chosen = torch.randint(HELD_OUT, RATINGS, (batch_size,), generator=generator)
    return pairs[chosen], rated[chosen]


def batches(batch_size: int) -> RandomBatches:
    """Pairs of int64 (batch_size, 2) and float32 (batch_size,)."""
    return RandomBatches(random_ratings, batch_size)


def eval_batches(batch_size: int) -> Iterator[Batch]:
    """The held-out ratings."""
    pairs, rated = ratings()
    yield pairs[:HELD_OUT], rated[:HELD_OUT]
