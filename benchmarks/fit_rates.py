"""Fit the constants of `recipes/prior/rates.yaml`: best rates of many tasks, least squares with a prior.

    python benchmarks/fit_rates.py                     # errors in decades, each task left out in turn, and constants
    python benchmarks/fit_rates.py --points            # the best rates it starts from

A task's best rate is the bottom of the parabola through the best rate tried and its neighbours, in logarithms. Runs of
the advice benchmark count where their `half` is `dev`; the held-out half is never read. The papers' rates and our own
earlier runs count less (`weight`): the papers tried few rates, and the earlier runs kept the embeddings' rate fixed.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from advice.task_list import TASKS
from common.conditions import RESULTS

from subopt.optimizers import METHODS
from subopt.profilers.target.batches import tokens_in
from subopt.profilers.target.load import load_target
from subopt.recipes.evidence.published import load_evidence
from subopt.recipes.prior.rates import LEAST_TOKENS
from subopt.recipes.prior.traits import Traits, traits_of_model

ADVICE = RESULTS / "advice_cpu_202612.jsonl"
REFERENCE = {"width": 256, "steps": 1000, "tokens": 8192}


@dataclass(frozen=True)
class Setting:
    """Where a rate was found, in the law's terms."""

    width: float
    steps: int
    tokens: int | None = None
    fine_tunes: bool = False


@dataclass(frozen=True)
class Point:
    """A method's best rate on a task."""

    task: str
    method: str
    setting: Setting
    decades: float
    weight: float


# What is known before the fit, as decades against AdamW at the reference, from how the methods scale their steps: signs
# are 3 to 10 times as long as Adam's steps (Chen et al. 2023), GaLore's are scaled by 1/4, torch's Adafactor's by
# RMS(W), about width^(-1/2), Muon's have an RMS of width^(-1/2), plain momentum's the length of the gradient.
EXPECTED = {
    "lion": -0.7,
    "muon": 0.8,
    "galore": 1.0,
    "osd": 0.5,
    "adafactor-torch": 1.0,
    "momentum": 2.0,
}
# The same length of step whatever the width: its good rate falls less by half a power of it.
SCALES_WITH_WIDTH = {"muon", "adafactor-torch"}
# Methods that differ in how they store their state alone have one rate.
SAME = {"adamw-8bit": "adamw", "galore-8bit": "galore", "osd-8bit": "osd"}

# Ridge: how many decades off the expectation a constant is at one point's weight. The exponents are held near round
# numbers: let go, they come to 0.53, 0.24 and 0.12 and are no better on tasks that are left out (0.40 decades).
TRUST = {"method": 0.5, "width": 0.02, "steps": 0.02, "tokens": 0.02, "fine": 0.3}
START = {"adamw": -2.4, "width": 0.5, "steps": 0.2, "tokens": 0.2, "fine": -1.0}

# Shorter runs, with the embeddings' rate fixed, say less.
LONG_ENOUGH = 100
OLD_SETTINGS = {
    "autoencoder": (555.0, None),
    "convnet": (335.0, None),
    "llama": (239.0, 256),
}
OLD_BATCH = {"advice_cpu_202611": 4, "tiny_llama_cpu_202611": 8, "paper_methods_cpu_202611": 8}


# Widths and steps of the published models, from their papers: the width is the geometric mean of `Traits`.
PUBLISHED = {
    "LLaMA 60M": (638, 10_000),
    "LLaMA 130M": (957, 20_000),
    "LLaMA 350M": (1275, 60_000),
    "LLaMA 1B": (2550, 100_000),
    "ViT-S/16": (610, 93_835),
    "ViT-B/32": (1219, 93_835),
    "GPT-2 124M": (1219, 4_000),
    "LLaMA 1.2B": (2172, 60_000),
}


def published() -> Iterator[Point]:
    """The rates in `recipes/evidence/sources`; a paper that gives all methods one rate says little of each."""
    for rate in load_evidence().rates:
        if rate.model in PUBLISHED:
            width, steps = PUBLISHED[rate.model]
            if "galore" in rate.methods:
                steps = 10_000
            setting = Setting(width, steps, rate.tokens_per_step)
            for method in sorted({SAME.get(name, name) for name in rate.methods}):
                weight = 0.5 / len(rate.methods) ** 0.5
                yield Point(rate.model, method, setting, math.log10(rate.lr), weight)


