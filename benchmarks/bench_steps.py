"""Optimizer steps of every method and of other implementations, in turns: how far from what cannot be avoided?

    make bench-steps                                  # the 60m matrices, with the peers
    python benchmarks/bench_steps.py --size 130m --layers 2
    python benchmarks/bench_steps.py --only fast --rounds 8
    python benchmarks/bench_steps.py --device cuda --size 350m

Everything in a group takes one step each, round after round: whatever else the machine does falls on all alike.
Ordinary steps and those that refresh a basis are told apart; so is the first one. Between them, the products that a
method cannot avoid are done alone. The result file keeps every size that was measured and every single time.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common.bounds import BOUNDS, Traffic, Unavoidable
from common.conditions import RESULTS, conditions
from common.contenders import PERIOD, Contender, Entry, ours
from common.llama import Shape, gradients, layer_shapes, widths
from common.peers import (
    BNB_LION,
    FOREACH,
    FUSED,
    FUSED_LOOKING,
    GALORE_TORCH,
    HEAVYBALL_SOAP,
    OTHERS,
    PO_ADAFACTOR,
    PO_ADAFACTOR_NOMOM,
    PO_GALORE,
    PO_LION,
    PO_SHAMPOO,
    PO_SOAP,
    TORCH,
    versions,
)
from common.timing import elapsed_ms
from common.trained import trained_gradients
from render import steps as render_steps

FAST, SPIKES = "fast", "spikes"
# Sizes whose layers are trained for a few steps to have gradients.
TRAINED = ("tiny", "60m", "130m", "350m")
GRADIENT_SETS = 3
# Enough steps for one refresh after the first.
MIN_ROUNDS = PERIOD + 1
# Steps in which a staggered refresh shows its spikes, and how many times each is taken.
SPIKE_STEPS, REPLICAS = 60, 3

AUTOENCODER = [784, 1000, 500, 250, 30, 250, 500, 1000, 784]


@dataclass(frozen=True)
class Group:
    """Contenders that are compared with each other.

    Attributes:
        name: Its id.
        title: What it compares.
        shapes: The matrices, for a group of its own shapes; else those of the size.
        layers: Layers taken of a size, no more than it has.
        seconds: The time after which no new round begins.
        entries: Ours and others'; torch's AdamW, foreach and fused, is in every group.
        bounds: The methods whose unavoidable work is timed alone.
    """

    name: str
    title: str
    entries: Sequence[Entry]
    bounds: Sequence[str] = ()
    layers: int = 2
    shapes: Sequence[Shape] = field(default=())
    seconds: float = 70.0


def fast() -> Group:
    """Methods whose step is a few products at most."""
    warm, reduced = {"solver": "power"}, {"solver": "power", "rotations": "reduced"}
    entries = [
        ours("adamw"),
        TORCH[FUSED_LOOKING],
        ours("lion"),
        OTHERS[PO_LION],
        OTHERS[BNB_LION],
        ours("momentum"),
        ours("adafactor"),
        OTHERS[PO_ADAFACTOR],
        ours("adafactor-nomom"),
        OTHERS[PO_ADAFACTOR_NOMOM],
        TORCH["Adafactor"],
        ours("adafactor-torch"),
        ours("hfac"),
        ours("galore", solver="exact"),
        ours("galore", "galore, warm-started", **warm),
        ours("galore", "galore, reduced rotations", **reduced),
        OTHERS[GALORE_TORCH],
        OTHERS[PO_GALORE],
        OTHERS["APOLLO, apollo-torch"],
        ours("osd"),
        ours("adadiag", solver="exact"),
        ours("adadiag", "adadiag, warm-started", **warm),
        ours("adadiag", "adadiag, reduced rotations", **reduced),
        ours("adamw-8bit"),
        OTHERS["AdamW 8-bit, bitsandbytes"],
        OTHERS["AdamW 8-bit, torchao"],
    ]
    return Group(
        FAST, "A few products at most", entries, ("galore", "osd", "adadiag", "hfac"), layers=8,
        seconds=240,
    )  # fmt: skip


def slow() -> Group:
    """Methods in two bases or with whole preconditioners."""
    entries = [
        ours("adadiag++"),
        ours("soap"),
        ours("soap", "soap, reduced rotations", rotations="reduced"),
        OTHERS[PO_SOAP],
        OTHERS[HEAVYBALL_SOAP],
        ours("soap-one-sided"),
        ours("shampoo", start_step=1),
        OTHERS[PO_SHAMPOO],
        ours("sketchy", start_step=1),
        ours("shared-basis"),
        ours("muon"),
        TORCH["Muon"],
    ]
    return Group(
        "slow", "Two bases, whole preconditioners", entries, ("adadiag++", "soap", "soap-one-sided")
    )


def preconditioners(block_size: int) -> list[Entry]:
    """The four methods of "Block Low-Rank Preconditioner with Shared Basis", at its settings."""
    return [
        ours("shampoo", start_step=1, block_size=block_size),
        ours("sketchy", start_step=1, rank=256, block_size=1024),
        ours("shared-basis", rank=32),
        ours("block-adam", block_size=8),
    ]


def paper_groups() -> list[Group]:
    """The matrices of that paper's two benchmarks: the autoencoder, and one layer of its transformer."""
    autoencoder = list(zip(AUTOENCODER[1:], AUTOENCODER[:-1], strict=True))
    transformer = [(512, 512)] * 4 + [(2048, 512), (512, 2048)]
    return [
        Group(name, title, preconditioners(block_size), shapes=shapes, seconds=25)
        for name, title, shapes, block_size in (
            ("autoencoder", "The autoencoder of Yen et al. 2023", autoencoder, 1000),
            ("transformer", "A layer of the transformer of Yen et al. 2023", transformer, 1024),
        )
    ]


