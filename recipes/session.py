"""Everything a run needs, built and checked before its first step; also what `--dry-run` shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from subopt.errors import DoesNotFitError, PreflightError, TargetError
from subopt.optimizers import Composed, create, get_method, treatments
from subopt.profilers.data import BatchStream
from subopt.profilers.device import resolve_device
from subopt.profilers.preflight import preflight
from subopt.profilers.target import LoadedTarget, load_target
from subopt.units import format_bytes

from .budget import read_budget
from .device_memory import PeakMemory, free_bytes, told_out_of_memory
from .evaluation import held_out_loss
from .events import Plan, Warned
from .placement import make_accelerator, prepare_batch
from .planning import make_plan, model_bytes
from .rng import seed_everything
from .run_folder import RunFolder
from .schema import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Session:
    """A run that is ready to start.

    Attributes:
        recipe: The recipe, with the model file's hash filled in.
        recipe_path: Where it came from.
        folder: Where the run goes.
        target: The user's model file.
        accelerator: Placement, precision and accumulation.
        model: The model, on its device.
        optimizer: The optimizer, bare of accelerate's wrapper.
        memory: Watches the peak, the model included.
        plan: The same as plain data, for showing.
        checkpoint: The checkpoint to go on from, or None.
        warnings: What the user should know before the first step.
    """

    recipe: Recipe
    recipe_path: Path
    folder: RunFolder
    target: LoadedTarget
    accelerator: Accelerator
    model: nn.Module
    optimizer: Composed
    memory: PeakMemory
    plan: Plan
    checkpoint: Path | None
    warnings: tuple[Warned, ...]

    def batch(self, batch: Any) -> Any:
        """Return a batch as the model takes it: on its device, and in its dtype where the weights are bf16."""
        return prepare_batch(batch, self.accelerator.device, self.recipe.precision)


def open_session(
    recipe: Recipe,
    *,
    recipe_path: Path,
    output: Path,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
) -> Session:
    """Load, build and check everything; nothing in the run folder is touched.

    Raises:
        UsageError: The run folder exists, or the device does not.
        TargetError: The model file cannot be loaded, or has changed since the recipe was made.
        DoesNotFitError: The predicted peak is more than the device has free.
        PreflightError: The model cannot be trained on this data.
    """
    place = resolve_device(device)
    target = load_target(recipe.model.target, recipe.model.kwargs, base=recipe_path.parent)
    warnings = (*_check_unchanged(recipe, target, force=force), *_check_data(target))
    known = recipe.model.model_copy(update={"sha256": target.record.sha256})
    recipe = recipe.model_copy(update={"model": known})
    folder = RunFolder(output)
    folder.check(recipe, recipe_path, resume=resume, force=force)
    free = free_bytes(place)
    _check_fits(recipe, place, free, force=force)

    accelerator = make_accelerator(recipe, place)
    with told_out_of_memory("the first batch"):
        model, checks = _build(recipe, target, accelerator)
    described = treatments(model)
    optimizer = _optimizer(recipe, target, model, accelerator)
    memory = PeakMemory(place, held_bytes=model_bytes(model))  # of the layers that are trained
    checkpoint = folder.newest_checkpoint() if resume else None
    start_step = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
    plan = make_plan(recipe, target, described, optimizer, place, output, start_step, free, checks)
    prepared: nn.Module = accelerator.prepare_model(model)
    return Session(
        recipe=recipe,
        recipe_path=recipe_path,
        folder=folder,
        target=target,
        accelerator=accelerator,
        model=prepared,
        optimizer=optimizer,
        memory=memory,
        plan=plan,
        checkpoint=checkpoint,
        warnings=warnings,
    )


def _check_unchanged(recipe: Recipe, target: LoadedTarget, *, force: bool) -> tuple[Warned, ...]:
    if recipe.model.sha256 in {None, target.record.sha256}:
        return ()
    message = f"{target.record.file} has changed since the recipe was made"
    if not force:
        raise TargetError(
            message, "make the recipe again, or train with the new file all the same: --force"
        )
    return (Warned(message, "its predictions may no longer hold"),)


def _check_data(target: LoadedTarget) -> tuple[Warned, ...]:
    if not target.record.synthetic_data:
        return ()
    return (
        Warned(
            "the data is SYNTHETIC: what this run learns is worth nothing, only its time and memory are real",
            "for a real run write a model.py with build_model() and batches(batch_size)",
        ),
    )


def _check_fits(recipe: Recipe, device: torch.device, free: int | None, *, force: bool) -> None:
    """Refuse a run whose predicted peak is more than tensors can have of the free memory, as `recommend` counts it."""
    peak = recipe.why.predicted_peak_bytes
    if force or peak is None or free is None:
        return
    is_gpu = device.type == "cuda"
    usable = read_budget(max(free, 1), "cuda" if is_gpu else "cpu").usable_bytes
    if peak <= usable:
        return
    batch_size, accumulate = recipe.data.batch_size, recipe.data.accumulate
    hint = f"free {format_bytes(peak - usable)}, or train all the same with --force"
    if batch_size % 2 == 0:
        hint = (
            f"take the same step in smaller pieces: data.batch_size={batch_size // 2} "
            f"data.accumulate={accumulate * 2}; or {hint}"
        )
    raise DoesNotFitError(
        f"this run is predicted to need {format_bytes(peak)}, and {device} has {format_bytes(free)} free"
        + (f", {format_bytes(usable)} of it usable" if is_gpu else ""),
        hint,
    )


def _build(
    recipe: Recipe, target: LoadedTarget, accelerator: Accelerator
) -> tuple[nn.Module, tuple[tuple[str, str], ...]]:
    """Return the model in its precision on its device, and the checks it passed."""
    seed_everything(recipe.seed)
    model = target.build_model()
    if recipe.precision == "bf16":
        model = model.to(torch.bfloat16)
    model = model.to(accelerator.device)
    if not model.training:  # as pretrained models come; a part in evaluation mode on purpose stays
        model.train()
    return model, _preflight(recipe, target, model, accelerator)


def _preflight(
    recipe: Recipe, target: LoadedTarget, model: nn.Module, accelerator: Accelerator
) -> tuple[tuple[str, str], ...]:
    if not target.has_batches:
        raise PreflightError(
            f"{target.record.spec} has no batches(batch_size), so there is no data to train on",
            "write one in the model's file; it yields what loss(model, batch) takes",
        )
    stream = BatchStream(target, recipe.data.batch_size, seed=recipe.seed)
    batch = prepare_batch(next(stream), accelerator.device, recipe.precision)
    with accelerator.autocast():
        checks = preflight(target, model, batch).checks
    stream.state_dict()  # what a checkpoint cannot hold is refused now and not at the first save
    found = [(check.name, check.detail) for check in checks]
    if target.has_eval:
        found.append(("held-out loss", _try_held_out(recipe, target, model, accelerator)))
    return tuple(found)


def _try_held_out(
    recipe: Recipe, target: LoadedTarget, model: nn.Module, accelerator: Accelerator
) -> str:
    """Take the loss of one held-out batch: a mistake in `eval_batches` shows now and not after the last step."""
    loss, _ = held_out_loss(recipe, target, model, accelerator, batches=1)
    if not math.isfinite(loss):
        raise PreflightError(
            f"the loss of the first held-out batch is {loss}",
            "check the data of eval_batches and the model in evaluation mode",
        )
    return f"{loss:.4g} on the first batch of eval_batches"


def _optimizer(
    recipe: Recipe, target: LoadedTarget, model: nn.Module, accelerator: Accelerator
) -> Composed:
    """Return the optimizer; a method that replaces layers of the model does so now."""
    chosen = recipe.optimizer
    method = get_method(chosen.method)
    if accelerator.scaler is not None and "needs_closure" in method.capabilities:
        raise PreflightError(
            f"{method.name} evaluates the loss more than once a step, which fp16 loss scaling does not allow",
            "train it with precision: bf16-mixed or fp32",
        )
    options: dict[str, Any] = chosen.options
    if any(p.is_complex() for p in model.parameters()):
        raise PreflightError(
            "the model has complex parameters, which no method here trains",
            "store them as real pairs: torch.view_as_real",
        )
    return create(
        method.name,
        model,
        lr=chosen.lr,
        weight_decay=chosen.weight_decay,
        fallback=chosen.fallback.model_dump(),
        rules=[rule.model_dump() for rule in chosen.rules],
        groups=target.param_groups(model),
        **options,
    )
