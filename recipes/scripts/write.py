"""A recipe as a training script for other software: a Hugging Face Trainer, Lightning, or a loop of one's own.

The script is the recipe's numbers around one call of `subopt.optimizers.create`. What it does step by step is what
`subopt train` does: the same weights, batches, gradients, clipping and learning rates. Everything from the recipe gets
into it as a Python literal, so that no recipe can put code there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from subopt.errors import UsageError
from subopt.optimizers import get_method

from ..schema import Recipe
from .bodies import BODIES, COMMAND_LINE

Framework = Literal["loop", "lightning", "trainer"]

_TITLES = {
    "loop": "a plain PyTorch loop",
    "lightning": "Lightning",
    "trainer": "a Hugging Face Trainer",
}
_LIGHTNINGS_PRECISION = {"fp32": "32-true", "bf16": "bf16-true", "bf16-mixed": "bf16-mixed"}


def training_script(recipe: Recipe, framework: Framework, *, base: Path, folder: Path) -> str:
    """Return the recipe as a Python script.

    Args:
        recipe: The recipe; its overrides are applied.
        framework: What trains it.
        base: The folder that the recipe's paths start from.
        folder: The folder that the script will lie in.

    Raises:
        UsageError: The framework cannot train it, because it gives the optimizer no closure that it could call twice.
    """
    body = BODIES[framework]
    if "needs_closure" in get_method(recipe.optimizer.method).capabilities:
        _check_gives_closure(recipe, framework)
        body = BODIES.get(f"{framework} with a closure", body)
    sections = [
        f'"""A recipe of subopt in {_TITLES[framework]}: written by subopt export, yours to change."""',
        _imports(recipe, body.imports),
        "\n".join(_constants(recipe, framework, base, folder)),
        "\n" + _target(recipe),
        "\n" + _model(recipe, framework),
        "\n" + _optimizer(recipe),
        "\n" + (body.code + COMMAND_LINE).strip("\n"),
    ]
    return "\n\n".join(sections) + "\n"


def left_out(recipe: Recipe) -> list[str]:
    """Return what a script does not take over from a recipe, in words, each with what follows."""
    parts = ["held-out evaluation and checkpoints: they are the framework's, or yours to add"]
    if recipe.fused_backward:
        parts.append(
            "fused_backward: gradients stay until the step, so the peak is higher than predicted"
        )
    return parts


def _check_gives_closure(recipe: Recipe, framework: Framework) -> None:
    method = get_method(recipe.optimizer.method).name
    if framework == "trainer":
        raise UsageError(
            f"{method} evaluates the loss more than once a step, and a Trainer gives it no closure to do so",
            "export it --to loop",
        )
    if framework == "lightning" and recipe.data.accumulate > 1:
        raise UsageError(
            f"{method} evaluates the loss more than once a step; Lightning's closure is of one micro-batch, and "
            f"this recipe accumulates {recipe.data.accumulate}",
            "export it --to loop, or set data.accumulate=1",
        )


def _imports(recipe: Recipe, needed: tuple[str, ...]) -> str:
    """Return the import lines, in groups: the standard library, others, ours; in each `import x` before `from x`."""
    names = "BatchStream, load_target" + (", recompute_blocks" if recipe.recompute else "")
    lines = {
        "import argparse",
        "import torch",
        "from pathlib import Path",
        "from torch.optim.lr_scheduler import LambdaLR",
        "from subopt.optimizers import create, get_method",
        f"from subopt.profilers.target import {names}",
        "from subopt.recipes.rng import seed_everything",
        "from subopt.recipes.schedule import lr_factor",
        "from subopt.recipes.schema import Schedule",
        *needed,
    }
    if recipe.data.files is not None:
        lines.add("from subopt.recipes.data.source import with_files")
        lines.add("from subopt.recipes.schema import Files")
    groups: tuple[list[str], ...] = ([], [], [])
    for line in sorted(lines, key=lambda line: (line.startswith("from"), line)):
        package = line.split()[1].partition(".")[0]
        is_standard, is_ours = package in sys.stdlib_module_names, package == "subopt"
        groups[0 if is_standard else 2 if is_ours else 1].append(line)
    return "\n\n".join("\n".join(group) for group in groups)


def _constants(recipe: Recipe, framework: Framework, base: Path, folder: Path) -> list[str]:
    to_base = os.path.relpath(base.absolute(), folder.absolute())
    precision: str = recipe.precision
    if framework == "lightning":
        precision = _LIGHTNINGS_PRECISION[precision]
    return [
        f"METHOD = {literal(recipe.optimizer.method)}",
        f"BASE = (Path(__file__).resolve().parent / {literal(Path(to_base).as_posix())}).resolve()",
        f"STEPS = {recipe.schedule.steps}",
        f"BATCH_SIZE = {recipe.data.batch_size}  # examples of a micro-batch",
        f"ACCUMULATE = {recipe.data.accumulate}  # micro-batches of a step",
        f"CLIP_NORM = {recipe.clip_norm!r}",
        f"PRECISION = {literal(precision)}",
        f"SEED = {recipe.seed}",
        f"SCHEDULE = Schedule({_keywords(recipe.schedule.model_dump())})",
    ]


def _target(recipe: Recipe) -> str:
    spec, kwargs = literal(recipe.model.target), literal(dict(recipe.model.kwargs))
    lines = [
        "# The model file and its data: what build_model, batches and loss are. Put your own in its place.",
        f"target = load_target({spec}, {kwargs}, base=BASE)",
    ]
    if recipe.data.files is not None:
        files = _keywords(recipe.data.files.model_dump())
        lines.append(f"target = with_files(target, Files({files}), BASE)")
    return "\n".join(lines)


def _model(recipe: Recipe, framework: Framework) -> str:
    lines = ["def make_model() -> torch.nn.Module:", "    seed_everything(SEED)"]
    lines.append("    model = target.build_model()")
    if recipe.precision == "bf16" and framework != "lightning":
        lines.append("    model = model.to(torch.bfloat16)")
    if recipe.recompute:
        lines.append("    recompute_blocks(model)")
    if recipe.compile:
        lines.append("    model.compile()")
    return "\n".join([*lines, "    return model if model.training else model.train()"])


def _optimizer(recipe: Recipe) -> str:
    chosen = recipe.optimizer
    arguments: dict[str, Any] = {"lr": chosen.lr, "weight_decay": chosen.weight_decay}
    fallback = chosen.fallback.model_dump(exclude_none=True)
    arguments |= {"fallback": fallback} if fallback else {}
    overrides = [override.model_dump() for override in chosen.overrides]
    arguments |= {"overrides": overrides} if overrides else {}
    lines = [f"        {key}={literal(value)}," for key, value in arguments.items()]
    lines.append("        groups=target.param_groups(model),")
    lines += [f"        {key}={literal(value)}," for key, value in chosen.options.items()]
    call = "\n".join(["    optimizer = create(", "        METHOD,", "        model,", *lines])
    return (
        "def make_optimizer(model: torch.nn.Module):\n"
        f"{call}\n    )\n"
        "    return optimizer, LambdaLR(optimizer, lambda step: lr_factor(SCHEDULE, step))"
    )


def _keywords(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={literal(value)}" for key, value in values.items())


def literal(value: Any) -> str:
    """Return a value from a recipe as a Python literal, text in double quotes where nothing in it needs care."""
    if isinstance(value, str):
        text = repr(value)
        return f'"{value}"' if text == f"'{value}'" and '"' not in value else text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value)
