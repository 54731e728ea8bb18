"""Shared-basis, Shampoo, Sketchy, Block Adam, SOAP and DLRT beside Adam, on the autoencoder and the tiny LLaMA.

    python benchmarks/bench_paper_methods.py --time-limit 120    # runs what is not yet measured
    python benchmarks/bench_paper_methods.py --time              # iterations of all of them, taken in turns
    python benchmarks/bench_paper_methods.py --render            # results/* -> results/*.md

The comparison of "Block Low-Rank Preconditioner with Shared Basis", section 3, on data that every machine has: the
autoencoder sees scikit-learn's digits instead of MNIST, the transformer is the byte LLaMA. Each contender gets a grid
of learning rates, and on the autoencoder a second seed at its best one. The times of those runs depend on what else the
machine did; what is compared comes from `--time`, where the contenders take turns, iteration by iteration.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench_tiny_llama import TINY_LLAMA
from common.conditions import RESULTS, conditions, load_example
from common.sweep import Gradients, Problem, Row, Run, read_results, sweep, warmup_then_linear
from render.paper_methods import Entry, render

from subopt.optimizers import create, get_method

NAME = "paper_methods_cpu_202611"
SEEDED = "autoencoder"  # the other takes too long for two seeds
PERIOD, PERIODS = 10, 3  # of SOAP, Shampoo and Sketchy
STEPS = {"autoencoder": 300, "llama": 300}
PROBLEMS = {
    "autoencoder": Problem(
        example="autoencoder_digits",
        build=(),
        batch_size=250,
        fallback_lr=1e-3,
        warmup_steps=15,
        schedule=warmup_then_linear,  # as the paper's autoencoder: 5 % warm-up, linear decay to 0
    ),
    "llama": TINY_LLAMA,
}


@dataclass(frozen=True)
class Contender:
    """A method with its options on each problem, under a name for the tables."""

    label: str
    method: str
    options: dict[str, dict[str, Any]]
    rates: dict[str, tuple[float, ...]]

    def runs(self, problem: str) -> list[Run]:
        """Every learning rate, first seed."""
        options = self.options.get(problem, {})
        return [
            Run(self.method, lr, options=options, steps=STEPS[problem], problem=problem)
            for lr in self.rates[problem]
        ]


def _contender(
    label: str,
    method: str,
    *,
    autoencoder: dict[str, Any] | None = None,
    llama: dict[str, Any] | None = None,
    rates: tuple[float, ...] = (1e-3, 3e-3, 3e-4),
    llama_rates: tuple[float, ...] | None = None,
) -> Contender:
    return Contender(
        label,
        method,
        {"autoencoder": autoencoder or {}, "llama": llama or {}},
        {"autoencoder": rates, "llama": llama_rates or rates},
    )


# Block sizes and ranks are those of Yen et al. 2023 on the autoencoder; on the tiny LLaMA, with sides of 192 and 512,
# they are smaller in proportion.
CONTENDERS = (
    _contender("Adam", "adamw", llama_rates=(1e-3, 3e-3)),
    _contender("shared basis, k = 32", "shared-basis", llama_rates=(1e-3,)),
    _contender(
        "Block Adam",
        "block-adam",
        autoencoder={"block_size": 10},
        llama={"block_size": 8},
        rates=(1e-3,),
    ),
    _contender(
        "Shampoo, small blocks",
        "shampoo",
        autoencoder={"block_size": 250},
        llama={"block_size": 128},
        llama_rates=(1e-3,),
    ),
    _contender(
        "Shampoo, large blocks",
        "shampoo",
        autoencoder={"block_size": 1000},
        llama={"block_size": 512},
        llama_rates=(1e-3,),
    ),
    _contender(
        "Sketchy",
        "sketchy",
        autoencoder={"rank": 256},
        llama={"rank": 64},
        rates=(1e-3, 3e-3),
        llama_rates=(1e-3,),
    ),
    # In its eigenbasis a step along a rank-1 gradient is one coordinate: SOAP wants larger rates.
    _contender("SOAP", "soap", rates=(3e-3, 1e-2, 1e-3), llama_rates=(3e-3,)),
    *(
        _contender(
            f"DLRT, tau = {tau:g}",
            "dlrt",
            autoencoder={"tau": tau},
            llama={"tau": tau},
            rates=(3e-3,),
            llama_rates=(1e-3,),
        )
        for tau in (0.1, 0.2, 0.05)
    ),
)


def second_seed(contender: Contender, problem: str, rows: list[Row]) -> Run | None:
    """The best learning rate once more with seed 1, as soon as all of them are measured."""
    runs = contender.runs(problem)
    found = [run.result(rows) for run in runs]
    finished = [row for row in found if row and row["held_out_loss"] is not None]
    if None in found or not finished:
        return None
    best = min(finished, key=lambda row: row["held_out_loss"])
    return Run(
        contender.method,
        best["lr"],
        seed=1,
        options=runs[0].options,
        steps=STEPS[problem],
        problem=problem,
    )


def plan(
    rows: list[Row], problems: Sequence[str], contenders: Sequence[Contender] = CONTENDERS
) -> Iterator[tuple[Contender, Run]]:
    """All runs in the order of their use: learning rates first, then second seeds."""
    for problem in problems:
        for contender in contenders:
            for run in contender.runs(problem):
                yield contender, run
    for contender in contenders if SEEDED in problems else ():
        run = second_seed(contender, SEEDED, rows)
        if run is not None:
            yield contender, run


def left(arguments: argparse.Namespace, rows: list[Row]) -> list[Run]:
    """The wanted runs without a result."""
    wanted = [each for each in CONTENDERS if not arguments.only or each.method in arguments.only]
    return [
        run
        for _, run in plan(rows, arguments.problem, wanted)
        if run.seed in arguments.seed and run.result(rows) is None
    ]


class Timed:
    """One contender's training, an iteration at a time: forward, backward and step."""

    def __init__(self, problem: Problem, run: Run) -> None:
        self.example = load_example(problem.example)
        torch.manual_seed(run.seed)
        self.model = self.example.build_model(*problem.build)
        self.batches = iter(self.example.batches(problem.batch_size))
        method = get_method(run.method)
        # A delayed start would hide what is to be timed.
        early = {"start_step": 1} if "start_step" in method.defaults else {}
        self.optimizer = create(run.method, self.model, lr=run.lr, **run.options, **early)
        self.takes_closure = "needs_closure" in method.capabilities
        self.times_ms: list[float] = []

    def iterate(self) -> None:
        """Take one step and note its time."""
        gradients = Gradients(self.model, self.example.loss, next(self.batches))
        start = time.perf_counter()
        if self.takes_closure:
            self.optimizer.step(gradients)
        else:
            gradients()
            self.optimizer.step()
        self.times_ms.append(1e3 * (time.perf_counter() - start))