GROUPS = {group.name: group for group in (fast(), slow(), *paper_groups())}


def measure_group(group: Group, pool: list[list[torch.Tensor]], rounds: int) -> dict[str, Any]:
    """Interleave a warm-up step and up to `rounds` timed ones of every contender."""
    weights = weights_like(pool[0])
    running: list[Contender | Unavoidable | Traffic] = []
    missing = []
    for entry in (TORCH[FOREACH], TORCH[FUSED], *group.entries):
        try:
            contender = Contender.of(entry, weights)
            contender.step(pool[0], index=0)
            running.append(contender)
            print(f"  {entry.name}: first step {contender.first_ms:.0f} ms", flush=True)
        except Exception as error:  # whatever a foreign package does, the others are measured
            missing.append({"name": entry.name, "why": f"{type(error).__name__}: {error}"})
            print(f"  {entry.name}: {missing[-1]['why'][:200]}", flush=True)
    for name in group.bounds:
        bound = Traffic(weights) if name == "hfac" else Unavoidable.of(BOUNDS[name], weights)
        bound.step(pool[0], index=0)
        running.append(bound)
    begin_s = time.perf_counter()
    for index in range(1, rounds + 1):
        for contender in running:
            contender.step(pool[index % len(pool)], index)
        if index >= MIN_ROUNDS and time.perf_counter() - begin_s > group.seconds:
            break
    gc.collect()
    return {
        "name": group.name,
        "title": group.title,
        "shapes": [tuple(weight.shape) for weight in weights],
        "rounds": index,
        "rows": [c.row() for c in running if isinstance(c, Contender)],
        "bounds": [c.row() for c in running if not isinstance(c, Contender)],
        "missing": missing,
    }


