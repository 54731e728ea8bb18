"""Sweeps of training runs: each run is measured once, kept as one line of a file, and never repeated.

A run is known by its problem, method, *all* its options (defaults included), learning rate, seed and number of steps:
when a default changes, the runs it touches are made again. Options that did not exist when a run was made are taken
to change nothing by default.
"""

import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common.conditions import conditions, load_example, state_bytes
from torch import nn
from torch.nn.utils import clip_grad_norm_

from subopt.optimizers import create, get_method

Row = dict[str, Any]
CLIP_NORM = 1.0


def warmup_then_cosine(step: int, steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then a half cosine down to a tenth; step counts from 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def warmup_then_linear(step: int, steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then linearly to 0; step counts from 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return max(0.0, (steps - step) / max(1, steps - warmup_steps))


@dataclass(frozen=True)
class Problem:
    """What is trained: an example, its batches, and how.

    Attributes:
        example: File of `examples/`.
        build: Arguments of its `build_model`.
        batch_size: What its `batches` is given.
        fallback_lr: Learning rate of AdamW on what no method treats, the same under every method.
        warmup_steps: Steps of warm-up.
        schedule: Factor on the learning rates from step, steps and warm-up.
    """

    example: str
    build: tuple[Any, ...]
    batch_size: int
    fallback_lr: float
    warmup_steps: int
    schedule: Callable[[int, int, int], float]


@dataclass(frozen=True)
class Run:
    """One training run: what is optimised with what."""

    method: str
    lr: float
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 300
    problem: str | None = None

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
                row.get(name) == getattr(self, name)
                for name in ("problem", "method", "lr", "seed", "steps")
            )
            recorded = row["resolved"].items()
            if same_run and all(resolved.get(name, value) == value for name, value in recorded):
                return row
        return None


def train(problem: Problem, run: Run) -> Row:
    """Train one model from the seed's weights on the seed's batches; stop if the loss is lost."""
    example = load_example(problem.example)
    torch.manual_seed(run.seed)
    model = example.build_model(*problem.build)
    batches = iter(example.batches(problem.batch_size))
    optimizer = create(
        run.method, model, lr=run.lr, fallback={"lr": problem.fallback_lr}, **run.options
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: problem.schedule(step, run.steps, problem.warmup_steps)
    )
    takes_closure = "needs_closure" in get_method(run.method).capabilities
    losses: list[float] = []
    gradient_ms: list[float] = []
    step_ms: list[float] = []
    began = time.perf_counter()
    for _ in range(run.steps):
        gradients = Gradients(model, example.loss, next(batches))
        start = time.perf_counter()
        # Optimizers that evaluate the model themselves do so in their step.
        loss = None if takes_closure else gradients()
        middle = time.perf_counter()
        loss = optimizer.step(gradients) if takes_closure else (optimizer.step(), loss)[1]
        end = time.perf_counter()
        if not math.isfinite(loss):
            break
        schedule.step()
        losses.append(loss)
        gradient_ms.append(1e3 * (middle - start))
        step_ms.append(1e3 * (end - middle))
    finished = len(losses) == run.steps
    return {
        "steps_done": len(losses),
        "wall_seconds": time.perf_counter() - began,
        "train_loss": statistics.fmean(losses[-50:]) if finished else None,
        "held_out_loss": held_out_loss(problem, model) if finished else None,
        "gradient_ms": statistics.median(gradient_ms) if losses else None,
        "step_ms": statistics.median(step_ms) if losses else None,
        "max_step_ms": max(step_ms) if losses else None,
        "state_bytes": state_bytes(optimizer),
        "weight_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
    }


class Gradients:
    """A closure: clipped gradients of one batch in the model, and its loss as a number."""

    def __init__(self, model: nn.Module, loss: Callable[..., Any], batch: Any) -> None:
        self.model, self.loss, self.batch = model, loss, batch

    def __call__(self) -> float:
        """Evaluate."""
        self.model.zero_grad()
        loss = self.loss(self.model, self.batch)
        loss.backward()
        clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        return float(loss.detach())


@torch.no_grad()
def held_out_loss(problem: Problem, model: nn.Module) -> float | None:
    """Mean loss over the fixed held-out batches, in the example's unit; None where not finite."""
    example = load_example(problem.example)
    losses = [
        example.loss(model, batch).item() for batch in example.eval_batches(problem.batch_size)
    ]
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
        **({"problem": run.problem} if run.problem else {}),
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


def sweep(
    path: Path,
    left: Callable[[list[Row]], list[Run]],
    problem_of: Callable[[Run], Problem],
    time_limit_minutes: float,
) -> None:
    """Measure run after run until none is left or the time is used up.

    Args:
        path: The results file; read anew before every run, so that several processes can share it.
        left: The wanted runs without a result, from the rows so far.
        problem_of: What a run trains.
        time_limit_minutes: No run starts that would, at the length of the last one, end after this.
    """
    deadline = time.monotonic() + 60 * time_limit_minutes
    run_seconds = 0.0
    while time.monotonic() + run_seconds < deadline:
        waiting = left(read_results(path))
        if not waiting:
            print("nothing left to measure")
            return
        run = waiting[0]
        print(
            f"[{len(waiting)} left] {run.problem or ''} {run.method} lr {run.lr:g} "
            f"seed {run.seed} {run.options}",
            flush=True,
        )
        began = time.monotonic()
        measured = train(problem_of(run), run)
        run_seconds = time.monotonic() - began
        append_result(path, run, measured)
        print(
            f"    held out {measured['held_out_loss']}, {run_seconds:.0f} s, "
            f"step {measured['step_ms']} ms",
            flush=True,
        )
    print("time limit reached")
