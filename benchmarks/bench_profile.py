"""What profiling costs beside the forward and backward passes it makes, in time and memory, and how that grows.

    python benchmarks/bench_profile.py                      # all sections; goes on where it was stopped
    python benchmarks/bench_profile.py --section ratios --fresh
    make bench-profile                                      # spectra against singular values, anew
    python benchmarks/bench_profile.py --render

Every case runs in a process of its own, so that its peak memory is its own; plain passes and profiles take turns. Each
finished case is one line of the `.jsonl`, and is not run again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from common.conditions import RESULTS, ROOT, conditions, load_example
from common.singular_values import SINGULAR_SHAPES, decaying, measure_singular_values

from subopt.optimizers import create
from subopt.profilers.effort import EFFORTS, Progress
from subopt.profilers.gradients.measure_layers import measure_layers
from subopt.profilers.gradients.spectrum import (
    energies,
    energy_at_rank,
    sketch_rank,
    sketched_energies,
)
from subopt.profilers.method_table import BASELINE
from subopt.profilers.profile import run_profile
from subopt.profilers.record.profile import Settings
from subopt.profilers.subspaces.follow import follow_subspaces
from subopt.profilers.target.load import load_target
from subopt.profilers.target.session import Session
from subopt.profilers.timing.stopwatch import Stopwatch

NAME = "profile_cpu_202611"
TARGET = "examples/llama_bytes.py"
Row = dict[str, Any]

# Narrow and wide side: those of the example's sizes, and of wider models.
SPECTRUM_SHAPES = [
    (256, 704),
    (512, 1376),
    (768, 2048),
    (1024, 2736),
    (1536, 4096),
    (2048, 5461),
    (3072, 8192),
    (4096, 11008),
]
TOKENS = 2048  # of a batch of 8 in the example
PLAIN_PASSES = 5
CURVE_STEPS = 4


def cases(section: str, size: str) -> Iterator[Row]:
    """The cases of a section, in the order they are run."""
    if section == "ratios":
        plan = ("plain", "quick", "plain", "standard", "plain")
        for turn, what in enumerate(plan):
            yield {"section": section, "case": what, "size": size, "turn": turn}
    elif section == "width":
        for name in ("tiny", "60m", "130m", "350m"):
            yield {"section": section, "case": "quick", "size": name, "layers": None}
            yield {"section": section, "case": "standard", "size": name, "layers": 2}
    elif section == "depth":
        for layers in (2, 4, 8, 16):
            yield {"section": section, "case": "standard", "size": "tiny", "layers": layers}
    else:
        for m, n in SINGULAR_SHAPES if section == "singular" else SPECTRUM_SHAPES:
            yield {"section": section, "case": f"{m} x {n}", "shape": [m, n]}


SECTIONS = ("ratios", "spectrum", "singular", "depth", "width")


class HighWater:
    """The largest resident memory of this process since the last look, in bytes."""

    def look(self) -> int:
        """Return it and start again from what is resident now."""
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        return 1024 * int(line.split()[1])


def settings(detail: str) -> Settings:
    """The command's defaults at a level of detail."""
    return Settings(batch_size=8, batches=8, detail=detail, steps=EFFORTS[detail].steps)


def measure_plain(case: Row) -> Row:
    """Time passes alone, then training steps with AdamW; the peak of each."""
    session = Session(load_target(TARGET, {"size": case["size"]}), settings("standard"))
    model, batches = session.build_on_device(), session.batches()
    session.forward_backward(model, session.place(next(batches)))
    memory = HighWater()
    memory.look()
    pass_s = []
    for _ in range(PLAIN_PASSES):
        batch = session.place(next(batches))
        begin_s = time.perf_counter()
        session.forward_backward(model, batch)
        pass_s.append(time.perf_counter() - begin_s)
    pass_peak_bytes = memory.look()
    optimizer = create(BASELINE, model, lr=1e-3)
    for _ in range(2):
        session.forward_backward(model, session.place(next(batches)))
        optimizer.step()
    return {
        "pass_s": pass_s,
        "pass_peak_bytes": pass_peak_bytes,
        "training_peak_bytes": memory.look(),
    }


def measure_profile(case: Row) -> Row:
    """Run the profile as the command does, looking at the clock and the memory where a stage begins."""
    memory = HighWater()
    stages: list[Row] = []
    begin_s = time.perf_counter()

    def follow(progress: Progress) -> None:
        if not stages or stages[-1]["stage"] != progress.stage:
            close()
            stages.append({"stage": progress.stage, "begin_s": time.perf_counter() - begin_s})
        stages[-1]["total"] = progress.total

    def close() -> None:
        peak_bytes = memory.look()
        if stages:
            stages[-1]["peak_bytes"] = peak_bytes

    target = load_target(TARGET, {"size": case["size"]})
    found = run_profile(target, settings(case["case"]), progress=follow)
    close()
    return {
        "total_s": time.perf_counter() - begin_s,
        "spent": {item.on: item.seconds for item in found.spent},
        "passes": found.passes,
        "stages": stages,
        "missing": found.missing,
    }


