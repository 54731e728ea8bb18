"""A run that is ready to start: its model, and its folder, both checked; also what `--dry-run` shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from subopt.errors import DoesNotFitError, TargetError
from subopt.profilers.device import resolve_device
from subopt.profilers.target.loaded import LoadedTarget
from subopt.units import format_bytes

from ..plan.budget import read_budget
from ..run_folder.checkpoint import step_of
from ..run_folder.folder import RunFolder
from ..schema import Recipe
from .device_memory import free_bytes, less_memory
from .events import RunPlan, Warned
from .planning import make_plan
from .trainable import Trainable, make_trainable, training_target

_SYNTHETIC = Warned(
    "the data is SYNTHETIC: what this run learns is worth nothing, only its time and memory are real",
    "for a real run name text files in data.files, or write a model.py with batches(batch_size)",
)


@dataclass(frozen=True)
class TrainingSession(Trainable):
    """A trainable model and the folder its run goes to; the recipe has the model file's hash filled in.

    Attributes:
        plan: The same as plain data, for showing.
        checkpoint: The checkpoint to go on from, or None.
        warnings: What the user should know before the first step.
    """

    recipe_path: Path
    folder: RunFolder
    plan: RunPlan
    checkpoint: Path | None
    warnings: tuple[Warned, ...]


def open_session(
    recipe: Recipe,
    *,
    recipe_path: Path,
    output: Path,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
) -> TrainingSession:
    """Load, build and check everything; nothing in the run folder is touched.

    Raises:
        UsageError: The run folder exists, or the device does not.
        TargetError: The model file cannot be loaded, or has changed since the recipe was made.
        DoesNotFitError: The predicted peak is more than the device has free.
        PreflightError: The model cannot be trained on this data.
    """
    place = resolve_device(device)
    target = training_target(recipe, recipe_path.parent)
    warnings = check_unchanged(recipe, target, force=force)
    if target.data.is_synthetic:
        warnings += (_SYNTHETIC,)
    known = recipe.model.model_copy(update={"sha256": target.record.sha256})
    recipe = recipe.model_copy(update={"model": known})
    folder = RunFolder(output)
    folder.check(recipe, recipe_path, resume=resume, force=force)
    free = free_bytes(place)
    _check_fits(recipe, place, free, force=force)

    trainable = make_trainable(recipe, target, place)
    checkpoint = folder.newest_checkpoint() if resume else None
    start_step = step_of(checkpoint) if checkpoint else 0
    return TrainingSession(
        **vars(trainable),
        recipe_path=recipe_path,
        folder=folder,
        plan=make_plan(trainable, place, output, start_step, free),
        checkpoint=checkpoint,
        warnings=warnings,
    )


def check_unchanged(recipe: Recipe, target: LoadedTarget, *, force: bool) -> tuple[Warned, ...]:
    """Refuse a model file that is not the one the recipe was made for; with `force` warn of it."""
    if recipe.model.sha256 in {None, target.record.sha256}:
        return ()
    message = f"{target.record.file} has changed since the recipe was made"
    if not force:
        raise TargetError(
            message, "make the recipe again, or train with the new file all the same: --force"
        )
    return (Warned(message, "its predictions may no longer hold"),)


def _check_fits(recipe: Recipe, device: torch.device, free: int | None, *, force: bool) -> None:
    """Refuse a run whose predicted peak is more than tensors can have of the free memory, as `recommend` counts it."""
    peak = recipe.why.predicted_peak_bytes
    if force or peak is None or free is None:
        return
    is_gpu = device.type == "cuda"
    usable = read_budget(max(free, 1), "cuda" if is_gpu else "cpu").usable_bytes
    if peak <= usable:
        return
    raise DoesNotFitError(
        f"this run is predicted to need {format_bytes(peak)}, and {device} has {format_bytes(free)} free"
        + (f", {format_bytes(usable)} of it usable" if is_gpu else ""),
        f"{less_memory(recipe)}; or free {format_bytes(peak - usable)}; or train all the same with --force",
    )
