"""Predicted time of a training step against whole steps of the trainer, for every method and example.

    OMP_NUM_THREADS=2 python benchmarks/bench_predictions.py              # about 8 minutes
    OMP_NUM_THREADS=2 python benchmarks/bench_predictions.py --rounds 1 --examples autoencoder_digits
    python benchmarks/bench_predictions.py --render

Predicted: one profile of each example, as `subopt profile` takes it. Measured: the trainer's own steps (data, passes,
clipping, optimizer), the methods in turn, `BLOCK` steps at a time of which the first is left out; medians over all
rounds. A few steps of AdamW go before each block, and a method is compared with those: a machine that is busier for a
minute makes both slower. Bases are refreshed once in a block instead of every `period` steps, and a step at the
method's own period is ordinary + (refresh - ordinary) / period, of the measured medians as of the predicted ones. One
model's layers have a fixed rank here (`tau` 0), as while profiling.

Overhead is that of the whole training step: step with the method / step with AdamW - 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import statistics
import sys
import time
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from common.conditions import RESULTS, ROOT, conditions

from subopt.optimizers import METHODS
from subopt.profilers.effort import EFFORTS
from subopt.profilers.method_table import BASELINE
from subopt.profilers.profile import run_profile
from subopt.profilers.record.profile import Profile, Settings
from subopt.profilers.target.load import load_target
from subopt.recipes.plan.method_options import changed_options
from subopt.recipes.plan.step_time import relative_step_time, whole_step_ms
from subopt.recipes.schema import Data, Model, Optimizer, Recipe, Schedule
from subopt.recipes.training.stepper import Stepper
from subopt.recipes.training.trainable import make_trainable, training_target

OUTPUT = RESULTS / "predictions_cpu_202611"
# example: arguments, batch size
EXAMPLES: dict[str, tuple[dict[str, str | int | float | bool], int]] = {
    "autoencoder_digits": ({}, 100),
    "convnet_digits": ({}, 64),
    "llama_bytes": ({"size": "tiny"}, 4),
}
PERIOD = 8  # steps between refreshes while measuring
BLOCK = 1 + PERIOD
BESIDE = 6  # steps of the baseline before each block
BATCHES = 6  # of the profile: its passes are timed on all but the first
CLOSE = 0.25
# An overhead below this share of a step is too small to compare in relative terms.
NOTABLE = 0.10


@dataclass
class Contender:
    """A method in training, and the times of its steps so far.

    Attributes:
        stepper: Takes the trainer's steps.
        optimizer: Its optimizer.
        period: The method's own number of steps between refreshes, or None.
        ordinary_ms: Steps without a refresh.
        refresh_ms: Steps with one.
        beside_ms: The baseline's steps just before these.
        done: Steps taken.
    """

    stepper: Stepper
    optimizer: Any
    period: int | None
    ordinary_ms: list[float] = field(default_factory=list)
    refresh_ms: list[float] = field(default_factory=list)
    beside_ms: list[float] = field(default_factory=list)
    done: int = 0

    def refreshes(self) -> int:
        """Bases refreshed so far, over all parameters."""
        return sum(int(state.get("refreshes", 0)) for state in self.optimizer.state.values())

    def run(self, steps: int = BLOCK) -> None:
        """Take a block of steps; the first one, for which the caches hold another method's, is left out."""
        for index in range(steps):
            before = self.refreshes()
            begin_s = time.perf_counter()
            self.stepper.take(self.done + 1)
            elapsed_ms = 1e3 * (time.perf_counter() - begin_s)
            self.done += 1
            if index:
                refreshed = self.period is not None and self.refreshes() > before
                (self.refresh_ms if refreshed else self.ordinary_ms).append(elapsed_ms)

    def step_ms(self) -> float:
        """An average step at the method's own period."""
        ordinary = statistics.median(self.ordinary_ms)
        if not self.refresh_ms or self.period is None:
            return ordinary
        return ordinary + (statistics.median(self.refresh_ms) - ordinary) / self.period