def measure_curve(case: Row) -> Row:
    """Measure the matrices of a decoder on two batches of one window, without the profile's other stages."""
    example = load_example("llama_bytes")
    shape = example.SIZES[case["size"]]
    shape = shape._replace(layers=case["layers"] or shape.layers)
    torch.manual_seed(0)
    model = example.Llama(shape, example.CONTEXT, example.BYTE_VALUES).train()
    stream = iter(example.batches(1))
    batches = [next(stream) for _ in range(2)]
    ranks = {
        name: shape.hidden // 4
        for name, parameter in model.named_parameters()
        if name.startswith("layers.") and parameter.ndim == 2
    }
    example.loss(model, batches[0]).backward()
    watch = Stopwatch()
    stale = {}
    if case["case"] == "standard":

        def step() -> None:
            model.zero_grad()
            example.loss(model, next(stream)).backward()
            watch.passes += 1

        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        stale = follow_subspaces(
            model,
            ranks,
            step,
            optimizer,
            steps=CURVE_STEPS,
            cap_bytes=2**32,
            watch=watch,
            on_step=lambda done, total: None,
        ).stale
    measured = measure_layers(
        model,
        example.loss,
        batches,
        ranks,
        detail=case["case"],
        group_bytes=2**28,
        stale=stale,
        watch=watch,
    )
    count = sum(layer.spectrum is not None for layer in measured)
    return {
        "hidden": shape.hidden,
        "blocks": shape.layers,
        "matrices": count,
        "passes": watch.passes,
        "seconds": dict(watch.seconds),
    }


def measure_spectrum(case: Row) -> Row:
    """Time the exact spectrum of one gradient, the sketch, and a linear layer of its shape forward and backward."""
    m, n = case["shape"]
    generator = torch.Generator().manual_seed(0)
    G = decaying(m, n, generator)
    inputs = torch.randn(TOKENS, n, generator=generator).requires_grad_()
    weight = torch.randn(m, n, generator=generator).requires_grad_()
    upstream = torch.randn(TOKENS, m, generator=generator)
    repeats = 5 if m < 1500 else 3
    contenders: dict[str, Callable[[], Any]] = {
        "exact_s": lambda: energies(G),
        "sketch_s": lambda: sketched_energies(G, sketch_rank(m)),
        "layer_s": lambda: torch.nn.functional.linear(inputs, weight).backward(upstream),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            times[name].append(seconds(run))
    exact, sketch = energies(G), sketched_energies(G, sketch_rank(m))
    error = {r: energy_at_rank(exact, m // r) - energy_at_rank(sketch, m // r) for r in (16, 8, 4)}
    return {**times, "energy_error": error}


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of a call."""
    begin_s = time.perf_counter()
    run()
    return time.perf_counter() - begin_s


MEASURE = {
    "spectrum": measure_spectrum,
    "singular": measure_singular_values,
    "depth": measure_curve,
    "width": measure_curve,
}


def measure(case: Row) -> Row:
    """Run one case in this process."""
    if case["section"] == "ratios":
        return measure_plain(case) if case["case"] == "plain" else measure_profile(case)
    return MEASURE[case["section"]](case)


def in_child(case: Row, threads: int) -> Row:
    """Run one case in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(threads), "--child", json.dumps(case)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    row: Row = json.loads(done.stdout)
    return row


def read_rows(path: Path) -> list[Row]:
    """Every case measured so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def is_done(case: Row, rows: list[Row]) -> bool:
    """Tell whether a row holds this case."""
    return any(row["case"] == case for row in rows)


def run_missing(path: Path, sections: list[str], size: str, threads: int) -> None:
    """Run the cases that the file lacks, adding each as it is done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for case in cases(section, size):
            if is_done(case, read_rows(path)):
                continue
            begin_s = time.perf_counter()
            row = {"case": case, "result": in_child(case, threads), "conditions": conditions()}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{time.perf_counter() - begin_s:6.1f} s  {case}", flush=True)


def main() -> None:
    """Measure what is missing, and render."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--section", choices=SECTIONS, action="append")
    parser.add_argument("--size", default="60m", help="of the model whose ratios are taken")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=RESULTS / f"{NAME}.jsonl")
    parser.add_argument(
        "--fresh", action="store_true", help="forget what was measured of these sections"
    )
    parser.add_argument("--render", action="store_true", help="write the report, measure nothing")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        with redirect_stdout(sys.stderr):
            row = measure(json.loads(arguments.child))
        print(json.dumps(row))
        return
    sections = arguments.section or list(SECTIONS)
    if arguments.fresh:
        kept = [
            row for row in read_rows(arguments.output) if row["case"]["section"] not in sections
        ]
        arguments.output.write_text("".join(json.dumps(row) + "\n" for row in kept))
    if not arguments.render:
        run_missing(arguments.output, sections, arguments.size, arguments.threads)
    from render import profile as render_profile

    render_profile.write(arguments.output)


if __name__ == "__main__":
    main()
