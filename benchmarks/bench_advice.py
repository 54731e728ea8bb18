"""Every method at its own best learning rate for equal time on the three examples: what the advice is checked against.

    python benchmarks/bench_advice.py pace                     # first: the time of a step, all methods in turn
    python benchmarks/bench_advice.py train --time-limit 120   # runs what is not yet measured
    python benchmarks/bench_advice.py advise --minutes 5       # what is recommended, before and after a race
    python benchmarks/bench_advice.py render

Time is CPU time of one thread, so a busy machine changes how long the sweep takes and not who wins: a method gets as
many steps as fit into the same seconds at its own pace. The learning rate is searched by walking a ladder of half
decades downhill from 1e-3 until both neighbours of the best are worse, with the first seed; the ten best methods and
AdamW are then repeated with other seeds. Each finished run is one line of the results file (`common/sweep.py`).
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common.conditions import RESULTS, ROOT, conditions, load_example
from common.sweep import Gradients, Problem, Row, Run, read_results, sweep, warmup_then_cosine
from render.advice import render

from subopt.optimizers import METHODS, create, get_method

NAME = "advice_cpu_202611"
LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
START = 1e-3
BASELINE = "adamw"
WARMUP_SHARE = 0.1
ROUNDS = 2
REPEATED = 10  # so many of the best methods, and the baseline, are repeated with other seeds
STEPS_A_ROUND = 8


def _problem(example: str, build: tuple[Any, ...], batch_size: int, fallback_lr: float) -> Problem:
    return Problem(example, build, batch_size, fallback_lr, 0, warmup_then_cosine)


PROBLEMS = {
    "autoencoder": _problem("autoencoder_digits", (), 100, 1e-3),
    "convnet": _problem("convnet_digits", (), 64, 3e-3),
    "llama": _problem("llama_bytes", ("tiny",), 4, 3e-3),
}
HORIZON_S = {"autoencoder": 6.0, "convnet": 5.0, "llama": 30.0}
TITLES = {
    "autoencoder": "Autoencoder on digits",
    "convnet": "Convolutional net on digits",
    "llama": "Byte LLaMA, 1.9M parameters",
}
SEEDS = {"autoencoder": (0, 1, 2), "convnet": (0, 1, 2), "llama": (0, 1)}


def paces(problem: Problem) -> dict[str, float]:
    """Return CPU milliseconds of a whole step by method, refreshes by their share, measured in turns.

    The median of ordinary steps plus, over the method's period, what the first step (a refresh) takes beyond it.
    """
    ordinary: dict[str, list[float]] = {name: [] for name in METHODS}
    first: dict[str, list[float]] = {name: [] for name in METHODS}
    for round_ in range(ROUNDS):
        for name in METHODS:
            times = _step_times(problem, name, STEPS_A_ROUND)
            first[name].append(times[0])
            ordinary[name] += times[1:]
            print(f"  round {round_} {name} {statistics.median(times[1:]):.1f} ms", flush=True)
    return {
        name: statistics.median(ordinary[name]) + _refresh_share(name, ordinary[name], first[name])
        for name in METHODS
    }


def _refresh_share(name: str, ordinary: list[float], first: list[float]) -> float:
    method = get_method(name)
    period = method.defaults.get("period", 0) if "refreshes" in method.capabilities else 0
    return max(min(first) - statistics.median(ordinary), 0.0) / period if period > 1 else 0.0


def _step_times(problem: Problem, name: str, steps: int) -> list[float]:
    example = load_example(problem.example)
    torch.manual_seed(0)
    model = example.build_model(*problem.build)
    batches = iter(example.batches(problem.batch_size))
    optimizer = create(name, model, lr=1e-4, fallback={"lr": 1e-4})
    takes_closure = "needs_closure" in get_method(name).capabilities
    times = []
    for _ in range(steps):
        began = time.process_time()
        gradients = Gradients(model, example.loss, next(batches))
        if takes_closure:
            optimizer.step(gradients)
        else:
            gradients()
            optimizer.step()
        times.append(1e3 * (time.process_time() - began))
    return times


def read_paces(path: Path) -> dict[str, dict[str, float]]:
    """Return milliseconds of a step by problem and method."""
    measured: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))["pace_ms"]
    return measured


def steps_of(pace_ms: dict[str, dict[str, float]], problem: str, method: str) -> int:
    """How many steps of a method fit into the problem's horizon."""
    return max(int(1e3 * HORIZON_S[problem] / pace_ms[problem][method]), 1)


def wanted(
    pace_ms: dict[str, dict[str, float]],
    rows: list[Row],
    problems: Sequence[str],
    methods: Sequence[str],
) -> Iterator[Run]:
    """Yield the runs that are still to be made: each method's walk down the ladder, then the best ones' other seeds."""
    for problem in problems:
        best: dict[str, tuple[float, Run]] = {}
        for method in methods:
            runs = {lr: _run(pace_ms, problem, method, lr) for lr in LADDER}
            losses = {lr: _loss(run.result(rows)) for lr, run in runs.items()}
            following = next_rate(losses)
            if following is not None:
                yield runs[following]
                continue
            lr = best_rate(losses)
            if lr is not None:
                best[method] = (losses[lr] or 0.0, runs[lr])
        chosen = sorted(best, key=lambda method: best[method][0])[:REPEATED]
        for method in dict.fromkeys((*chosen, BASELINE)):
            for seed in SEEDS[problem][1:]:
                repeated = replace(best[method][1], seed=seed)
                if repeated.result(rows) is None:
                    yield repeated