def profiled(example: str, methods: list[str]) -> Profile:
    """Profile an example: its methods timed as `subopt profile` times them, little else."""
    arguments, batch_size = EXAMPLES[example]
    EFFORTS["standard"] = replace(
        EFFORTS["standard"], shape_s=0.1
    )  # decompositions: not needed here
    target = load_target(str(ROOT / "examples" / f"{example}.py"), arguments)
    return run_profile(target, Settings(batch_size=batch_size, batches=BATCHES), methods=methods)


def contender(example: str, profile: Profile, method: str) -> Contender:
    """Build a method's trainer for an example, with the options the profile timed."""
    arguments, batch_size = EXAMPLES[example]
    record = METHODS[method]
    row = next(row for row in profile.methods if row.method == method)
    options = changed_options(row)
    wishes: dict[str, Any] = {"period": PERIOD, "early_refresh": False, "start_step": 1}
    settled: dict[str, Any] = {"tau": 0.0, "settle_steps": 0}
    recipe = Recipe(
        model=Model(target=f"{example}.py", kwargs=arguments),
        data=Data(batch_size=batch_size),
        optimizer=Optimizer(
            method=method,
            lr=1e-5,  # weights that hardly move: the same work throughout
            options={**options, **record.among(wishes | settled)},
        ),
        schedule=Schedule(steps=10**6, warmup_steps=0),
    )
    target = training_target(recipe, ROOT / "examples")
    trainable = make_trainable(recipe, target, torch.device("cpu"))
    period = None
    if "refreshes" in record.capabilities:
        period = int(record.resolve(options)["period"])
    return Contender(Stepper(trainable, trainable.begin()), trainable.optimizer, period)


def measured(example: str, profile: Profile, rounds: int) -> dict[str, Contender]:
    """Train every method of the profile in turn."""
    racers = {
        row.method: contender(example, profile, row.method)
        for row in profile.methods
        if row.step_ms is not None
    }
    gc.collect()
    base = racers[BASELINE]
    for _ in range(rounds):
        for racer in racers.values():
            if racer is not base:
                before = len(base.ordinary_ms)
                base.run(BESIDE)
                racer.beside_ms += base.ordinary_ms[before:]
            racer.run()
    return racers


def rows_of(example: str, profile: Profile, racers: dict[str, Contender]) -> list[dict[str, Any]]:
    """Return predicted beside measured for every method."""
    _, batch_size = EXAMPLES[example]
    found = []
    for row in profile.methods:
        predicted_ms = whole_step_ms(profile, row, batch_size)
        share = relative_step_time(profile, row, batch_size)
        racer = racers.get(row.method)
        if predicted_ms is None or share is None or racer is None:
            continue
        step_ms = racer.step_ms()
        base_ms = statistics.median(racer.beside_ms) if racer.beside_ms else step_ms
        found.append({
            "example": example,
            "method": row.method,
            "predicted_step_ms": predicted_ms,
            "measured_step_ms": step_ms,
            "step_ratio": step_ms / predicted_ms,
            "predicted_relative": 1 + share,
            "measured_relative": step_ms / base_ms,
            "relative_ratio": step_ms / base_ms / (1 + share),
            "predicted_overhead_ms": row.overhead_ms,
            "measured_overhead_ms": step_ms - base_ms,
            "ordinary_steps": len(racer.ordinary_ms),
            "refresh_steps": len(racer.refresh_ms),
        })
    return found


def parts_of(example: str, profile: Profile) -> dict[str, Any]:
    """Return what a step is made of beside the optimizer, as the profile timed it."""
    return {
        "example": example,
        "forward_backward_ms": profile.forward_backward_ms,
        "batch_ms": profile.batch_ms,
        "clip_ms": profile.clip_ms,
    }


