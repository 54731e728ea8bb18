"""A GRU that predicts the next byte of Python's standard library."""

from language_model import batches, eval_batches, loss
from python_source import VOCABULARY
from torch import Tensor, nn

__all__ = ["batches", "build_model", "eval_batches", "loss"]


class GRU(nn.Module):
    """Tokens (batch, length) to logits (batch, length, vocabulary)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.recurrent = nn.GRU(width, width, depth, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """Score each next token."""
        states, _ = self.recurrent(self.embedding(tokens))
        logits: Tensor = self.head(states)
        return logits


def build_model(width: int = 64, depth: int = 1) -> GRU:
    """Build it with PyTorch's own initial weights."""
    return GRU(width, depth)
