"""What `subopt recommend` writes for each task, trained as it is written."""

import gzip
import subprocess
import sys
import tempfile
from pathlib import Path

from common.conditions import ROOT

from subopt.recipes.advice.advisor import recommend, to_recipe
from subopt.recipes.schema import Evaluation, Recipe

from .prior import profile_of, profile_path
from .recipes import EVAL_BATCHES
from .rows import Row, append_row, read_rows
from .runs import ratio_of, run
from .step_times import steps_of
from .task_list import TASKS

AMPLE_BYTES = 2**36


def profile(task: str) -> None:
    """Write a task's quick profile, as a user makes it, where there is none yet."""
    to, shape = profile_path(task), TASKS[task]
    if to.exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "profile.json"
        arguments = [f"{key}={value}" for key, value in shape.kwargs.items()]
        target = str(shape.path.relative_to(ROOT))
        words = ("profile", target, *arguments, "--batch-size", str(shape.batch_size))
        command = [sys.executable, "-m", "subopt", *words, "--detail", "quick", "-o", str(plain)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        text = plain.read_text(encoding="utf-8").replace(
            f"{ROOT}/", ""
        )  # the same on every machine
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(gzip.compress(text.encode(), mtime=0))


def recommended(task: str, step_times: Path) -> tuple[Recipe, float]:
    """Return the recipe that `subopt recommend` writes, cut to AdamW's time, and its step's time beside AdamW's."""
    found, shape = profile_of(task), TASKS[task]
    advice = recommend(found, budget_bytes=AMPLE_BYTES, device="cpu", steps=shape.steps)
    recipe = to_recipe(advice, found, recipe_path=shape.path.with_name("recipe.yaml"))
    ratio = ratio_of(task, recipe.optimizer.method, step_times)
    changes = {
        "schedule": recipe.schedule.over(steps_of(shape, ratio)),
        "eval": Evaluation(batches=EVAL_BATCHES),
    }
    return recipe.model_copy(update=changes), ratio


def train_recommended(path: Path, step_times: Path) -> None:
    """Train each task's recommended recipe where the file has no run of the same settings."""
    for task in TASKS:
        recipe, ratio = recommended(task, step_times)
        if any(row["task"] == task and _is_of(row, recipe) for row in read_rows(path)):
            continue
        row = run(task, recipe, ratio)
        append_row(path, row)
        print(f"{task} {row['method']} {row['lr']:g}: {row['loss']}", flush=True)


def _is_of(row: Row, recipe: Recipe) -> bool:
    chosen = recipe.optimizer
    settings = (chosen.method, chosen.lr, chosen.fallback.lr, chosen.weight_decay, chosen.options)
    names = ("method", "lr", "fallback_lr", "weight_decay", "options")
    return row["steps"] == recipe.schedule.steps and settings == tuple(row[name] for name in names)
