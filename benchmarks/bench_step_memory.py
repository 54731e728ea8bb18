"""Peak memory of a step, measured against the prediction: persistent state and at most one layer's temporaries.

    make bench-memory
    python benchmarks/bench_step_memory.py --only galore --only soap

Every optimizer takes its steps in a process of its own, everything that happens from time to time at every step. Its
tensors are counted by their storages; beside that, the process's own high-water mark, which also shows what LAPACK and
a kernel allocate for themselves. malloc is told to give back what is freed, or that mark would show its hoarding.
"""

import argparse
import gc
import json
import os
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common.conditions import RESULTS, ROOT, conditions
from common.contenders import LR, held_bytes
from common.llama import gradients, layer_shapes
from common.peers import FOREACH, FUSED, OTHERS, TORCH, versions
from common.verdicts import at_most, table, verdict_table
from torch import nn

from subopt.optimizers import METHODS, Composed
from subopt.optimizers.state.storage_tracker import StorageTracker

Row = dict[str, Any]
MEBIBYTE = 2**20
STEPS = 2
# Compiles for half a minute; bitsandbytes' is the same method.
LEFT_OUT = {"AdamW 8-bit, torchao"}
# Temporaries of a few numbers a step that are not any layer's.
SLACK_BYTES = 4096


def plan() -> list[str]:
    """Every method that is an optimizer alone, then other implementations."""
    own = [name for name, method in METHODS.items() if not method.layers]
    return [*own, FOREACH, FUSED, *(name for name in OTHERS if name not in LEFT_OUT)]


def build(name: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer; ours with everything that happens from time to time at every step."""
    if name not in METHODS:
        return {**TORCH, **OTHERS}[name].make(parameters)
    return Composed([{"params": parameters, **METHODS[name].resolve(), **always(name)}], lr=LR)


def always(name: str) -> dict[str, int]:
    """The options that make a method do everything at every step."""
    return {key: 1 for key in ("period", "start_step") if key in METHODS[name].tunable}


def predicted_transient(name: str, shapes: Sequence[tuple[int, int]]) -> int | None:
    """The most that any one matrix's update takes, by the method table; None for another implementation."""
    if name not in METHODS:
        return None
    return max(METHODS[name].transient_bytes(shape, options=always(name)) for shape in set(shapes))


class HighWater:
    """The largest resident memory of this process since it was last forgotten, in bytes."""

    def forget(self) -> None:
        """Begin again from what is resident now."""
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    def read(self, field: str = "VmHWM") -> int:
        """Return a line of the process's status in bytes."""
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith(field))
        return 1024 * int(line.split()[1])


def measure(name: str, size: str, layers: int) -> Row:
    """Take a few steps in this process; the peak of each beyond parameters, gradients and state, in two ways."""
    shapes = layer_shapes(size) * layers
    (pool,) = gradients(shapes, sets=1)
    parameters = [nn.Parameter(torch.randn(shape).mul_(0.02)) for shape in shapes]
    optimizer = build(name, parameters)
    row: Row = {"resident_bytes": [resident(optimizer, parameters, pool) for _ in range(STEPS)]}
    row["state_bytes"] = held_bytes(optimizer, parameters)
    if name in METHODS:
        del optimizer
        optimizer = build(name, parameters)  # anew: a first step fits what later ones refresh
        row["tracked_bytes"] = [tracked(optimizer, parameters, pool) for _ in range(STEPS)]
    return row


def give_gradients(parameters: list[nn.Parameter], pool: list[torch.Tensor]) -> None:
    """Put a copy of its gradient beside every parameter."""
    for parameter, gradient in zip(parameters, pool, strict=True):
        parameter.grad = gradient.clone()


def resident(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], pool: list[torch.Tensor]
) -> int:
    """The process's high-water mark in one step, beyond what it held before and what its state grew by."""
    give_gradients(parameters, pool)
    memory = HighWater()
    gc.collect()
    before = held_bytes(optimizer, parameters)
    memory.forget()
    begin = memory.read("VmRSS")
    optimizer.step()
    grown = held_bytes(optimizer, parameters) - before
    return max(0, memory.read() - begin - grown)


def tracked(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], pool: list[torch.Tensor]
) -> int:
    """Bytes of tensors at the peak of one step, beyond what was held before and what the state grew by."""
    give_gradients(parameters, pool)
    before = held_bytes(optimizer, parameters)
    with StorageTracker() as tracker:
        tracker.file([*parameters, *(p.grad for p in parameters)], "held")
        tracker.file([v for s in optimizer.state.values() for v in s.values()], "held")
        tracker.reset_peak()
        optimizer.step()
        peak = tracker.peak_bytes[tracker.category]
    return int(peak - max(0, held_bytes(optimizer, parameters) - before))


