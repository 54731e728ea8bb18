"""The recipe of a run: what `subopt recommend` would write, with the method and rate that are tried."""

from collections.abc import Mapping

import torch

from subopt.recipes.schema import (
    Data,
    Evaluation,
    Fallback,
    Model,
    Optimizer,
    OptionValue,
    Recipe,
    Schedule,
)

from .methods import SEARCHES, Search
from .task_list import Task

CPU = torch.device("cpu")
WARMUP_SHARE, FINAL_RATIO, CLIP_NORM = 0.1, 0.1, 1.0
EVAL_BATCHES = 1000  # more than there are: all held-out data


def recipe_of(
    task: Task,
    method: str,
    lr: float,
    *,
    steps: int,
    seed: int = 0,
    options: Mapping[str, OptionValue] | None = None,
) -> Recipe:
    """Return the recipe of one run: a tenth of warm-up, a cosine to a tenth, clipping at 1, no weight decay."""
    search = SEARCHES.get(method, Search(start=lr))
    fallback = Fallback(lr=float(f"{lr * search.fallback:.3g}"))
    return Recipe(
        model=Model(target=str(task.path), kwargs=dict(task.kwargs)),
        data=Data(batch_size=task.batch_size),
        optimizer=Optimizer(method=method, lr=lr, options=dict(options or {}), fallback=fallback),
        schedule=Schedule(
            warmup_steps=int(steps * WARMUP_SHARE), steps=steps, final_ratio=FINAL_RATIO
        ),
        clip_norm=CLIP_NORM,
        eval=Evaluation(batches=EVAL_BATCHES),
        seed=seed,
    )
