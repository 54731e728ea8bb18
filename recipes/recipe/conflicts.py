"""Keys of a recipe that are right each by itself and cannot be had together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from subopt.optimizers import get_method

from ..schema import Recipe


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two keys that exclude each other: the path of the one that asks for something, what excludes it, and a hint."""

    key: tuple[str, ...]
    message: str
    hint: str


def conflicts(recipe: Recipe) -> Iterator[Conflict]:
    """Yield what in a recipe, whose values are valid each, cannot be had together."""
    if recipe.fused_backward:
        yield from _fused(recipe)
    method = get_method(recipe.optimizer.method)
    if recipe.compile and method.layers:
        yield Conflict(
            ("compile",),
            f"{method.name} changes its layers' sizes as it trains, and torch.compile would compile them anew",
            "set compile: false, or take another method",
        )
    if recipe.checkpoint.best and recipe.eval.every == 0:
        yield Conflict(
            ("checkpoint", "best"),
            "the best weights are those of the lowest held-out loss, which eval.every: 0 takes once, at the end",
            f"set eval.every, such as eval.every={max(1, recipe.schedule.steps // 20)}, or checkpoint.best: false",
        )


def _fused(recipe: Recipe) -> Iterator[Conflict]:
    """Yield what needs a gradient that fused backward has already used up."""
    key, off = ("fused_backward",), "or fused_backward: false"
    method, accumulate = get_method(recipe.optimizer.method), recipe.data.accumulate
    if accumulate > 1:
        yield Conflict(
            key,
            "fused_backward moves each weight in the first backward pass, "
            f"and data.accumulate: {accumulate} adds up the gradients of {accumulate}",
            f"set data.accumulate: 1 (with recompute: true, data.batch_size may grow instead), {off}",
        )
    if recipe.clip_norm is not None:
        yield Conflict(
            key,
            "fused_backward frees each gradient at once, and clip_norm needs the norm of all of them first",
            f"set clip_norm: null, {off}",
        )
    if "needs_closure" in method.capabilities:
        yield Conflict(
            key,
            f"fused_backward moves weights in the backward pass, and {method.name} goes through it twice a step",
            f"take another method, {off}",
        )
    if recipe.compile:
        yield Conflict(
            key,
            "compiled code makes all gradients before the first one is handed out, so fused_backward would free none",
            f"set compile: false, {off}",
        )
