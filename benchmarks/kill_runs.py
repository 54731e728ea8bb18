"""A hundred kills: training that is killed at random instants and resumed ends where one that never was does.

    python benchmarks/kill_runs.py                 # 100 kills; minutes
    python benchmarks/kill_runs.py --kills 10

For each recipe one uninterrupted training is the reference. Child processes then train the same recipe and are killed
with SIGKILL after a random time, the next one resuming what the last one left. Half of the kills are aimed at
checkpoints: a checkpoint every step, and the signal a random moment after one has begun. At the end the final weights
must be the reference's bit for bit, the metrics must hold every step once with the reference's loss, and no
half-written file may be left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common.conditions import RESULTS, conditions
from safetensors.torch import load_file

from subopt.recipes.recipe.load import load_recipe, with_settings
from subopt.recipes.schema import Recipe
from subopt.recipes.training.events import Started
from subopt.recipes.training.metrics import read_metrics
from subopt.recipes.training.trainer import train

OUTPUT = RESULTS / "kills_cpu_202611"

MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed = nn.Embedding(256, width)
        self.inner = nn.Linear(width, 2 * width)
        self.drop = nn.Dropout(0.1)
        self.outer = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 256, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        return self.head(x + self.outer(self.drop(torch.tanh(self.inner(x)))))


def build_model(width: int = 16):
    return Net(width)


def batches(batch_size):
    order = torch.randperm(96)
    for start in range(0, 96 - batch_size + 1, batch_size):
        ids = order[start : start + batch_size, None] + torch.arange(8)
        yield {"input_ids": ids, "labels": (ids * 3 + 1) % 256}


def loss(model, batch):
    logits = model(batch["input_ids"])
    return nn.functional.cross_entropy(logits.flatten(0, -2), batch["labels"].flatten())
"""
RECIPE = """
model: {target: model.py}
data: {batch_size: 8}
optimizer: {method: adamw, lr: 1e-2}
schedule: {steps: 40, warmup_steps: 4}
checkpoint: {every: 1, keep: 2}
"""
RULES = "optimizer.rules=[{pattern: inner, method: soap, options: {period: 4}}, {pattern: embed, lr: 0.001}]"
FILES = "data.files={train: ['*.txt'], sequence_length: 16}"
CASES: dict[str, list[str]] = {
    "adamw": [],
    "galore, soap by a rule": [
        "optimizer.method=galore",
        "optimizer.options={rank: 4, period: 5}",
        RULES,
    ],
    "dlrt": ["optimizer.method=dlrt", "optimizer.options={rank: 8, tau: 0.1, settle_steps: 3}"],
    "adamw-8bit": ["optimizer.method=adamw-8bit", "model.kwargs={width: 64}"],
    "adamw, text files": [FILES],
}


class Ended(NamedTuple):
    """How a recipe's kills went: kills, those with a checkpoint behind them, trainings that came to their end."""

    case: str
    kills: int
    behind_a_checkpoint: int
    in_a_checkpoint: int
    trainings: int
    sessions: int
    seconds: float


def session(recipe: Recipe, path: Path, output: Path, started: list[float]) -> None:
    """Train until the end, resuming whatever is there."""

    def on_event(event: object) -> None:
        if isinstance(event, Started):
            started.append(time.perf_counter())

    train(recipe, recipe_path=path, output=output, resume=True, device="cpu", on_event=on_event)


