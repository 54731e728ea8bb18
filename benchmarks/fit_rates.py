"""Fit the constants of `recipes/prior/rates.yaml`: best rates of many tasks, least squares with a prior.

    python benchmarks/fit_rates.py                     # errors in decades, each task left out in turn, and constants
    python benchmarks/fit_rates.py --points            # the best rates it starts from

A task's best rate is the bottom of the parabola through the best rate tried and its neighbours, in logarithms. Runs of
the advice benchmark count where their `half` is `dev`; the held-out half is never read. The papers' rates and our own
earlier runs count less (`weight`): the papers tried few rates, and the earlier runs kept the embeddings' rate fixed.

The best rate is not the one to start with: half a decade too low costs some models most of what they could learn, half
a decade too high seldom as much. So each method's constant is moved to where the mean log regret on the curves of the
dev half is least, and the constants of methods without such curves by what is best for all.
"""

import argparse
import json
import math
import statistics
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
from subopt.recipes.prior.rates import LEAST_TOKENS, on_grid
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
# numbers, of 0.5 to 0.7 and 0.2 to 0.3 those that are best on tasks and papers that are left out.
TRUST = {"method": 0.5, "width": 0.02, "steps": 0.02, "tokens": 0.02, "fine": 0.3}
START = {"adamw": -2.4, "width": 0.7, "steps": 0.25, "tokens": 0.2, "fine": -1.0}

# How far a constant may be moved, and what a decade squared costs: where it matters little, little.
MOVES = [step / 20 for step in range(-10, 16)]
MOVE_COST = 0.05
# Beyond the rates tried a loss gets worse by no less than this, as log loss by decade.
LEAST_SLOPE = 0.3

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


@dataclass(frozen=True)
class Curve:
    """How the loss of a method on a task depends on its rate.

    Attributes:
        task: The task.
        method: The method.
        setting: Where the rate is to be chosen.
        losses: The held-out loss at the end by rate, infinite where the run diverged.
        untrained: The loss before the first step: no more is lost.
    """

    task: str
    method: str
    setting: Setting
    losses: Mapping[float, float]
    untrained: float

    def regret(self, decades: float) -> float:
        """Return log(loss / lowest loss) at a rate, along straight lines in logarithms."""
        tried = sorted(self.losses)
        x = [math.log10(lr) for lr in tried]
        y = [math.log(min(self.losses[lr], self.untrained)) for lr in tried]
        below = max((y[0] - y[1]) / (x[1] - x[0]), LEAST_SLOPE) * max(x[0] - decades, 0)
        above = max((y[-1] - y[-2]) / (x[-1] - x[-2]), LEAST_SLOPE) * max(decades - x[-1], 0)
        found = float(np.interp(decades, x, y)) + below + above
        return min(found, math.log(self.untrained)) - min(y)


def curves(runs: Path) -> list[Curve]:
    """The dev half of the advice benchmark."""
    losses: dict[tuple[str, str], dict[float, float]] = defaultdict(dict)
    last = {}
    for line in runs.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["half"] == "dev" and row["seed"] == 0:
            key = row["task"], row["method"]
            losses[key][row["lr"]] = _finite(row["loss"])
            last[key] = row
    traits = {task: _traits(task) for task in {task for task, _ in losses}}
    found = []
    for (task, method), by_rate in losses.items():
        own, row = traits[task], last[task, method]
        tokens = own.tokens_per_step if own.kind == "language" else None
        setting = Setting(own.width, row["steps"], tokens, own.fine_tunes)
        found.append(Curve(task, SAME.get(method, method), setting, by_rate, row["first_loss"]))
    return found


