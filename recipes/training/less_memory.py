"""What to change in a recipe whose step runs out of memory."""

from __future__ import annotations

from ..schema import Recipe


def less_memory(recipe: Recipe) -> str:
    """Return what to change in a recipe for a lower peak, the same step where that can be."""
    batch_size, accumulate = recipe.data.batch_size, recipe.data.accumulate
    ways = []
    if batch_size % 2 == 0 and not recipe.fused_backward:
        ways.append(
            "take the same step in smaller pieces: "
            f"data.batch_size={batch_size // 2} data.accumulate={accumulate * 2}"
        )
    elif batch_size > 1:
        ways.append(f"take a smaller step: data.batch_size={batch_size // 2}")
    if not recipe.recompute:
        ways.append("compute activations again: recompute=true")
    return "; or ".join(ways) or "take a method with less state: `subopt recommend` compares them"
