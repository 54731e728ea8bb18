"""A two-tower recommender of clicks: tells what a user clicked from a random item, by a pairwise ranking loss."""

import functools
from collections.abc import Iterator

import torch
from random_batches import RandomBatches
from torch import Tensor, nn
from torch.nn import functional as F

USERS, ITEMS, RANK = 400, 1500, 6
CLICKS = 60_000
HELD_OUT = 3_000
SHARPNESS = 2.5  # of a user's taste: the standard deviation of the items' logits
SEED = 5


@functools.cache
def clicks() -> Tensor:
    """Return (user, clicked item, random item), int64 of shape (CLICKS, 3).

    A user clicks by a softmax over all items of the product of hidden tastes.
    """
    generator = torch.Generator().manual_seed(SEED)
    users = torch.randn(USERS, RANK, generator=generator)
    items = torch.randn(ITEMS, RANK, generator=generator)
    chances = (SHARPNESS / RANK**0.5 * users @ items.T).softmax(dim=1)
    who = torch.randint(USERS, (CLICKS,), generator=generator)
    what = torch.multinomial(chances[who], 1, generator=generator)[:, 0]
    other = torch.randint(ITEMS, (CLICKS,), generator=generator)
    return torch.stack([who, what, other], dim=1)


class Tower(nn.Module):
    """Ids (...) to features (..., width): an embedding and two linear maps."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(count, width)
        self.hidden, self.output = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, ids: Tensor) -> Tensor:
        """Return features."""
        features: Tensor = self.output(F.gelu(self.hidden(self.embedding(ids))))
        return features


class TwoTowers(nn.Module):
    """Triples (batch, 3) to how much more the second is liked than the third (batch,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.users, self.items = Tower(USERS, width), Tower(ITEMS, width)

    def forward(self, triples: Tensor) -> Tensor:
        """Compare two items for a user."""
        clicked, other = self.items(triples[:, 1]), self.items(triples[:, 2])
        return (self.users(triples[:, 0]) * (clicked - other)).sum(dim=1)


def build_model(width: int = 48) -> TwoTowers:
    """Build it with PyTorch's own initial weights."""
    return TwoTowers(width)


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean cross-entropy of which of the two was clicked, in nats."""
    return -F.logsigmoid(model(batch)).mean()


def random_clicks(generator: torch.Generator, batch_size: int) -> Tensor:
    """Return random clicks that are not held out, each with another random item."""
    chosen = torch.randint(HELD_OUT, CLICKS, (batch_size,), generator=generator)
    triples = clicks()[chosen].clone()
    triples[:, 2] = torch.randint(ITEMS, (batch_size,), generator=generator)
    return triples


def batches(batch_size: int) -> RandomBatches:
    """Triples, int64 of shape (batch_size, 3)."""
    return RandomBatches(random_clicks, batch_size)


def eval_batches(batch_size: int) -> Iterator[Tensor]:
    """The held-out clicks."""
    yield clicks()[:HELD_OUT]
