"""Train the tiny byte LLaMA with every method on the same batches and compare held-out losses.

    python benchmarks/bench_tiny_llama.py --time-limit 120     # runs what is not yet measured
    python benchmarks/bench_tiny_llama.py --render             # results/*.jsonl -> results/*.md

Each finished run is one line of the results file and is never repeated, so the sweep can be stopped
and started at will. A run is known by its method, *all* its options (defaults included), learning
rate, seed and number of steps: when a default changes, the runs it touches are made again. Options
that did not exist when a run was made are taken to change nothing by default.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, conditions, load_example, state_bytes
from render_tiny_llama import Cell, Row, render
from torch.nn.utils import clip_grad_norm_

from subopt.optimizers import create, get_method

STEPS = 300
WARMUP_STEPS = 30
FINAL_RATIO = 0.1
CLIP_NORM = 1.0
FALLBACK_LR = 3e-3  # embedding, head and norms: AdamW at this rate under every method
BATCH_SIZE = 8  # windows of 256 bytes: 2,048 tokens a step
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


@dataclass(frozen=True)
class Run:
    """One training run: what is optimised with what."""

    method: str
    lr: float
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = STEPS

    def resolved(self) -> dict[str, Any]:
        """Every option with its value, as JSON reads them back."""
        resolved: dict[str, Any] = json.loads(
            json.dumps(get_method(self.method).resolve(self.options), default=str)
        )
        return resolved

    def result(self, rows: list[Row]) -> Row | None:
        """Return the row that measured this run, the latest of several."""
        resolved = self.resolved()
        for row in reversed(rows):
            same_run = all(
                row[name] == getattr(self, name) for name in ("method", "lr", "seed", "steps")
            )
            recorded = row["resolved"].items()
            if same_run and all(resolved.get(name, value) == value for name, value in recorded):
                return row
        return None


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


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a half cosine down to FINAL_RATIO; step counts from 0."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return FINAL_RATIO + (1 - FINAL_RATIO) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train(run: Run) -> Row:
    """Train one model from the seed's weights on the seed's batches; stop if the loss is lost."""
    example = load_example("llama_bytes")
    torch.manual_seed(run.seed)
    model = example.build_model("tiny")
    batches = iter(example.batches(BATCH_SIZE))
    optimizer = create(
        run.method, model, lr=run.lr, weight_decay=0.0, fallback={"lr": FALLBACK_LR}, **run.options
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, run.steps)
    )
    losses: list[float] = []
    gradient_ms: list[float] = []
    step_ms: list[float] = []
    began = time.perf_counter()
    for _ in range(run.steps):
        batch = next(batches)
        start = time.perf_counter()
        loss = example.loss(model, batch)
        if not math.isfinite(loss.item()):
            break
        loss.backward()
        clip_grad_norm_(model.parameters(), CLIP_NORM)
        middle = time.perf_counter()
        optimizer.step()
        end = time.perf_counter()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        gradient_ms.append(1e3 * (middle - start))
        step_ms.append(1e3 * (end - middle))
    return {
        "steps_done": len(losses),
        "wall_seconds": time.perf_counter() - began,
        "train_loss": statistics.fmean(losses[-50:]) if len(losses) == run.steps else None,
        "held_out_loss": held_out_loss(model) if len(losses) == run.steps else None,
        "gradient_ms": statistics.median(gradient_ms),
        "step_ms": statistics.median(step_ms),
        "max_step_ms": max(step_ms),
        "state_bytes": state_bytes(optimizer),
    }


@torch.no_grad()
def held_out_loss(model: torch.nn.Module) -> float | None:
    """Mean loss over the 32 fixed held-out batches, in nats per byte; None where not finite."""
    example = load_example("llama_bytes")
    losses = [example.loss(model, batch).item() for batch in example.eval_batches(BATCH_SIZE)]
    mean = statistics.fmean(losses)
    return mean if math.isfinite(mean) else None


def read_results(path: Path) -> list[Row]:
    """Every finished run of the file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def append_result(path: Path, run: Run, measured: Row) -> None:
    """Add one line; it is on the disk before the next run begins."""
    row = {
        "method": run.method,
        "options": run.options,
        "resolved": run.resolved(),
        "lr": run.lr,
        "seed": run.seed,
        "steps": run.steps,
        **measured,
        "load_average": os.getloadavg()[0],  # above the number of threads: others were running
        "conditions": conditions(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def next_run(arguments: argparse.Namespace) -> tuple[str, Run, int] | None:
    """First wanted run without a result, and how many are left with it; read anew each time."""
    rows = read_results(arguments.output)
    left = [
        (section, run)
        for section, run in plan(arguments.steps, rows)
        if run.result(rows) is None
        and section in arguments.section
        and (not arguments.only or run.method in arguments.only)
    ]
    return (*left[0], len(left)) if left else None


def sweep(arguments: argparse.Namespace) -> None:
    """Measure run after run until none is left or the time is used up."""
    deadline = time.monotonic() + 60 * arguments.time_limit
    run_seconds = 0.0
    while time.monotonic() + run_seconds < deadline:
        upcoming = next_run(arguments)
        if upcoming is None:
            print("nothing left to measure")
            return
        section, run, left = upcoming
        print(f"[{left} left] {section}: {run.method} lr {run.lr:g} seed {run.seed} {run.options}")
        began = time.monotonic()
        measured = train(run)
        run_seconds = time.monotonic() - began
        append_result(arguments.output, run, measured)
        print(
            f"    held out {measured['held_out_loss']}, {run_seconds:.0f} s, "
            f"gradient {measured['gradient_ms']:.0f} ms, step {measured['step_ms']:.1f} ms",
            flush=True,
        )
    print("time limit reached")


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
        sweep(arguments)


if __name__ == "__main__":
    main()
