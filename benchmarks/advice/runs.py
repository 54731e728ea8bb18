"""Trains what is still to be known: each method's walk over the rates of each task, then second seeds of the best.

`rows` says what a run leaves. Every run of a task takes the same time: a method whose steps take longer gets fewer.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path

import torch

from subopt.profilers.target.load import load_target
from subopt.profilers.target.loaded import LoadedTarget
from subopt.recipes.schema import Recipe
from subopt.recipes.training.stepper import Step, Stepper
from subopt.recipes.training.trainable import Trainable, make_trainable

from .methods import BASELINE, SEARCHES, best_rate, next_rate
from .recipes import CPU, recipe_of
from .rows import Row, append_row, losses_by_rate, read_rows
from .step_times import step_time_ratios, steps_of
from .task_list import TASKS, start_of

SHARES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
# A held-out loss this many times the untrained one will not come back.
LOST = 10.0
SECOND_SEED = 1

Wanted = tuple[str, str, float, int]  # task, method, rate, seed


@cache
def target_of(task: str) -> LoadedTarget:
    """Load a task's model file, once."""
    return load_target(str(TASKS[task].path), TASKS[task].kwargs)


def ratio_of(task: str, method: str, path: Path) -> float:
    """Return a method's step time on a task, AdamW's being 1; measured once, then read from the file."""
    known: dict[str, dict[str, float]] = (
        json.loads(path.read_text("utf-8")) if path.exists() else {}
    )
    own = known.setdefault(task, {})
    if method not in own:
        asked = SEARCHES if method in SEARCHES else (BASELINE, method)
        own |= step_time_ratios(TASKS[task], target_of(task), asked)
        path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return own[method]


def run(task: str, recipe: Recipe, ratio: float) -> Row:
    """Train a recipe and return its row; stop where the loss is lost."""
    shape, steps, began = TASKS[task], recipe.schedule.steps, time.perf_counter()
    trainable = make_trainable(recipe, target_of(task), CPU)
    stepper = Stepper(trainable, trainable.begin())
    first_loss = trainable.evaluate(0).loss
    curve: list[tuple[float, float]] = []
    train_curve: list[tuple[float, float]] = []
    status = "diverged"
    tokens = 0
    for share, done in _parts(stepper, steps):
        tokens, losses = done[-1].tokens, [step.loss for step in done]
        held_out = trainable.evaluate(0).loss if all(map(math.isfinite, losses)) else math.nan
        if not held_out < LOST * first_loss:
            break
        curve.append((share, held_out))
        train_curve.append((share, statistics.fmean(losses)))
    else:
        status = "done"
    return {
        "task": task, "half": shape.half, "kind": shape.kind, "parameters": _size(trainable),
        "width": shape.width, "depth": shape.depth, "examples_per_step": shape.batch_size,
        "tokens_per_step": tokens, "fine_tunes": shape.fine_tunes,
        "method": recipe.optimizer.method, "lr": recipe.optimizer.lr,
        "fallback_lr": recipe.optimizer.fallback.lr, "weight_decay": recipe.optimizer.weight_decay,
        "options": recipe.optimizer.options, "seed": recipe.seed, "steps": steps, "step_ms_ratio": ratio,
        "status": status, "first_loss": first_loss, "loss": curve[-1][1] if status == "done" else None,
        "curve": curve, "train_curve": train_curve, "seconds": time.perf_counter() - began,
    }  # fmt: skip


def _parts(stepper: Stepper, steps: int) -> Iterator[tuple[float, list[Step]]]:
    """Take all steps; yield each share of the run with the steps since the last one, cut short by a lost loss."""
    step = 0
    for share in SHARES:
        done: list[Step] = []
        while step < max(1, round(share * steps)) and all(math.isfinite(one.loss) for one in done):
            step += 1
            done.append(stepper.take(step))
        if done:  # a short run has no step of its own between two early shares
            yield share, done


def _size(trainable: Trainable) -> int:
    return sum(parameter.numel() for parameter in trainable.model.parameters())


def wanted(rows: list[Row]) -> Iterator[Wanted]:
    """Yield what is to be run next: method by method the walks, a task of each half in turn, then second seeds."""
    halves = [
        [name for name, task in TASKS.items() if task.half == half] for half in ("dev", "held_out")
    ]
    in_turn = [name for pair in zip_longest(*halves) for name in pair if name is not None]
    for method in SEARCHES:
        for task in in_turn:
            lr = next_rate(losses_by_rate(rows, task, method), start_of(method, task))
            if lr is not None:
                yield task, method, lr, 0
    for method in SEARCHES:
        for task in in_turn:
            lr = best_rate(losses_by_rate(rows, task, method))
            if lr is not None and lr not in losses_by_rate(rows, task, method, SECOND_SEED):
                yield task, method, lr, SECOND_SEED


def train(
    path: Path,
    step_times: Path,
    next_run: Callable[[list[Row]], Iterator[Wanted]],
    minutes: float,
) -> None:
    """Run what `next_run` yields first for the rows so far, until nothing is left or the time is up."""
    torch.set_num_threads(1)
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline:
        task, method, lr, seed = next(next_run(read_rows(path)), (None, "", 0.0, 0))
        if task is None:
            print("nothing left to run")
            return
        ratio = ratio_of(task, method, step_times)
        steps = steps_of(TASKS[task], ratio)
        recipe = recipe_of(TASKS[task], method, lr, steps=steps, seed=seed)
        row = run(task, recipe, ratio)
        append_row(path, row)
        loss = "diverged" if row["loss"] is None else f"{row['loss']:.4f}"
        print(f"{task} {method} {lr:g} seed {seed}: {loss}, {row['seconds']:.1f} s", flush=True)
    print("time limit reached")
