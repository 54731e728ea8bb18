"""A vision transformer that names handwritten digits."""

from language_model import Block
from noisy_digits import CLASSES, SIDE
from convnet import batches, eval_batches, loss
from torch import Tensor, nn

__all__ = ["batches", "build_model", "eval_batches", "loss"]

PATCH = 3


class ViT(nn.Module):
    """Images (batch, 1, SIDE, SIDE) to logits (batch, 10), by the mean over the patches."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, PATCH, stride=PATCH)
        self.positions = nn.Embedding((SIDE // PATCH) ** 2, width)
        self.blocks = nn.ModuleList(Block(width, heads=4) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Score the ten digits."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions.weight
        for block in self.blocks:
            x = block(x, is_causal=False)
        logits: Tensor = self.head(self.norm(x).mean(dim=1))
        return logits


def build_model(width: int = 64, depth: int = 3) -> ViT:
    """Build the transformer."""
    return ViT(width, depth)