def best_of(found: Sequence[Curve]) -> Iterator[Point]:
    """The best rates on the dev half."""
    for curve in found:
        decades = best_decades(curve.losses)
        if decades is not None:
            yield Point(curve.task, curve.method, curve.setting, decades, 1.0)


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

    def __init__(self, points: Sequence[Point], found: Sequence[Curve] = ()) -> None:
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
        rows = np.array([self._row(point.method, point.setting) for point in points])
        offsets = np.array([self._offset(point.method, point.setting) for point in points])
        weights = np.sqrt([point.weight for point in points])[:, None]
        values = np.array([point.decades for point in points])
        A = np.vstack([rows * weights / 0.35, np.diag(1 / trust)])
        b = np.concatenate([(values - offsets) * weights[:, 0] / 0.35, self.start / trust])
        self.found = np.linalg.lstsq(A, b, rcond=None)[0]
        self.moves = dict.fromkeys(self.methods, self._move(found) if found else 0.0)
        for method in {curve.method for curve in found}:
            self.moves[method] = self._move([curve for curve in found if curve.method == method])

    def _move(self, found: Sequence[Curve]) -> float:
        """Return what to add to the constants, so that the mean log regret is least."""

        def cost(move: float) -> float:
            regrets = [
                curve.regret(self.best(curve.method, curve.setting) + move) for curve in found
            ]
            return statistics.fmean(regrets) + MOVE_COST * move**2

        return min(MOVES, key=cost)

    def best(self, method: str, setting: Setting) -> float:
        """Return log10 of the rate that is likely the best."""
        return float(self._row(method, setting) @ self.found) + self._offset(method, setting)

    def chosen(self, method: str, setting: Setting) -> float:
        """Return log10 of the rate to start with."""
        return self.best(method, setting) + self.moves[method]

    def _row(self, method: str, setting: Setting) -> np.ndarray:
        """What multiplies each constant."""
        row = np.zeros(len(self.names))
        row[self.names.index(method)] = 1.0
        row[-4] = -math.log10(setting.width / REFERENCE["width"])
        row[-3] = -math.log10(setting.steps / REFERENCE["steps"])
        row[-2] = (
            math.log10(max(setting.tokens, LEAST_TOKENS) / REFERENCE["tokens"])
            if setting.tokens
            else 0.0
        )
        row[-1] = float(setting.fine_tunes)
        return row

    def _offset(self, method: str, setting: Setting) -> float:
        """What does not depend on a constant."""
        if method not in SCALES_WITH_WIDTH:
            return 0.0
        return 0.5 * math.log10(setting.width / REFERENCE["width"])

    def error(self, point: Point) -> float:
        """Decades that the rate to start with is above the best one."""
        return self.chosen(point.method, point.setting) - point.decades


def left_out(points: Sequence[Point], found: Sequence[Curve]) -> dict[str, Law]:
    """Return for each task the law that is fitted to the others."""
    return {
        task: Law(
            [point for point in points if point.task != task],
            [curve for curve in found if curve.task != task],
        )
        for task in sorted({point.task for point in points})
    }


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
    found = curves(arguments.runs)
    points = [*published(), *earlier(), *best_of(found)]
    if arguments.points:
        for point in points:
            print(f"{point.task:32} {point.method:22} {10**point.decades:.2g}  {point.setting}")
        return
    print(
        "left out                          points  mean   rms (decades)  regret at the rounded rate"
    )
    errors: list[float] = []
    regrets: list[float] = []
    for task, law in left_out(points, found).items():
        off = [law.error(point) for point in points if point.task == task]
        lost = [
            curve.regret(rounded(law.chosen(curve.method, curve.setting)))
            for curve in found
            if curve.task == task
        ]
        shown = f"{statistics.fmean(lost):.3f}" if lost else ""
        print(f"{task:32} {len(off):6} {statistics.fmean(off):+6.2f} {rms(off):6.2f} {shown:>17}")
        errors += off
        regrets += lost
    print(f"all: {rms(errors):.2f} decades, regret {statistics.fmean(regrets):.3f}")
    law = Law(points, found)
    tasks = defaultdict(set)
    for point in points:
        tasks[point.method].add(point.task)
    for name, value in zip(law.names, law.found, strict=True):
        move = law.moves.get(name)
        shown = (
            f"{value:+.2f}" if move is None else f"{10 ** (value + move):.2g}  moved {move:+.2f}"
        )
        print(f"{name:22} {shown:>22}  tasks {len(tasks.get(name, ()))}")


def rounded(decades: float) -> float:
    """Return log10 of the nearest rate on the grid."""
    return math.log10(on_grid(10**decades))


if __name__ == "__main__":
    main()
