"""How costs grow: steps, refreshes, state and the spectrum of a gradient, against width and against depth.

    make bench-curves
    python benchmarks/bench_curves.py --widths 256 512 --depths 1 2

Width: one square matrix. Depth: layers of LLaMA 60m. Contenders of a point take turns; one that would take more than a
minute at the next width is not taken there. Slopes in double logarithms stand beside the theory's.
"""

import argparse
import gc
import json
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from common.conditions import RESULTS, conditions
from common.contenders import Contender, Entry, ours
from common.llama import Shape, gradients, layer_shapes
from common.peers import FUSED, TORCH
from common.timing import elapsed_ms
from render import curves as render_curves
from torch import Tensor

from subopt.profilers.gradients.spectrum import energies, sketch_rank, sketched_energies

WIDTHS = (256, 512, 1024, 2048, 4096)
DEPTHS = (1, 2, 4, 8, 16)
# A point takes at least so many rounds, one of them with a refresh, and no more once the time is up.
ROUNDS, LEAST_ROUNDS, POINT_S = 11, 6, 25
# What a method may take for a point at twice the width, where everything takes eight times as long.
AFFORDED_S = 60
SPECTRA: dict[str, Callable[[Tensor], Tensor]] = {
    "spectrum, exact": energies,
    "spectrum, sketched": lambda G: sketched_energies(G, sketch_rank(min(G.shape))),
}
Row = dict[str, Any]


def entries() -> list[Entry]:
    """One method of every kind of cost."""
    return [
        TORCH[FUSED],
        ours("adamw"),
        ours("lion"),
        ours("adafactor"),
        ours("hfac"),
        ours("galore"),
        ours("osd"),
        ours("adadiag"),
        ours("soap"),
        ours("shampoo", start_step=1),
    ]


def measure_point(shapes: Sequence[Shape], chosen: Sequence[Entry], device: torch.device) -> Row:
    """Interleaved steps of the chosen entries on these matrices."""
    pool = [[G.to(device) for G in drawn] for drawn in gradients(list(shapes), sets=2)]
    weights = [torch.randn_like(G).mul_(0.02) for G in pool[0]]
    running = [Contender.of(entry, weights) for entry in chosen]
    begin_s = time.perf_counter()
    for index in range(ROUNDS + 1):
        for contender in running:
            contender.step(pool[index % 2], index)
        if index >= LEAST_ROUNDS and time.perf_counter() - begin_s > POINT_S:
            break
    row = {"steps": [contender.row() for contender in running], "rounds": index}
    del running, weights
    gc.collect()
    return row


def measure_spectra(shape: Shape, device: torch.device) -> dict[str, list[float]]:
    """Time of the profile's spectra of one gradient."""
    ((G,),) = gradients([shape], sets=1)
    G = G.to(device)
    times: dict[str, list[float]] = {name: [] for name in SPECTRA}
    for _ in range(5 if shape[0] <= 1024 else 2):
        for name, run in SPECTRA.items():
            times[name].append(elapsed_ms(lambda run=run: run(G), device))
    return times


def measure_widths(widths: Sequence[int], device: torch.device) -> list[Row]:
    """Every width in turn, without those who were too slow at the one before."""
    chosen, rows = entries(), []
    for width in widths:
        row = measure_point([(width, width)], chosen, device)
        spectra = measure_spectra((width, width), device)
        rows.append({"width": width, **row, "spectra": spectra})
        affordable = {step["name"] for step in row["steps"] if at_twice_s(step) < AFFORDED_S}
        chosen = [entry for entry in chosen if entry.name in affordable]
        print(f"width {width}: {len(row['steps'])} methods", flush=True)
    return rows


def at_twice_s(step: Row) -> float:
    """Seconds of the least that is measured of a method, at twice the width of this row."""
    ordinary, refresh = (max(step[what] or [0.0]) for what in ("ordinary_ms", "refresh_ms"))
    return 8 * (step["first_ms"] + refresh + LEAST_ROUNDS * ordinary) / 1e3


def measure_depths(depths: Sequence[int], device: torch.device) -> list[Row]:
    """Layers of 60m, all methods up to four of them, then those of a few products."""
    rows = []
    for depth in depths:
        slow = {"soap", "shampoo"} if depth > 4 else set()
        chosen = [entry for entry in entries() if entry.name not in slow]
        row = measure_point(layer_shapes("60m") * depth, chosen, device)
        rows.append({"layers": depth, **row})
        print(f"{depth} layers: {len(row['steps'])} methods", flush=True)
    return rows


def main(command_line: Sequence[str]) -> None:
    """Measure and render, or render alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    parser.add_argument("--depths", type=int, nargs="*", default=DEPTHS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="the .json; the report goes beside it")
    parser.add_argument("--pictures", type=Path, default=render_curves.DOCS, help="their folder")
    parser.add_argument("--render", action="store_true", help="write the report, measure nothing")
    arguments = parser.parse_args(command_line)
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    path = arguments.output or RESULTS / f"curves_{arguments.device}_202611.json"
    if not arguments.render:
        device = torch.device(arguments.device)
        result = {
            "command": shlex.join(["python", "benchmarks/bench_curves.py", *command_line]),
            "widths": measure_widths(arguments.widths, device),
            "depths": measure_depths(arguments.depths, device),
            "conditions": {**conditions(), "load": os.getloadavg()[0]},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(render_curves.write(path, arguments.pictures))


if __name__ == "__main__":
    main(sys.argv[1:])
