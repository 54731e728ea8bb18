"""Why some lines of the goal do not hold: what was tried instead, timed in turns with what is done.

    make bench-reasons
    python benchmarks/bench_reasons.py --rounds 3

Every comparison stands by itself; its first contender is what the others are divided by.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from bench_steps import AUTOENCODER
from common.conditions import RESULTS, conditions
from common.contenders import LR, Contender, ours
from common.llama import Shape, gradients, layer_shapes
from common.timing import elapsed_ms, median, ratio, shown, shown_ms
from common.verdicts import table
from torch import Tensor

from subopt.optimizers import METHODS
from subopt.optimizers.bases.decompositions import left_basis
from subopt.optimizers.updates.elementwise import hfac

CPU = torch.device("cpu")
LAYERS, RANK = 8, 128
Runs = dict[str, Callable[[], Any]]


def batching() -> Iterator[tuple[str, Runs]]:
    """Equal shapes of eight layers: one by one, or gathered into one batch and scattered again."""
    (gathered,) = gradients([(512, 512)] * LAYERS, sets=1)
    bases = [left_basis(G, RANK).to(G.dtype) for G in gathered]
    grams = [G @ G.mT for G in gathered]
    kernels: dict[str, tuple[list[Tensor], Callable[[Tensor], Tensor]]] = {
        "eigh, 512 x 512": (grams, lambda C: torch.linalg.eigh(C)[1]),
        "QR, 512 x 128": (bases, lambda P: torch.linalg.qr(P)[0]),
    }
    yield (
        "Eight products, 128 x 512 by 512 x 512",
        {
            "one by one": lambda: [P.mT @ G for P, G in zip(bases, gathered, strict=True)],
            "as a batch": lambda: torch.bmm(torch.stack(bases).mT, torch.stack(gathered)).unbind(),
        },
    )
    for name, (matrices, run) in kernels.items():
        yield (
            f"Eight times {name}",
            {
                "one by one": lambda run=run, matrices=matrices: [run(X) for X in matrices],
                "as a batch": lambda run=run, matrices=matrices: run(
                    torch.stack(matrices)
                ).unbind(),
            },
        )


def refreshes_on_noise() -> Iterator[tuple[str, Runs]]:
    """GaLore's bases of a layer where no float64 is needed: all eigenvalues of white noise are alike."""
    shapes = [tuple(sorted(shape)) for shape in layer_shapes("60m")]
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
    yield (
        "Bases of rank 128 of white noise, the seven matrices of a layer of 60m",
        {
            "left_basis": lambda: [left_basis(G, RANK) for G in noise],
            "torch.linalg.svd, thin": lambda: [
                torch.linalg.svd(G, full_matrices=False) for G in noise
            ],
        },
    )


def preconditioning_every_step() -> Iterator[tuple[str, Runs]]:
    """Shared basis beside a Shampoo whose roots are as fresh as its own."""
    shapes: list[Shape] = list(zip(AUTOENCODER[1:], AUTOENCODER[:-1], strict=True))
    (pool,) = gradients(shapes, sets=1)
    contenders = [
        Contender.of(entry, [torch.zeros_like(G) for G in pool])
        for entry in (
            ours("shared-basis", rank=32),
            ours("shampoo", start_step=1, block_size=1000, period=1),
        )
    ]
    yield (
        "A step on the autoencoder's matrices, both preconditioners anew at every step",
        {
            contender.entry.name: lambda contender=contender: contender.step(pool, 1)
            for contender in contenders
        },
    )


def compiling() -> Iterator[tuple[str, Runs]]:
    """Hfac's update and descent by torch.compile, made for one t, on the matrices of eight layers."""
    (pool,) = gradients(layer_shapes("60m") * LAYERS, sets=1)
    hyper = METHODS["hfac"].resolve({})

    def step(W: Tensor, G: Tensor, state: dict[str, Tensor]) -> None:
        W.sub_(hfac(G, state, 1000, hyper), alpha=LR)

    def all_of(run: Callable[..., None]) -> Callable[[], None]:
        kept = [
            (torch.zeros_like(G), G, {
                name: torch.ones(G.shape[0] if name.startswith("row") else G.shape[1])
                for name in ("row_sq", "col_sq", "row_avg", "col_avg")
            })
            for G in pool
        ]  # fmt: skip

        def run_all() -> None:
            for W, G, state in kept:
                run(W, G, state)

        return run_all

    yield (
        "Hfac's update of eight layers of 60m",
        {
            "torch's operations": all_of(step),
            "torch.compile": all_of(torch.compile(step, dynamic=False)),
        },
    )


COMPARISONS = (batching, refreshes_on_noise, preconditioning_every_step, compiling)


def measure(rounds: int) -> list[dict[str, Any]]:
    """Time every comparison's contenders in turns, after a round that is not counted."""
    found = []
    for comparison in COMPARISONS:
        for title, runs in comparison():
            times: dict[str, list[float]] = {name: [] for name in runs}
            for index in range(rounds + 1):
                for name, run in runs.items():
                    taken_ms = elapsed_ms(run, CPU)
                    if index > 0:
                        times[name].append(taken_ms)
            found.append({"title": title, "about": comparison.__doc__, "ms": times})
            print(title, flush=True)
    return found


def render(result: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# What was tried where a line does not hold",
        "",
        "Written by `benchmarks/bench_reasons.py`; every single time is in the `.json` beside this file. Float32; "
        "medians in ms, quartiles in brackets, of contenders that took turns.",
        "",
    ]
    for comparison in result["comparisons"]:
        reference = median(next(iter(comparison["ms"].values())))
        cells = [
            [name, shown_ms(times), shown(ratio(median(times), reference))]
            for name, times in comparison["ms"].items()
        ]
        lines += [f"## {comparison['title']}", "", comparison["about"], ""]
        lines += table(("contender", "ms", "by the first"), cells)
    about = ", ".join(f"{name} {value}" for name, value in result["conditions"].items())
    return "\n".join([*lines, f"`{result['command']}`: {about}.", ""])


def main(command_line: Sequence[str]) -> None:
    """Measure and render, or render alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="the .json; the report goes beside it")
    parser.add_argument("--render", action="store_true", help="write the report, measure nothing")
    arguments = parser.parse_args(command_line)
    torch.set_num_threads(arguments.threads)
    path = arguments.output or RESULTS / "reasons_cpu_202611.json"
    if not arguments.render:
        result = {
            "command": shlex.join(["python", "benchmarks/bench_reasons.py", *command_line]),
            "comparisons": measure(arguments.rounds),
            "conditions": conditions(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result) + "\n", encoding="utf-8")
    report = path.with_suffix(".md")
    report.write_text(render(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main(sys.argv[1:])