def merged(numbers: Path, parts: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the file holds, this example's numbers in the place of those from before."""
    before: dict[str, Any] = {"parts": [], "rows": []}
    if numbers.exists():
        before = json.loads(numbers.read_text(encoding="utf-8"))
    example = parts["example"]
    all_parts = [other for other in before["parts"] if other["example"] != example] + [parts]
    all_rows = [other for other in before["rows"] if other["example"] != example] + rows
    order = list(EXAMPLES)
    return {
        "parts": sorted(all_parts, key=lambda part: order.index(part["example"])),
        "rows": sorted(all_rows, key=lambda row: order.index(row["example"])),
    }


def rendered(result: dict[str, Any]) -> str:
    """Return the result as a page."""
    rows = result["rows"]
    near = sum(abs(row["relative_ratio"] - 1) <= CLOSE for row in rows)
    notable = [row for row in rows if row["measured_relative"] - 1 >= NOTABLE]
    extra = sum(
        abs((row["measured_relative"] - 1) / (row["predicted_relative"] - 1) - 1) <= CLOSE
        for row in notable
        if row["predicted_relative"] != 1
    )
    ratios = sorted(row["relative_ratio"] for row in rows)
    lines = [
        "# Step time: predicted by `subopt profile` against the trainer's own steps",
        "",
        "Written by `benchmarks/bench_predictions.py`; the numbers are in the .json beside it.",
        "",
        "step: a whole training step in ms, refreshes by their share. relative: a step / one with AdamW, measured in "
        "turn with it.",
        "",
        f"The relative time of {near} of {len(rows)} rows is within 25 % of the measured one; measured / predicted is "
        f"{statistics.median(ratios):.2f} in the median, {ratios[0]:.2f} to {ratios[-1]:.2f}. Of the {len(notable)} "
        f"rows that cost 10 % of a step and more, {extra} have the extra time alone within 25 %.",
        "",
    ]
    for parts in result["parts"]:
        example = parts["example"]
        lines += [
            f"## {example}",
            "",
            f"Predicted beside the optimizer: passes {parts['forward_backward_ms']:.2f} ms, data "
            f"{parts['batch_ms']:.2f} ms, clipping {parts['clip_ms']:.2f} ms.",
            "",
            "| method | step, predicted | measured | ratio | relative, predicted | measured | ratio | extra ms, "
            "predicted | measured |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
            *(_line(row) for row in rows if row["example"] == example),
            "",
            f"`{parts['command']}`, {parts['seconds']:.0f} s for this example: "
            + ", ".join(f"{k} {v}" for k, v in parts["conditions"].items())
            + ".",
            "",
        ]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    mark = "" if abs(row["relative_ratio"] - 1) <= CLOSE else " *"
    return (
        f"| {row['method']} | {row['predicted_step_ms']:.2f} | {row['measured_step_ms']:.2f} | "
        f"{row['step_ratio']:.2f} | {row['predicted_relative']:.2f} | {row['measured_relative']:.2f} | "
        f"{row['relative_ratio']:.2f}{mark} | {row['predicted_overhead_ms']:.2f} | "
        f"{row['measured_overhead_ms']:.2f} |"
    )


def main(arguments: list[str]) -> None:
    """Measure and write both files, or write the page anew from the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--examples", nargs="*", choices=list(EXAMPLES), default=list(EXAMPLES))
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--output", default=str(OUTPUT), help="path of both files, without suffix")
    parser.add_argument("--render", action="store_true", help="only write the page again")
    asked = parser.parse_args(arguments)
    output = OUTPUT.__class__(asked.output)
    numbers, page = output.with_suffix(".json"), output.with_suffix(".md")
    if not asked.render:
        warnings.simplefilter("ignore")
        command = shlex.join(["python", "benchmarks/bench_predictions.py", *arguments])
        for example in asked.examples:
            begin_s = time.perf_counter()
            profile = profiled(example, list(dict.fromkeys([BASELINE, *asked.methods])))
            print(f"{example}: profiled after {time.perf_counter() - begin_s:.0f} s", flush=True)
            rows = rows_of(example, profile, measured(example, profile, asked.rounds))
            seconds = time.perf_counter() - begin_s
            print(f"{example}: measured after {seconds:.0f} s", flush=True)
            about = {"command": command, "seconds": seconds, "conditions": conditions()}
            result = merged(numbers, parts_of(example, profile) | about, rows)
            numbers.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    page.write_text(rendered(json.loads(numbers.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
