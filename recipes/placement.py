"""Where and in which precision a run computes: accelerate's object, and a batch as the model takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from subopt.profilers.target.batches import placed

from .schema import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(recipe: Recipe, device: torch.device) -> Accelerator:
    """Return accelerate's object for one device; its process-wide state is set anew for each run."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if recipe.precision == "bf16-mixed" else "no",
        gradient_accumulation_steps=recipe.data.accumulate,
    )


def prepare_batch(batch: Any, device: torch.device, precision: str) -> Any:
    """Move a batch to a device; under `bf16` its floating-point tensors follow the weights' dtype."""
    return placed(batch, device, torch.bfloat16 if precision == "bf16" else torch.float32)
