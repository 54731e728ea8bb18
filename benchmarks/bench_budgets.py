"""Do recommended recipes stay within their budgets, and does `--batch-size auto` fill them?

    python benchmarks/bench_budgets.py           # three examples, two Hugging Face models, three budgets each
    python benchmarks/bench_budgets.py gpt2      # one of them, printed and not written

Each model is profiled with `--simulate`. Budgets are of a GPU on which tensors may take 0.75, 1.5 and 4 times plain
AdamW's peak at that batch size. For each the advisor is asked twice, with the profile's batch size and with auto, and
each recipe is followed anew under fake tensors: the recipe's own model on a batch of its own size, with its method and
options, micro-batches, recomputing and fused backward pass, over three whole steps. (`bench_memory.py` compares that
tracker of storages with torch's.)
"""

from __future__ import annotations

import json
import shlex
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common.conditions import RESULTS, ROOT, conditions
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from subopt.findings.advice import words
from subopt.optimizers import create, get_method
from subopt.optimizers.fused_backward import FusedBackward
from subopt.optimizers.state.storage_tracker import StorageTracker
from subopt.profilers.memory.device_overhead import UNKNOWN_GPU
from subopt.profilers.memory.simulation import FollowMode, at_its_largest, fake_model
from subopt.profilers.profile import run_profile
from subopt.profilers.record.profile import Profile, Settings
from subopt.profilers.target.activation_checkpointing import recompute_blocks
from subopt.profilers.target.load import load_target
from subopt.profilers.target.loaded import without_address_warnings
from subopt.profilers.target.session import Session
from subopt.recipes.advice.advisor import recommend, to_recipe
from subopt.recipes.plan.budget import smallest_budget
from subopt.recipes.plan.solving import PlanRequest
from subopt.recipes.schema import Recipe
from subopt.units import format_bytes

OUTPUT = RESULTS / "budgets_cpu_202611"
HEADROOM = 0.05  # the command's own
BUDGETS = (0.75, 1.5, 4.0)  # usable part, in AdamW's peaks at the profile's batch size
STEPS = 3
MOST_MICRO_BATCHES = 2  # the second one finds the first one's gradients; later ones take the same


@dataclass(frozen=True)
class Case:
    """A model, as `subopt profile` takes it."""

    name: str
    target: str
    batch_size: int
    arguments: tuple[tuple[str, str], ...] = ()


CASES = (
    Case("autoencoder_digits", "examples/autoencoder_digits.py", 100),
    Case("convnet_digits", "examples/convnet_digits.py", 64),
    Case("llama_bytes", "examples/llama_bytes.py", 32),
    Case("gpt2", "hf:benchmarks/models/gpt2_config.json", 16),
    Case("vit", "hf:benchmarks/models/vit_config.json", 32),
)


def followed_peak(recipe: Recipe, base: Path) -> int:
    """Follow a recipe's training under fake tensors and return the highest bytes alive."""
    session = Session(
        load_target(recipe.model.target, recipe.model.kwargs, base=base),
        Settings(
            batch_size=recipe.data.batch_size, batches=1, dtype=recipe.precision, simulate=True
        ),
    )
    mode = FollowMode()
    with warnings.catch_warnings(), without_address_warnings():
        warnings.simplefilter("ignore")
        model = fake_model(session.build_model, mode)
        real = session.place(next(session.batches()))
        batch = tree_map_only(
            torch.Tensor, lambda tensor: mode.from_tensor(tensor, static_shapes=True), real
        )
        if recipe.recompute:
            recompute_blocks(model)
        with mode:
            return _tracked_peak(recipe, session, model, batch)


def _tracked_peak(recipe: Recipe, session: Session, model: nn.Module, batch: Any) -> int:
    own = recipe.optimizer
    if "needs_closure" in get_method(own.method).capabilities:
        raise NotImplementedError(f"{own.method} evaluates the loss itself")
    options = at_its_largest(own.method, own.options)
    optimizer = create(
        own.method, model, groups=session.target.param_groups(model), lr=own.lr, **options
    )
    if recipe.fused_backward:
        FusedBackward(optimizer).attach()
    tracker = StorageTracker()
    tracker.file([*model.parameters(), *model.buffers(), *tree_leaves(batch)], "held")
    with tracker:
        for _ in range(STEPS):
            for _ in range(min(recipe.data.accumulate, MOST_MICRO_BATCHES)):
                session.loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    return tracker.peak_bytes.total()