def _run(pace_ms: dict[str, dict[str, float]], problem: str, method: str, lr: float) -> Run:
    return Run(method, lr, steps=steps_of(pace_ms, problem, method), problem=problem)


def _loss(row: Row | None) -> float | None:
    """Return a run's loss: None where it was not made, infinite where it diverged."""
    if row is None:
        return None
    return math.inf if row["held_out_loss"] is None else float(row["held_out_loss"])


def best_rate(losses: dict[float, float | None]) -> float | None:
    """Return the tried learning rate with the lowest finite loss; None where there is none."""
    finite = {lr: loss for lr, loss in losses.items() if loss is not None and math.isfinite(loss)}
    return min(finite, key=lambda lr: finite[lr]) if finite else None


def next_rate(losses: dict[float, float | None]) -> float | None:
    """Return the next learning rate to try, or None where the best one has been tried between two worse ones."""
    if losses[START] is None:
        return START
    best = best_rate(losses)
    if best is None:  # everything so far diverged: lower
        lower = [lr for lr in LADDER if losses[lr] is None and lr < START]
        return max(lower) if lower else None
    at = LADDER.index(best)
    neighbours = [LADDER[i] for i in (at - 1, at + 1) if 0 <= i < len(LADDER)]
    untried = [lr for lr in neighbours if losses[lr] is None]
    return untried[0] if untried else None


def problem_of(run: Run) -> Problem:
    """Return what a run trains, its warm-up a tenth of its own steps."""
    if run.problem is None:
        raise ValueError("every run here names its problem")
    return replace(PROBLEMS[run.problem], warmup_steps=int(run.steps * WARMUP_SHARE))


def advise(name: str, minutes: float) -> dict[str, str]:
    """Return what `subopt recommend` chooses for a problem with ample memory, before and after a race."""
    problem = PROBLEMS[name]
    model = ROOT / "examples" / f"{problem.example}.py"
    with tempfile.TemporaryDirectory() as folder:
        profile = f"{folder}/profile.json"
        _subopt("profile", str(model), "--batch-size", str(problem.batch_size), "-o", profile)
        before = _chosen(profile, folder)
        _subopt("race", profile, "--minutes", str(minutes), "--output", f"{folder}/race")
        return {
            "without a race": before,
            f"after a race of {minutes:g} minutes": _chosen(profile, folder),
        }


def _chosen(profile: str, folder: str) -> str:
    asked = ("--gpu-mem", "24G", "--profile", profile, "-o", f"{folder}/recipe.yaml", "--json")
    method: str = json.loads(_subopt("recommend", *asked))["chosen"]["method"]
    return method


def _subopt(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "subopt", *words], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


PACES = RESULTS / f"{NAME}_pace.json"
RUNS = RESULTS / f"{NAME}.jsonl"
CHOSEN = RESULTS / f"{NAME}_chosen.json"


def measure_paces() -> None:
    """Write the paces, problem by problem."""
    measured = {}
    for name, problem in PROBLEMS.items():
        measured[name] = paces(problem)
        document = {"pace_ms": measured, "load_average": os.getloadavg()[0], **conditions()}
        PACES.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def ask(problems: Sequence[str], minutes: float) -> None:
    """Write what is recommended, problem by problem."""
    chosen = json.loads(CHOSEN.read_text(encoding="utf-8")) if CHOSEN.exists() else {}
    for name in problems:
        chosen[name] = advise(name, minutes)
        CHOSEN.write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")


def report() -> None:
    """Write the report from what was measured and chosen, and from the notes beside it."""
    notes = (RESULTS / f"{NAME}_notes.md").read_text(encoding="utf-8")
    chosen = json.loads(CHOSEN.read_text(encoding="utf-8"))
    text = render(read_results(RUNS), TITLES, chosen, notes)
    (RESULTS / f"{NAME}.md").write_text(text, encoding="utf-8")


def main() -> None:
    """Measure the paces, train what is missing, ask for advice, or write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stage", choices=("pace", "train", "advise", "render"))
    parser.add_argument("--problem", choices=PROBLEMS, help="only this one")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each race")
    parser.add_argument("--last-first", action="store_true", help="for a second process")
    parser.add_argument("--time-limit", type=float, default=60.0, help="minutes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    problems = [arguments.problem] if arguments.problem else list(PROBLEMS)
    methods = list(METHODS)[::-1] if arguments.last_first else list(METHODS)
    if arguments.stage == "pace":
        measure_paces()
    elif arguments.stage == "advise":
        ask(problems, arguments.minutes)
    elif arguments.stage == "render":
        report()
    else:
        pace_ms = read_paces(PACES)
        sweep(
            RUNS,
            lambda rows: list(itertools.islice(wanted(pace_ms, rows, problems, methods), 1)),
            problem_of,
            arguments.time_limit,
        )


if __name__ == "__main__":
    main()
