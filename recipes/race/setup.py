"""What all runs of a race share, and the recipe of each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from subopt.errors import OptionError
from subopt.optimizers import get_method
from subopt.profilers.record.race import OptionValue
from subopt.profilers.target.loaded import LoadedTarget

from ..schema import Override, Recipe, Why
from .candidates import Candidate, Setting


@dataclass(frozen=True)
class RaceSetup:
    """What all runs of a race share: the recipe with its file, the model and the device."""

    recipe: Recipe
    recipe_path: Path
    target: LoadedTarget
    device: torch.device

    def recipe_of(self, candidate: Candidate, setting: Setting) -> Recipe:
        """Return the recipe of one run: the common one with a method's settings, its schedule over its own steps."""
        own = self.recipe.optimizer
        takes_rate = own.fallback.method != "same"
        fallback = {"lr": setting.fallback_lr if takes_rate else None}
        overrides = [one for one in own.overrides if _takes(setting.method, candidate.options, one)]
        optimizer = own.model_copy(
            update={
                "method": setting.method,
                "options": dict(candidate.options),
                "lr": setting.lr,
                "weight_decay": setting.weight_decay,
                "fallback": own.fallback.model_copy(update=fallback),
                "overrides": overrides,
            }
        )
        changes = {
            "optimizer": optimizer,
            "schedule": self.recipe.schedule.over(candidate.steps),
            "why": self._why(setting),
        }
        return self.recipe.model_copy(update=changes)

    def _why(self, setting: Setting) -> Why:
        """Return what of the recipe's predictions holds: memory and time of its method, and at its rate all."""
        own, why = self.recipe.optimizer, self.recipe.why
        if setting.method != own.method:
            return Why()
        return why if setting.lr == own.lr else why.model_copy(update={"evidence": []})


def _takes(method: str, options: Mapping[str, OptionValue], override: Override) -> bool:
    """Whether an override says something to this method: options without a method are for one that has them."""
    if override.method is not None or not override.options:
        return True
    try:
        get_method(method).resolve({**options, **override.options})
    except OptionError:
        return False
    return True
