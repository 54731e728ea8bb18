"""Train the tiny byte LLaMA with every method on the same batches and compare held-out losses.

    python benchmarks/bench_tiny_llama.py --time-limit 120     # runs what is not yet measured
    python benchmarks/bench_tiny_llama.py --render             # results/*.jsonl -> results/*.md

Each finished run is one line of the results file and is never repeated (`common/sweep.py`), so the sweep can
be stopped and started at will.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from common.conditions import RESULTS
from common.sweep import Problem, Row, Run, read_results, sweep, warmup_then_cosine
from render.tiny_llama import Cell, render

STEPS = 300
TINY_LLAMA = Problem(
    example="llama_bytes",
    build=("tiny",),
    batch_size=8,  # windows of 256 bytes: 2,048 tokens a step
    fallback_lr=3e-3,  # embedding, head and norms
    warmup_steps=30,
    schedule=warmup_then_cosine,
)
NAME = "tiny_llama_cpu_202611"

# In the order in which they should be measured.
LEARNING_RATES = {
    "adamw": (1e-3, 3e-4, 3e-3),
    "adadiag": (1e-3, 3e-4, 3e-3),
    "galore": (1e-3, 3e-4, 3e-3, 1e-2),  # 1e-2 is its paper's
    "osd": (1e-3, 3e-4, 3e-3, 1e-2),
    "adadiag++": (1e-3, 3e-4, 3e-3, 1e-2),
    "lion": (1e-3, 3e-4, 3e-3, 1e-4),  # sign steps want a third to a tenth of AdamW's rate
    "adafacdiag": (1e-3, 3e-4, 3e-3),
    "hfacdiag": (1e-3, 3e-4, 3e-3),
}
RANKS = {"galore": {"rank": 0.25}, "osd": {"rank": 0.25}}  # 48 of 192
# (method, lr, source, period, on_refresh): the paper's setting first, then what differs most from it.
ABLATION = (
    ("adadiag", 1e-3, "gradient", 200, "keep"),
    ("adadiag", 1e-3, "covariance", 10, "rotate"),
    ("adadiag", 1e-3, "gradient", 50, "keep"),
    ("adadiag", 1e-3, "covariance", 50, "rotate"),
    ("adadiag", 1e-3, "momentum", 10, "rotate"),
    ("adadiag++", 3e-3, "gradient", 200, "keep"),
    ("adadiag++", 3e-3, "covariance", 10, "rotate"),
    ("adadiag++", 3e-3, "gradient", 50, "keep"),
    ("adadiag", 1e-3, "covariance", 10, "keep"),
    ("adadiag", 1e-3, "gradient", 50, "rotate"),
    ("adadiag", 1e-3, "gradient", 50, "reset"),
    ("adadiag++", 3e-3, "covariance", 50, "rotate"),
    ("adadiag++", 1e-3, "gradient", 200, "keep"),
    ("adadiag++", 1e-3, "covariance", 10, "rotate"),
)
SECTIONS = ("ablation", "methods", "seeds")


def ablation_runs(steps: int) -> Iterator[Run]:
    """Where the basis comes from, how often, and what a refresh does to the moments."""
    for method, lr, source, period, on_refresh in ABLATION:
        options = {"source": source, "period": period, "on_refresh": on_refresh}
        yield Run(method, lr, options=options, steps=steps)


def method_runs(steps: int) -> Iterator[Run]:
    """Every method at every learning rate of its row, first seed."""
    for method, rates in LEARNING_RATES.items():
        for lr in rates:
            yield Run(method, lr, options=RANKS.get(method, {}), steps=steps)


def seed_runs(steps: int, measured: list[Row]) -> Iterator[Run]:
    """Repeat the best learning rate of every fully measured method with a second seed."""
    for method, rates in LEARNING_RATES.items():
        runs = [run for run in method_runs(steps) if run.method == method]
        rows = [row for row in (run.result(measured) for run in runs) if row is not None]
        finished = [row for row in rows if row["held_out_loss"] is not None]
        if len(rows) == len(rates) and finished:
            best = min(finished, key=lambda row: row["held_out_loss"])
            yield Run(method, best["lr"], seed=1, options=RANKS.get(method, {}), steps=steps)


def plan(steps: int, measured: list[Row]) -> list[tuple[str, Run]]:
    """All runs in the order of their use, each with the section of the report it belongs to."""
    return [
        *(("ablation", run) for run in ablation_runs(steps)),
        *(("methods", run) for run in method_runs(steps)),
        *(("seeds", run) for run in seed_runs(steps, measured)),
    ]


def left(arguments: argparse.Namespace, rows: list[Row]) -> list[Run]:
    """The wanted runs without a result."""
    return [
        run
        for section, run in plan(arguments.steps, rows)
        if run.result(rows) is None
        and section in arguments.section
        and (not arguments.only or run.method in arguments.only)
    ]


def cells(steps: int, rows: list[Row]) -> list[Cell]:
    """The plan joined with what was measured of it."""
    return [
        Cell(section, run.method, run.lr, run.seed, run.options, run.result(rows))
        for section, run in plan(steps, rows)
    ]


def main() -> None:
    """Parse the command line; measure or render."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time-limit", type=float, default=math.inf, help="minutes")
    parser.add_argument("--only", nargs="+", metavar="METHOD", choices=list(LEARNING_RATES))
    parser.add_argument("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--output", type=Path, default=RESULTS / f"{NAME}.jsonl")
    parser.add_argument("--render", action="store_true", help="write the table, measure nothing")
    parser.add_argument("--list", action="store_true", help="print the plan, measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = read_results(arguments.output)
    if arguments.render:
        report = arguments.output.with_suffix(".md")
        report.write_text(render(cells(arguments.steps, rows)), encoding="utf-8")
        print(f"wrote {report}")
    elif arguments.list:
        for cell in cells(arguments.steps, rows):
            mark = "done" if cell.row else "    "
            print(mark, cell.section, cell.method, f"{cell.lr:g}", cell.seed, cell.options)
    else:
        sweep(
            arguments.output,
            lambda found: left(arguments, found),
            lambda _: TINY_LLAMA,
            arguments.time_limit,
        )


if __name__ == "__main__":
    main()
