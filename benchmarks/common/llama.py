"""The matrices of the LLaMA sizes that the papers train, and made-up gradients for them."""

import torch
from common.conditions import load_example
from torch import Tensor

Shape = tuple[int, int]

SIGNAL_RANK = 32
NOISE = 0.1  # of the signal's norm
RMS = 1e-2


def widths(size: str) -> tuple[int, int, int]:
    """Hidden and intermediate width, and layers, of a size."""
    if size == "7b":  # not among the example's, which trains on a CPU
        return 4096, 11008, 32
    found = load_example("llama_bytes").SIZES[size]
    return found.hidden, found.intermediate, found.layers


def layer_shapes(size: str) -> list[Shape]:
    """The seven matrices of one decoder layer: q, k, v, o; gate, up; down."""
    hidden, intermediate, _ = widths(size)
    return [(hidden, hidden)] * 4 + [(intermediate, hidden)] * 2 + [(hidden, intermediate)]


def gradients(shapes: list[Shape], sets: int, seed: int = 0) -> list[list[Tensor]]:
    """`sets` gradients of every shape: one low-rank signal, decaying, with fresh noise in each set."""
    generator = torch.Generator().manual_seed(seed)
    signals = []
    for rows, columns in shapes:
        rank = min(SIGNAL_RANK, rows, columns)
        decay = torch.arange(rank).div(-8.0).exp()
        left = torch.randn(rows, rank, generator=generator)
        right = torch.randn(rank, columns, generator=generator)
        signals.append((left * decay) @ right)
    return [[_noisy(signal, generator) for signal in signals] for _ in range(sets)]


def _noisy(signal: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(signal.shape, generator=generator)
    noise *= NOISE * torch.linalg.vector_norm(signal) / torch.linalg.vector_norm(noise)
    total = signal + noise
    return total * (RMS / total.square().mean().sqrt())