def profiled(case: Case) -> Profile:
    """Profile a model by simulation alone."""
    target = load_target(case.target, dict(case.arguments), base=ROOT)
    settings = Settings(batch_size=case.batch_size, batches=1, simulate=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run_profile(target, settings)


def rows_of(case: Case) -> Iterator[dict[str, Any]]:
    """Yield, for each budget, what was recommended and what it takes."""
    begin_s = time.perf_counter()
    profile = profiled(case)
    print(f"{case.name}: profiled in {time.perf_counter() - begin_s:.0f} s", flush=True)
    adamw = next(row for row in profile.methods if row.method == "adamw")
    if adamw.peak is None:
        raise RuntimeError(f"{case.name} has no peak: {profile.missing}")
    for share in BUDGETS:
        needed = int(share * adamw.peak.bytes) + UNKNOWN_GPU.non_tensor_bytes
        budget = smallest_budget(needed, headroom=HEADROOM)
        for batch_size in (None, "auto"):
            yield _row(case, profile, budget, share, batch_size)


def _row(
    case: Case, profile: Profile, budget: int, share: float, batch_size: Any
) -> dict[str, Any]:
    advice = recommend(
        profile,
        budget_bytes=budget,
        request=PlanRequest(batch_size=batch_size),
        headroom=HEADROOM,
    )
    # what tensors may fill: the headroom is asked for, and counts as unused here
    usable = advice.budget.usable_bytes + advice.budget.headroom_bytes
    row: dict[str, Any] = {
        "model": case.name,
        "share": share,
        "budget_bytes": budget,
        "usable_bytes": usable,
        "asked": batch_size or f"{profile.settings.batch_size}",
    }
    if advice.chosen is None or advice.plan is None:
        return {**row, "fits": False, "change": words(advice.changes[0])}
    recipe = to_recipe(advice, profile, recipe_path=ROOT / "recipe.yaml")
    beside = advice.plan.peak.overhead_bytes
    peak = followed_peak(recipe, ROOT)
    return {
        **row,
        "fits": True,
        "method": recipe.optimizer.method,
        "options": recipe.optimizer.options,
        "batch_size": recipe.data.batch_size,
        "accumulate": recipe.data.accumulate,
        "recompute": recipe.recompute,
        "fused_backward": recipe.fused_backward,
        "predicted_bytes": recipe.why.predicted_peak_bytes,
        "followed_bytes": peak,
        "beside_bytes": beside,
        "within": peak + beside <= usable,
        "unused": 1 - (peak + beside) / usable,
        "is_largest": advice.plan.is_largest,
    }


def rendered(result: dict[str, Any]) -> str:
    """Return the result as a page."""
    rows = [row for row in result["rows"] if row["fits"]]
    auto = [row for row in rows if row["asked"] == "auto" and not row["is_largest"]]
    lines = [
        "# Budgets: what recommended recipes take, followed anew",
        "",
        "Written by `benchmarks/bench_budgets.py`; the numbers are in the .json beside it. Budget: what tensors may "
        f"fill, in plain AdamW's peaks at the profile's batch size; {HEADROOM:.0%} of it is to stay free. Unused: what "
        "of it the recipe leaves, that headroom included, and what libraries take on a GPU counted as used.",
        "",
        f"Command: `{result['command']}`. "
        + ", ".join(f"{k} {v}" for k, v in result["conditions"].items()),
        "",
        f"{len(rows)} recipes, {sum(row['within'] for row in rows)} within their budget. The largest unused part under "
        f"auto, of {len(auto)} recipes that no end of the profile's batch sizes stopped: "
        f"{max((row['unused'] for row in auto), default=0):.1%}. Followed against predicted: "
        f"{min(row['followed_bytes'] / row['predicted_bytes'] for row in rows):.3f} to "
        f"{max(row['followed_bytes'] / row['predicted_bytes'] for row in rows):.3f}.",
        "",
        "| model | budget | batch | method | examples | recompute | fused | predicted | followed | unused |",
        "|---|---:|---|---|---|---|---|---:|---:|---:|",
    ]
    for row in result["rows"]:
        head = f"| {row['model']} | {row['share']:g} | {row['asked']} |"
        if not row["fits"]:
            lines.append(f"{head} nothing fits: {row['change']} | | | | | | |")
            continue
        options = "".join(f", {key} {value}" for key, value in row["options"].items())
        examples = f"{row['batch_size']} x {row['accumulate']}"
        lines.append(
            f"{head} {row['method']}{options} | {examples} | {'yes' if row['recompute'] else ''} | "
            f"{'yes' if row['fused_backward'] else ''} | {format_bytes(row['predicted_bytes'])} | "
            f"{format_bytes(row['followed_bytes'])} | {row['unused']:.1%}"
            f"{' (largest batch)' if row['is_largest'] else ''} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Measure, and write both files where all models were."""
    cases = [case for case in CASES if not arguments or case.name in arguments]
    rows: list[dict[str, Any]] = []
    for case in cases:
        for row in rows_of(case):
            rows.append(row)
            print({k: v for k, v in row.items() if k not in {"model", "budget_bytes"}}, flush=True)
    if arguments:
        return
    result = {
        "command": shlex.join(["python", "benchmarks/bench_budgets.py"]),
        "conditions": conditions(),
        "rows": rows,
    }
    OUTPUT.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    OUTPUT.with_suffix(".md").write_text(rendered(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
