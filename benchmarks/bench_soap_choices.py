"""What SOAP's implementations disagree on, one choice at a time, everything else equal.

    python benchmarks/bench_soap_choices.py                    # runs what is not yet measured
    python benchmarks/bench_soap_choices.py --render           # results/*.jsonl -> results/*.md

A very small byte LLaMA, so that the whole table takes ten minutes of one core. The base is the authors' own code:
learning rates are tried on it, and every other row changes one thing at the rate that was best.
"""

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from common.conditions import RESULTS, load_example
from common.sweep import Problem, Row, Run, read_results, sweep, warmup_then_cosine

NAME = "soap_choices_cpu_202611"
STEPS = 200
SEEDS = (0, 1)
LEARNING_RATES = {"soap": (3e-3, 1e-2, 3e-2), "adamw": (3e-4, 1e-3, 3e-3, 1e-2)}
SIZE = "mini"
PROBLEM = Problem(
    example="llama_bytes",
    build=(SIZE, 64),
    batch_size=16,
    fallback_lr=3e-3,
    warmup_steps=20,
    schedule=warmup_then_cosine,
)

# The authors' code (nikhilvyas/SOAP), in full: these rows stay what they are when a default of ours changes.
BASE: dict[str, Any] = {
    "moments": "adam",
    "betas": [0.95, 0.95],
    "period": 10,
    "early_refresh": False,
    "solver": "power",
    "covariance_beta": None,
    "use_current_gradient": False,
    "skip_first": True,
    "on_refresh": "rotate",
    "second_moment_on_refresh": "permute",
}
# What changes, and whose choice it is.
CHANGES: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, "the authors' code"),
    ({"use_current_gradient": True}, "the gradient enters the basis first"),
    ({"skip_first": False}, "no skipped step"),
    ({"use_current_gradient": True, "skip_first": False}, "both: Meta's order, NeMo's"),
    ({"second_moment_on_refresh": "keep"}, "Meta and NeMo: V stays where it was"),
    ({"second_moment_on_refresh": "rotate"}, "V by the squared rotation"),
    ({"on_refresh": "keep", "second_moment_on_refresh": None}, "M and V stay where they were"),
    ({"on_refresh": "reset", "second_moment_on_refresh": None}, "M and V start anew"),
    ({"covariance_beta": 0.9}, "covariances of 10 steps"),
    ({"covariance_beta": 0.99}, "covariances of 100 steps"),
    ({"solver": "exact"}, "eigendecompositions"),
    ({"period": 2}, "HeavyBall's period"),
    ({"period": 50}, "a long period"),
    ({"early_refresh": True}, "also at steps 2, 4, 8"),
    ({"betas": [0.9, 0.95]}, "HeavyBall's and NeMo's betas"),
)


def base_runs(method: str) -> list[Run]:
    """The authors' choices, or AdamW, at every learning rate."""
    options = BASE if method == "soap" else {}
    return [Run(method, lr, 0, options, STEPS) for lr in LEARNING_RATES[method]]


def best_rate(method: str, rows: list[Row]) -> float | None:
    """The learning rate with the lowest held-out loss at the first seed, once all are measured."""
    found = [run.result(rows) for run in base_runs(method)]
    losses = {row["lr"]: row["held_out_loss"] for row in found if row is not None}
    if len(losses) < len(found):
        return None
    return min(losses, key=lambda lr: math.inf if losses[lr] is None else losses[lr])


def table_runs(rows: list[Row]) -> list[tuple[str, list[Run]]]:
    """Every row of the table with its runs, one for each seed; empty until the rates are known."""
    lr, adamw_lr = best_rate("soap", rows), best_rate("adamw", rows)
    if lr is None or adamw_lr is None:
        return []
    lines = [
        (f"{_words(change)} | {whose}", [Run("soap", lr, s, BASE | change, STEPS) for s in SEEDS])
        for change, whose in CHANGES
    ]
    one_sided = [Run("soap-one-sided", lr, seed, BASE, STEPS) for seed in SEEDS]
    adamw = [Run("adamw", adamw_lr, seed, {}, STEPS) for seed in SEEDS]
    return [
        *lines,
        ("`soap-one-sided` | the short side only", one_sided),
        (f"`adamw`, lr {adamw_lr:g} | no basis", adamw),
    ]