def weights_like(gradients_: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Fresh weights of these shapes."""
    torch.manual_seed(0)
    return [torch.randn_like(gradient).mul_(0.02) for gradient in gradients_]


def pool_of(shapes: Sequence[Shape], size: str, layers: int) -> list[list[torch.Tensor]]:
    """The gradients that the steps take in turns: of a LLaMA in training, or made up for other shapes."""
    if shapes or size not in TRAINED:
        return gradients(list(shapes or layer_shapes(size) * layers), GRADIENT_SETS)
    return [list(kept.values()) for kept in trained_gradients(size, layers, GRADIENT_SETS)]


def measure_spikes(pool: list[list[torch.Tensor]]) -> dict[str, Any]:
    """Time every step of GaLore with staggered refreshes: of each the shortest of three, so that noise is no spike."""
    weights = weights_like(pool[0])
    entry = ours("galore", "galore, staggered", stagger=True, period=200)
    replicas = [Contender.of(entry, weights) for _ in range(REPLICAS)]
    steps_ms = []
    for index in range(SPIKE_STEPS + 1):
        taken_ms = []
        for contender in replicas:
            for parameter, gradient in zip(
                contender.parameters, pool[index % len(pool)], strict=True
            ):
                parameter.grad = gradient.clone()
            taken_ms.append(elapsed_ms(contender.optimizer.step, pool[0][0].device))
        steps_ms.append(min(taken_ms))
    return {"name": entry.name, "first_ms": steps_ms[0], "steps_ms": steps_ms[1:]}


def measure(arguments: argparse.Namespace, save: Callable[[dict[str, Any]], None]) -> None:
    """Measure the chosen groups of one size, saving each as it is done."""
    device = torch.device(arguments.device)
    all_layers = widths(arguments.size)[2]
    pools: dict[Any, list[list[torch.Tensor]]] = {}
    for name in arguments.only or [*GROUPS, SPIKES]:
        group = GROUPS[FAST if name == SPIKES else name]
        layers = min(arguments.layers or group.layers, all_layers)
        begin_s = time.perf_counter()
        key = (tuple(group.shapes), layers)
        if key not in pools:
            drawn = pool_of(group.shapes, arguments.size, layers)
            pools[key] = [[G.to(device) for G in gradient_set] for gradient_set in drawn]
        measured: dict[str, Any] = {"size": arguments.size, "groups": []}
        if name == SPIKES:
            measured[SPIKES] = measure_spikes(pools[key])
        else:
            found = measure_group(group, pools[key], arguments.rounds)
            found["layers"] = None if group.shapes else layers
            measured["groups"].append(found)
        save(measured)
        print(f"{name}: {time.perf_counter() - begin_s:.0f} s", flush=True)


def merged(path: Path, measured: dict[str, Any]) -> dict[str, Any]:
    """What the file holds, with this size's groups in the place of those measured before."""
    result: dict[str, Any] = {"sizes": {}}
    if path.exists():
        result = json.loads(path.read_text(encoding="utf-8"))
    measured = json.loads(json.dumps(measured))
    before = result["sizes"].get(measured["size"], {"groups": []})
    new = {group["name"] for group in measured["groups"]}
    kept = [group for group in before["groups"] if group["name"] not in new]
    groups = sorted(kept + measured["groups"], key=lambda group: list(GROUPS).index(group["name"]))
    result["sizes"][measured["size"]] = {**before, **measured, "groups": groups}
    return result


def arguments_of(command_line: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size", default="60m", choices=("tiny", "60m", "130m", "350m", "1b", "7b")
    )
    parser.add_argument("--layers", type=int, help="of the size, in the place of each group's own")
    parser.add_argument("--only", action="append", choices=(*GROUPS, SPIKES))
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="the .json; the report goes beside it")
    parser.add_argument("--render", action="store_true", help="write the report, measure nothing")
    return parser.parse_args(command_line)


def main(command_line: Sequence[str]) -> None:
    """Measure and render, or render alone."""
    arguments = arguments_of(command_line)
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    path = arguments.output or RESULTS / f"steps_{arguments.device}_202611.json"

    def save(measured: dict[str, Any]) -> None:
        about = {
            "command": shlex.join(["python", "benchmarks/bench_steps.py", *command_line]),
            "conditions": {**conditions(), "load": os.getloadavg()[0], **versions()},
        }
        for group in [*measured["groups"], measured.get(SPIKES, {})]:
            group.update(about)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(merged(path, measured)) + "\n", encoding="utf-8")

    if not arguments.render:
        measure(arguments, save)
    report = render_steps.write(path)
    print(report)


if __name__ == "__main__":
    main(sys.argv[1:])