def earlier() -> Iterator[Point]:
    """Our own runs before the advice benchmark, with the embeddings' rate fixed.

    Without the language model's shortest runs: at 3e-3 the embeddings learned nearly all that was learned in them, and
    the matrices' best rates, 1e-4, say what else they disturb.
    """
    for name, batch in OLD_BATCH.items():
        losses: dict[tuple[str, str, int], dict[float, float]] = defaultdict(dict)
        for line in (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["options"] or row["seed"]:
                continue
            key = row.get("problem", "llama"), row["method"], row["steps"]
            if key[0] == "llama" and row["steps"] < LONG_ENOUGH:
                continue
            losses[key][row["lr"]] = _finite(row["held_out_loss"])
        for (problem, method, steps), found in losses.items():
            decades = best_decades(found)
            if decades is not None and steps >= 40:
                width, length = OLD_SETTINGS[problem]
                setting = Setting(width, steps, length and batch * length)
                weight = 0.3 if steps >= LONG_ENOUGH else 0.1
                yield Point(f"{problem} {name}", SAME.get(method, method), setting, decades, weight)


def advice(runs: Path) -> Iterator[Point]:
    """The dev half of the advice benchmark."""
    losses: dict[tuple[str, str], dict[float, float]] = defaultdict(dict)
    steps: dict[tuple[str, str], int] = {}
    for line in runs.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["half"] == "dev" and row["seed"] == 0:
            key = row["task"], row["method"]
            losses[key][row["lr"]] = _finite(row["loss"])
            steps[key] = row["steps"]
    traits = {task: _traits(task) for task in {task for task, _ in losses}}
    for key, found in losses.items():
        task, method = key
        decades, own = best_decades(found), traits[task]
        if decades is not None:
            tokens = own.tokens_per_step if own.kind == "language" else None
            setting = Setting(own.width, steps[key], tokens, own.fine_tunes)
            yield Point(task, SAME.get(method, method), setting, decades, 1.0)


def _traits(name: str) -> Traits:
    """What the rule knows of a task: of the model itself, and of its batches."""
    task = TASKS[name]
    target = load_target(str(task.path), task.kwargs)
    batch = next(iter(target.batches(task.batch_size)))
    return traits_of_model(
        target.build_model(), tokens_per_step=tokens_in(batch), fine_tunes=task.fine_tunes
    )


def _finite(loss: float | None) -> float:
    return math.inf if loss is None or not math.isfinite(loss) else loss


def best_decades(losses: Mapping[float, float]) -> float | None:
    """Return log10 of the best rate, by a parabola where both neighbours are known; None at the end of the rates."""
    rates = sorted(losses)
    best = min(rates, key=lambda lr: losses[lr])
    at = rates.index(best)
    if not math.isfinite(losses[best]) or not 0 < at < len(rates) - 1:
        return None
    low, high = losses[rates[at - 1]] - losses[best], losses[rates[at + 1]] - losses[best]
    if not math.isfinite(high) or not math.isfinite(low):
        return math.log10(best)
    return math.log10(best) + 0.25 * (low - high) / max(low + high, 1e-12)


class Law:
    """The fitted constants, as one vector of unknowns."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.methods = sorted({SAME.get(name, name) for name in METHODS})
        names = ("width", "steps", "tokens", "fine")
        self.names = [*self.methods, *names]
        expected = [
            START["adamw"] + EXPECTED.get(name, 0.2 * (name != "adamw")) for name in self.methods
        ]
        self.start = np.array([*expected, *(START[name] for name in names)])
        trust = np.array(
            [1.0 if name == "adamw" else TRUST["method"] for name in self.methods]
            + [TRUST[name] for name in names]
        )
        rows = np.array([self.row(point) for point in points])
        offsets = np.array([self.offset(point) for point in points])
        weights = np.sqrt([point.weight for point in points])[:, None]
        values = np.array([point.decades for point in points])
        A = np.vstack([rows * weights / 0.35, np.diag(1 / trust)])
        b = np.concatenate([(values - offsets) * weights[:, 0] / 0.35, self.start / trust])
        self.found = np.linalg.lstsq(A, b, rcond=None)[0]

    def row(self, point: Point) -> np.ndarray:
        """What multiplies each constant."""
        setting = point.setting
        row = np.zeros(len(self.names))
        row[self.names.index(point.method)] = 1.0
        row[-4] = -math.log10(setting.width / REFERENCE["width"])
        row[-3] = -math.log10(setting.steps / REFERENCE["steps"])
        row[-2] = (
            math.log10(max(setting.tokens, LEAST_TOKENS) / REFERENCE["tokens"])
            if setting.tokens
            else 0.0
        )
        row[-1] = float(setting.fine_tunes)
        return row

    def offset(self, point: Point) -> float:
        """What does not depend on a constant."""
        if point.method not in SCALES_WITH_WIDTH:
            return 0.0
        return 0.5 * math.log10(point.setting.width / REFERENCE["width"])

    def error(self, point: Point) -> float:
        """Decades that the law is above the best rate."""
        return float(self.row(point) @ self.found) + self.offset(point) - point.decades


def left_out(points: Sequence[Point]) -> dict[str, list[tuple[Point, float]]]:
    """Each task's errors under the law that is fitted to the others."""
    tasks = sorted({point.task for point in points})
    found = {}
    for task in tasks:
        law = Law([point for point in points if point.task != task])
        found[task] = [(point, law.error(point)) for point in points if point.task == task]
    return found


def rms(errors: Sequence[float]) -> float:
    """Root of the mean square."""
    return math.sqrt(sum(error**2 for error in errors) / len(errors))


def main() -> None:
    """Print errors and constants."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--points", action="store_true")
    parser.add_argument("--runs", type=Path, default=ADVICE)
    arguments = parser.parse_args()
    points = [*published(), *earlier(), *advice(arguments.runs)]
    if arguments.points:
        for point in points:
            print(f"{point.task:32} {point.method:22} {10**point.decades:.2g}  {point.setting}")
        return
    by_task = left_out(points)
    print("left out                          points  mean   rms (decades)")
    for task, found in by_task.items():
        errors = [error for _, error in found]
        print(f"{task:32} {len(errors):6} {sum(errors) / len(errors):+6.2f} {rms(errors):6.2f}")
    print(f"all: {rms([error for found in by_task.values() for _, error in found]):.2f}")
    law = Law(points)
    tasks = defaultdict(set)
    for point in points:
        tasks[point.method].add(point.task)
    for name, value in zip(law.names, law.found, strict=True):
        shown = f"{10**value:.2g}" if name in law.methods else f"{value:+.2f}"
        print(f"{name:22} {shown:>10}  tasks {len(tasks.get(name, ()))}")


if __name__ == "__main__":
    main()