def iteration_times(problem: str) -> dict[str, Any]:
    """Time PERIODS periods of every contender in turns, after a first iteration that allocates."""
    running = {each.label: Timed(PROBLEMS[problem], each.runs(problem)[0]) for each in CONTENDERS}
    for _ in range(1 + PERIODS * PERIOD):
        for timed in running.values():
            timed.iterate()
    return {label: timed.times_ms[1:] for label, timed in running.items()}


def mean_over_a_period(times_ms: list[float]) -> float:
    """Mean over the places in a period of the median over the periods: refreshes keep their share, noise does not."""
    places = [statistics.median(times_ms[place::PERIOD]) for place in range(PERIOD)]
    return statistics.fmean(places)


def measure_times(path: Path, problems: Sequence[str]) -> None:
    """Time the problems and write every single time."""
    measured = {problem: iteration_times(problem) for problem in problems}
    result = {"conditions": conditions(), "times_ms": measured}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def read_times(path: Path) -> dict[str, dict[str, float]]:
    """Milliseconds of an iteration by problem and contender; empty before anything is timed."""
    if not path.exists():
        return {}
    measured = json.loads(path.read_text(encoding="utf-8"))["times_ms"]
    return {
        problem: {label: mean_over_a_period(times) for label, times in by_label.items()}
        for problem, by_label in measured.items()
    }


def entries(rows: list[Row]) -> list[Entry]:
    """The plan joined with what was measured of it."""
    return [
        Entry(run.problem or "", contender.label, run.lr, run.seed, run.result(rows))
        for contender, run in plan(rows, tuple(PROBLEMS))
    ]


def main() -> None:
    """Parse the command line; measure or render."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time-limit", type=float, default=math.inf, help="minutes")
    parser.add_argument("--problem", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--only", nargs="+", metavar="METHOD")
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS / f"{NAME}.jsonl")
    parser.add_argument("--time", action="store_true", help="time iterations, train nothing")
    parser.add_argument("--render", action="store_true", help="write the table, measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    times = arguments.output.with_name(f"{arguments.output.stem}_times.json")
    if arguments.time:
        measure_times(times, arguments.problem)
        return
    if arguments.render:
        report = arguments.output.with_suffix(".md")
        text = render(entries(read_results(arguments.output)), read_times(times))
        report.write_text(text, encoding="utf-8")
        print(f"wrote {report}")
        return
    sweep(
        arguments.output,
        lambda rows: left(arguments, rows),
        lambda run: PROBLEMS[run.problem or ""],
        arguments.time_limit,
    )


if __name__ == "__main__":
    main()
