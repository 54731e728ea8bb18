"""A transformer that learns to add two numbers of two digits, written as text."""

from collections.abc import Iterator

import torch
from language_model import GPT, gpt2_initialised
from random_batches import RandomBatches
from torch import Tensor, nn
from torch.nn import functional as F

PLUS, EQUALS = 10, 11
VOCABULARY = 12
DIGITS = 2
QUESTION = 2 * DIGITS + 2  # ab+cd=
LENGTH = QUESTION + DIGITS + 1
HELD_OUT = 512
HELD_OUT_EVERY = 10  # sums with a first number divisible by this are never trained on


def written(numbers: Tensor, digits: int) -> Tensor:
    """Return the digits of numbers, the last one first, shape (count, digits)."""
    return numbers[:, None] // 10 ** torch.arange(digits) % 10


def sums(first: Tensor, second: Tensor) -> Tensor:
    """Return `first+second=sum` as tokens, shape (count, LENGTH)."""
    signs = torch.tensor([PLUS, EQUALS]).expand(len(first), 2)
    plus, equals = signs.split(1, dim=1)
    result = written(first + second, DIGITS + 1)
    return torch.cat([written(first, DIGITS), plus, written(second, DIGITS), equals, result], dim=1)


def build_model(width: int = 64, depth: int = 2) -> GPT:
    """Build the transformer."""
    return gpt2_initialised(GPT(width, depth, heads=4, vocabulary=VOCABULARY, length=LENGTH))


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean cross-entropy of the sum's digits, in nats."""
    answers = batch[:, QUESTION:]
    logits = model(batch[:, :-1])[:, QUESTION - 1 :]
    return F.cross_entropy(logits.flatten(0, 1), answers.flatten())


def random_sums(generator: torch.Generator, batch_size: int) -> Tensor:
    """Return random sums that are not held out."""
    tens = torch.randint(10 ** (DIGITS - 1), (batch_size,), generator=generator)
    ones = torch.randint(1, HELD_OUT_EVERY, (batch_size,), generator=generator)
    second = torch.randint(10**DIGITS, (batch_size,), generator=generator)
    return sums(HELD_OUT_EVERY * tens + ones, second)


def batches(batch_size: int) -> RandomBatches:
    """Random sums, int64 of shape (batch_size, LENGTH)."""
    return RandomBatches(random_sums, batch_size)


def eval_batches(batch_size: int) -> Iterator[Tensor]:
    """Fixed sums that are never trained on."""
    generator = torch.Generator().manual_seed(1)
    first = HELD_OUT_EVERY * torch.randint(10 ** (DIGITS - 1), (HELD_OUT,), generator=generator)
    second = torch.randint(10**DIGITS, (HELD_OUT,), generator=generator)
    yield from sums(first, second).split(max(batch_size, 256))