def fork(recipe: Recipe, path: Path, output: Path) -> int:
    """Start a session in a child process; return its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        session(recipe, path, output, [])
        status = 0
    finally:
        os._exit(status)


def kill_at(child: int, checkpoints: Path, delay_s: float, *, in_a_checkpoint: bool) -> bool:
    """Kill a child after a time, or that long after it begins a checkpoint; return whether one was half-written."""
    if in_a_checkpoint:
        deadline_s = time.perf_counter() + 60
        seen = set(checkpoints.glob(".step-*.partial"))
        while (
            time.perf_counter() < deadline_s and not set(checkpoints.glob(".step-*.partial")) - seen
        ):
            if os.waitpid(child, os.WNOHANG)[0]:  # it came to its end before
                raise ChildProcessError
    time.sleep(delay_s)
    half_written = any(checkpoints.glob(".step-*"))
    os.kill(child, signal.SIGKILL)
    return half_written


def weights(output: Path) -> dict[str, bytes]:
    """Return the final weights, bit for bit."""
    tensors = load_file(output / "model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def losses(output: Path) -> list[tuple[int, float]]:
    """Return step and loss of every line of the metrics that has one."""
    entries = read_metrics(output / "metrics.jsonl")
    return [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]


def check(output: Path, reference: Path, steps: int) -> None:
    """Compare a training that was killed with the one that was not.

    Raises:
        RuntimeError: They differ.
    """
    if weights(output) != weights(reference):
        raise RuntimeError(f"{output} ended with other weights")
    if losses(output) != losses(reference) or [s for s, _ in losses(output)] != list(
        range(1, steps + 1)
    ):
        raise RuntimeError(f"the metrics of {output} are not those of the reference")
    left = [
        path
        for path in output.rglob("*")
        if path.name.startswith(".step-") or "partial" in path.name
    ]
    if left:
        raise RuntimeError(f"left behind: {left}")


def run_case(case: str, kills: int, folder: Path, rng: random.Random) -> Ended:
    """Kill one recipe's trainings so many times; return how it went."""
    begin_s = time.perf_counter()
    path = folder / "recipe.yaml"
    recipe = with_settings(load_recipe(path), CASES[case])
    steps = recipe.schedule.steps
    session(recipe, path, folder / "warm-up", [])
    started: list[float] = []
    before_s = time.perf_counter()
    session(recipe, path, folder / "reference", started)
    set_up_s, whole_s = started[0] - before_s, time.perf_counter() - before_s
    step_s = (whole_s - set_up_s) / steps
    done = behind = inside = finished = sessions = 0
    while done < kills or not finished:
        output = folder / f"killed-{finished}"
        checkpoints = output / "checkpoints"
        child, was_killed = fork(recipe, path, output), False
        sessions += 1
        if done < kills:
            aimed = rng.random() < 0.5
            delay_s = rng.uniform(0, step_s if aimed else set_up_s + 8 * step_s)
            try:
                inside += kill_at(child, checkpoints, delay_s, in_a_checkpoint=aimed)
            except ChildProcessError:
                check(output, folder / "reference", steps)
                finished += 1
                continue
        _, status = os.waitpid(child, 0)
        was_killed = os.WIFSIGNALED(status)
        if was_killed:
            done += 1
            behind += any(checkpoints.glob("step-*"))
        elif os.WEXITSTATUS(status):
            raise RuntimeError(f"{case}: a session failed")
        else:
            check(output, folder / "reference", steps)
            finished += 1
    return Ended(case, done, behind, inside, finished, sessions, time.perf_counter() - begin_s)


def rendered(result: dict[str, Any]) -> str:
    """Return the result as a page."""
    rows = result["rows"]
    total = {
        key: sum(row[key] for row in rows) for key in ("kills", "in_a_checkpoint", "trainings")
    }
    lines = [
        "# Training that is killed and resumed",
        "",
        "Written by `benchmarks/kill_runs.py`; the numbers are in the .json beside it.",
        "",
        f"Command: `{result['command']}`, {result['seconds']:.0f} s. "
        + ", ".join(f"{k} {v}" for k, v in result["conditions"].items()),
        "",
        f"{total['kills']} kills (SIGKILL), {total['in_a_checkpoint']} of them while a checkpoint was half-written or "
        f"half-deleted; every next session resumed. All {total['trainings']} trainings that came to their end had the "
        "weights of the uninterrupted one bit for bit, and every step once in the metrics, with its loss; nothing "
        "half-written was left.",
        "",
        "| recipe | kills | with a checkpoint behind | in a checkpoint | trainings to the end | sessions | s |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {row['case']} | {row['kills']} | {row['behind_a_checkpoint']} | {row['in_a_checkpoint']} | "
            f"{row['trainings']} | {row['sessions']} | {row['seconds']:.0f} |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Kill, check, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="both files, without suffix")
    asked = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # what is forked must not have started threads
    os.environ["SUBOPT_STATE"] = "off"
    rng, begin_s, rows = random.Random(asked.seed), time.perf_counter(), []
    for index, case in enumerate(CASES):
        kills = asked.kills * (index + 1) // len(CASES) - asked.kills * index // len(CASES)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "model.py").write_text(MODEL, encoding="utf-8")
            (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
            text = "\n\n".join(f"{k} and {k} make {2 * k}." for k in range(300))
            (folder / "text.txt").write_text(text, encoding="utf-8")
            rows.append(run_case(case, kills, folder, rng)._asdict())
        print(rows[-1], flush=True)
    result = {
        "command": shlex.join(["python", "benchmarks/kill_runs.py", *arguments]),
        "conditions": conditions(),
        "seconds": time.perf_counter() - begin_s,
        "rows": rows,
    }
    numbers = asked.output.with_suffix(".json")
    numbers.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    asked.output.with_suffix(".md").write_text(rendered(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
