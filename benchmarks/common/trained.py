"""Gradients of a LLaMA in training: what decompositions meet, and warm starts start from."""

import torch
from common.conditions import load_example
from torch import Tensor

LR = 1e-3
# Steps before the first gradients that are kept, and between two that are.
WARM_UP, GAP = 5, 10
BATCH_SIZE = 2  # windows of 256 bytes


def trained_gradients(
    size: str, layers: int, sets: int, warm_up: int = WARM_UP, gap: int = GAP
) -> list[dict[str, Tensor]]:
    """Train a byte LLaMA of a size's width by AdamW and keep gradients of its layers' matrices.

    Args:
        size: Of the example.
        layers: How many of them.
        sets: How many steps' gradients to keep.
        warm_up: Steps before the first of those.
        gap: Steps from one to the next.

    Returns:
        For every kept step the gradients by name: layer by layer q, k, v, o, gate, up, down.
    """
    example = load_example("llama_bytes")
    torch.manual_seed(0)
    shape = example.SIZES[size]._replace(layers=layers)
    model = example.Llama(shape, example.CONTEXT, example.BYTE_VALUES)
    batches = example.batches(BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    matrices = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.startswith("layers.") and parameter.ndim == 2
    }
    kept = []
    for step in range(warm_up + (sets - 1) * gap + 1):
        optimizer.zero_grad()
        example.loss(model, next(batches)).backward()
        if step >= warm_up and (step - warm_up) % gap == 0:
            kept.append({name: parameter.grad.clone() for name, parameter in matrices.items()})
        optimizer.step()
    return kept
