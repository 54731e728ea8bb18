"""A model that is ready for its first step: built, checked on a batch, with its optimizer. It has no run folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from subopt.errors import PreflightError, UsageError
from subopt.optimizers import Composed, ParameterRole, create, get_method, parameter_roles
from subopt.profilers.preflight import preflight
from subopt.profilers.target.activation_checkpointing import recompute_blocks
from subopt.profilers.target.batches import BatchStream
from subopt.profilers.target.load import load_target
from subopt.profilers.target.loaded import LoadedTarget
from subopt.profilers.target.training_data import TrainingData

from ..placement import make_accelerator, prepare_batch
from ..recipe.conflicts import conflicts
from ..rng import seed_everything
from ..run_folder.weights import model_bytes
from ..schema import Recipe
from .compilation import compiled
from .device_memory import PeakMemory, oom_as_error
from .evaluation import HeldOutLoss, held_out_loss

if TYPE_CHECKING:
    from accelerate import Accelerator

Checks = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Trainable:
    """Everything a step needs.

    Attributes:
        recipe: The settings.
        target: The user's model, with the recipe's data.
        accelerator: Placement, precision and accumulation.
        model: The model, on its device.
        called: What the loss of a step calls: the model, or what `torch.compile` made of it.
        optimizer: The optimizer, bare of accelerate's wrapper.
        memory: Watches the peak, the model included.
        described: The parameters of the model as it was given, before a method replaced layers.
        checks: The pre-flight checks passed, as (name, detail).
    """

    recipe: Recipe
    target: LoadedTarget
    accelerator: Accelerator
    model: nn.Module
    called: nn.Module
    optimizer: Composed
    memory: PeakMemory
    described: Sequence[ParameterRole]
    checks: Checks

    def batch(self, batch: Any) -> Any:
        """Return a batch as the model takes it: on its device, and in its dtype where the weights are bf16."""
        return prepare_batch(batch, self.accelerator.device, self.recipe.precision)

    def begin(self) -> BatchStream:
        """Seed every generator as a fresh run does, and return its training batches from the first one on."""
        seed_everything(self.recipe.seed)
        return BatchStream(self.target.data, self.recipe.data.batch_size, seed=self.recipe.seed)

    def evaluate(self, seed: int) -> HeldOutLoss:
        """Return the held-out loss over the batches that the recipe asks for and the seed decides."""
        recipe, data = self.recipe, self.target.data
        return held_out_loss(
            recipe, data, self.model, self.accelerator, batches=recipe.eval.batches, seed=seed
        )


def training_target(recipe: Recipe, base: Path) -> LoadedTarget:
    """Load a recipe's model file, with the batches of its `data.files` where it names some; paths start from `base`.

    Raises:
        TargetError: The model file cannot be loaded.
        SuboptError: What the data files raise.
    """
    target = load_target(recipe.model.target, recipe.model.kwargs, base=base)
    if recipe.data.files is None:
        return target
    from ..data.source import with_files

    return with_files(target, recipe.data.files, base)


def make_trainable(recipe: Recipe, target: LoadedTarget, device: torch.device) -> Trainable:
    """Build a recipe's model and optimizer and try them on a batch: the same recipe gives the same, bit for bit.

    One at a time: precision and accumulation are settings of the whole process.

    Raises:
        PreflightError: The model cannot be trained on this data, or not compiled.
        UsageError: `recompute` of a model without repeated blocks, or keys that exclude each other.
        OptionError: The method or one of its options cannot be used on this model.
        UserCodeError: The user's code raised.
        DoesNotFitError: The device ran out of memory.
    """
    for found in conflicts(recipe):
        raise UsageError(f"{'.'.join(found.key)}: {found.message}", found.hint)
    accelerator = make_accelerator(recipe, device)
    with oom_as_error("the first batch", recipe):
        model, checks = _build(recipe, target, accelerator)
    described = parameter_roles(model)
    optimizer = _optimizer(recipe, target, model, accelerator)
    memory = PeakMemory(device, model_bytes=model_bytes(model))  # of the layers that are trained
    model = called = accelerator.prepare_model(model)
    if recipe.compile:
        with oom_as_error("the first compiled batch", recipe):
            batch = _first_batch(recipe, target.data, accelerator)
            called = compiled(target.data, model, batch, accelerator)
    return Trainable(
        recipe, target, accelerator, model, called, optimizer, memory, described, checks
    )


def _build(
    recipe: Recipe, target: LoadedTarget, accelerator: Accelerator
) -> tuple[nn.Module, Checks]:
    """Return the model in its precision on its device, and the checks it passed."""
    seed_everything(recipe.seed)
    model = target.build_model()
    if recipe.precision == "bf16":
        model = model.to(torch.bfloat16)
    model = model.to(accelerator.device)
    if not model.training:  # as pretrained models come; a part in evaluation mode on purpose stays
        model.train()
    recomputed = recompute_blocks(model) if recipe.recompute else []  # before the first batch
    checks = _preflight(recipe, target.data, model, accelerator)
    if recomputed:
        checks = (*checks, ("recomputed", f"{len(recomputed)} blocks, {recomputed[0]} the first"))
    return model, checks


def _preflight(
    recipe: Recipe, data: TrainingData, model: nn.Module, accelerator: Accelerator
) -> Checks:
    if data.make_batches is None:
        raise PreflightError(
            f"{data.spec} has no batches(batch_size), so there is no data to train on",
            "write one in the model's file; it yields what loss(model, batch) takes",
        )
    batch = _first_batch(recipe, data, accelerator)
    with accelerator.autocast():
        checks = preflight(data, model, batch)
    found = [(check.name, check.detail) for check in checks]
    if recipe.checkpoint.best and not data.has_eval:
        raise PreflightError(
            "checkpoint.best: true keeps the weights of the lowest held-out loss, and there is no held-out data",
            "write eval_batches(batch_size) in the model's file or name data.files.eval; or set checkpoint.best: false",
        )
    if data.has_eval:  # a mistake in it shows now and not after the last step
        loss = held_out_loss(recipe, data, model, accelerator, batches=1, seed=recipe.seed).loss
        if not math.isfinite(loss):
            raise PreflightError(
                f"the loss of the first held-out batch is {loss}",
                "check the data of eval_batches and the model in evaluation mode",
            )
        found.append(("held-out loss", f"{loss:.4g} on the first batch of eval_batches"))
    return tuple(found)


def _first_batch(recipe: Recipe, data: TrainingData, accelerator: Accelerator) -> Any:
    stream = BatchStream(data, recipe.data.batch_size, seed=recipe.seed)
    batch = prepare_batch(next(stream), accelerator.device, recipe.precision)
    stream.state_dict()  # what a checkpoint cannot hold is refused now and not at the first save
    return batch


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
        overrides=[override.model_dump() for override in chosen.overrides],
        groups=target.param_groups(model),
        **options,
    )
