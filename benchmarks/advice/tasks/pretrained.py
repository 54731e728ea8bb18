"""Checkpoints that the fine-tuning tasks start from: made once by AdamW, then read from the disk."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from random_batches import RandomBatches
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parents[3] / ".subopt" / "advice"
SEED = 11
LR = 3e-3


def checkpoint(
    name: str,
    build: Callable[[], nn.Module],
    loss: Callable[[nn.Module, object], Tensor],
    batches: RandomBatches,
    steps: int,
) -> Path:
    """Return the file of weights after `steps` of AdamW with a cosine, made where it does not exist yet."""
    path = FOLDER / f"{name}.pt"
    if path.exists():
        return path
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = build()
        batches.seed = SEED
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model, next(batches)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    FOLDER.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    torch.save(model.state_dict(), partial)
    partial.replace(path)
    return path