def in_child(name: str, arguments: argparse.Namespace) -> Row:
    """Measure one optimizer in a process of its own."""
    command = [sys.executable, __file__, "--child", name, "--size", arguments.size]
    command += ["--layers", str(arguments.layers), "--threads", str(arguments.threads)]
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": str(arguments.threads),
    }
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return {"why": done.stderr.strip().splitlines()[-1]}
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def measured_row(name: str, arguments: argparse.Namespace) -> Row:
    """What is measured of one optimizer, and what was predicted."""
    shapes = layer_shapes(arguments.size) * arguments.layers
    row: Row = {"name": name, "predicted_bytes": predicted_transient(name, shapes)}
    begin_s = time.perf_counter()
    if name in METHODS:
        row["planned_state_bytes"] = sum(METHODS[name].state_bytes(shape) for shape in shapes)
    row |= in_child(name, arguments)
    print(f"{time.perf_counter() - begin_s:5.1f} s  {name}", flush=True)
    return row


def render(result: Row) -> str:
    """The report as Markdown."""
    rows = [row for row in result["rows"] if "why" not in row]
    weights = result["weight_bytes"]
    conditions = ", ".join(f"{name} {value}" for name, value in result["conditions"].items())
    cells = [
        [
            row["name"],
            mebibytes(row["state_bytes"]),
            mebibytes(row.get("planned_state_bytes")),
            mebibytes(row["predicted_bytes"]),
            mebibytes(max(row["tracked_bytes"]) if "tracked_bytes" in row else None),
            mebibytes(max(row["resident_bytes"])),
            f"{max(row['resident_bytes']) / weights:.2f}",
        ]
        for row in rows
    ]
    header = (
        "optimizer", "state", "state, planned", "temporaries, predicted", "tensors, measured", "resident, measured",
        "resident / weights",
    )  # fmt: skip
    return "\n".join([
        "# Peak memory of a step",
        "",
        "Written by `benchmarks/bench_step_memory.py`; the bytes of every step are in the `.json` beside this file. "
        f"Layers of LLaMA {result['size']}: {result['layers']}, {weights / MEBIBYTE:.1f} MiB of float32 weights; MiB. "
        f"The worst of {STEPS} steps, ours with refreshes at every one. *predicted*: the most that any one matrix "
        "takes, by the method table. *tensors*: storages alive beyond weights, gradients and state. *resident*: the "
        "process's own high-water mark beyond what it held before the step, its state's growth aside; LAPACK's "
        "workspace is in it and in no other column.",
        "",
        "## What was wanted of memory",
        "",
        *verdict_table(verdicts(rows)),
        "## Every optimizer",
        "",
        *table(header, cells),
        *(f"- {row['name']} is missing: {row['why']}" for row in result["rows"] if "why" in row),
        "",
        f"`{result['command']}`: {conditions}.",
        "",
    ])


def verdicts(rows: Sequence[Row]) -> list[Any]:
    """Whether every method stays within its prediction, in tensors and in state."""
    own = [row for row in rows if row["predicted_bytes"] is not None and "tracked_bytes" in row]
    beyond = [max(row["tracked_bytes"]) - row["predicted_bytes"] for row in own]
    states = [abs(row["state_bytes"] - row["planned_state_bytes"]) for row in own]
    return [
        at_most(
            f"{len(own)} methods: temporaries beyond one layer's predicted",
            SLACK_BYTES,
            max(beyond, default=None),
            " bytes",
        ),
        at_most(
            f"{len(own)} methods: state held, less what was planned",
            0,
            max(states, default=None),
            " bytes",
        ),
    ]


def mebibytes(value: float | None) -> str:
    """Bytes in MiB, or a dash."""
    return "–" if value is None else f"{value / MEBIBYTE:.2f}"


def main(command_line: Sequence[str]) -> None:
    """Measure and render, or render alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="an optimizer's name in the report")
    parser.add_argument("--size", default="60m")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "step_memory_cpu_202611.json")
    parser.add_argument("--render", action="store_true", help="write the report, measure nothing")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args(command_line)
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    if arguments.child:
        row = measure(arguments.child, arguments.size, arguments.layers)
        print(json.dumps(row))
        return
    if not arguments.render:
        shapes = layer_shapes(arguments.size) * arguments.layers
        result = {
            "command": shlex.join(["python", "benchmarks/bench_step_memory.py", *command_line]),
            "size": arguments.size,
            "layers": arguments.layers,
            "weight_bytes": sum(4 * rows * columns for rows, columns in shapes),
            "rows": [measured_row(name, arguments) for name in arguments.only or plan()],
            "conditions": {**conditions(), **versions()},
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result) + "\n", encoding="utf-8")
    result = json.loads(arguments.output.read_text(encoding="utf-8"))
    report = arguments.output.with_suffix(".md")
    report.write_text(render(result), encoding="utf-8")
    for verdict in verdicts([row for row in result["rows"] if "why" not in row]):
        print(f"  {verdict.line}: {verdict.measured} ({verdict.wanted}) -> {verdict.holds}")
    print(report)


if __name__ == "__main__":
    main(sys.argv[1:])