def _words(change: dict[str, Any]) -> str:
    return ", ".join(f"`{name}: {value}`" for name, value in change.items()) or "base"


def left(rows: list[Row]) -> list[Run]:
    """Runs without a result."""
    table = [run for _, runs in table_runs(rows) for run in runs]
    wanted = base_runs("soap") + base_runs("adamw") + sorted(table, key=lambda run: run.seed)
    return [run for run in wanted if run.result(rows) is None]


def render(rows: list[Row]) -> str:
    """The report."""
    table = table_runs(rows)
    results = {what: [run.result(rows) for run in runs] for what, runs in table}
    complete = {
        what: [row for row in found if row is not None]
        for what, found in results.items()
        if all(row is not None and row["held_out_loss"] is not None for row in found)
    }
    base = [row["held_out_loss"] for row in complete[table[0][0]]]
    spread = max(_spread(found) for found in complete.values())
    return "\n".join([
        "# SOAP: what its implementations disagree on",
        "",
        "This file is generated: `python benchmarks/bench_soap_choices.py --render`; the raw rows are in the",
        "`.jsonl` file beside it.",
        "",
        f"A LLaMA of 2 layers, width 64 (164k parameters) on the bytes of Python's standard library: {STEPS} steps of",
        "16 windows of 64 bytes, 20 of them warm-up, then a cosine to 10 %; gradients clipped at norm 1, no weight",
        "decay; embedding, head and norms under AdamW at 3e-3 in every run. Held-out loss in nats per byte. Base is",
        "the authors' code; every other row changes what it says at the same learning rate, weights and batches.",
        "`second_moment_on_refresh: keep` leaves V with the rank of a direction, `permute` with the direction.",
        "",
        "## Learning rates, seed 0",
        "",
        "| method | lr | held-out |",
        "| :--- | ---: | ---: |",
        *_rates(rows),
        "",
        "## One choice at a time",
        "",
        "| change | what it is | held-out, seed 0 / 1 | mean | against base, seed 0 / 1 | step ms |",
        "| :--- | :--- | ---: | ---: | ---: | ---: |",
        *[_line(what, found, base) for what, found in complete.items()],
        "",
        f"- The widest difference between two seeds of one row is {spread:.3f} nat.",
        "- Step times are medians on a machine that others used too; losses do not depend on that.",
        "",
    ])


def _rates(rows: list[Row]) -> list[str]:
    found = [run.result(rows) for method in LEARNING_RATES for run in base_runs(method)]
    return [
        f"| `{row['method']}` | {row['lr']:g} | {row['held_out_loss']:.3f} |"
        for row in found
        if row is not None and row["held_out_loss"] is not None
    ]


def _spread(found: list[Row]) -> float:
    losses = [row["held_out_loss"] for row in found]
    return max(losses) - min(losses)


def _line(what: str, found: list[Row], base: list[float]) -> str:
    losses = [row["held_out_loss"] for row in found]
    held_out = " / ".join(f"{loss:.3f}" for loss in losses)
    against = " / ".join(f"{a - b:+.3f}" for a, b in zip(losses, base, strict=True))
    step_ms = statistics.median(row["step_ms"] for row in found)
    return f"| {what} | {held_out} | {statistics.fmean(losses):.3f} | {against} | {step_ms:.1f} |"


def main() -> None:
    """Parse the command line; measure or render."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time-limit", type=float, default=math.inf, help="minutes")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{NAME}.jsonl")
    parser.add_argument("--render", action="store_true", help="write the table, measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    example = load_example("llama_bytes")
    example.SIZES[SIZE] = example.Size(hidden=64, intermediate=172, heads=2, layers=2)
    if arguments.render:
        report = arguments.output.with_suffix(".md")
        report.write_text(render(read_results(arguments.output)), encoding="utf-8")
        print(f"wrote {report}")
    else:
        sweep(arguments.output, left, lambda _: PROBLEM, arguments.time_limit)


if __name__ == "__main__":
    main()
