"""Time the optimizer step of every method beside torch's AdamW, on the matrices of one LLaMA-60M block.

    python benchmarks/bench_step.py --rounds 40
    python benchmarks/bench_step.py --render

All optimizers are built first, then take one step each, round after round: whatever else the machine
does falls on all of them alike. Steps that refreshed a basis are timed apart from ordinary ones.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, conditions, load_example, state_bytes
from torch import nn

from subopt.optimizers import METHODS, create

NAME = "step_cpu_202611"
LR = 1e-3
REFERENCE = "torch AdamW fused"


@dataclass
class Contender:
    """An optimizer with its own copy of the block, and the times of its steps so far.

    Attributes:
        name: As the report shows it.
        model: The block; its gradients are drawn anew before each step.
        optimizer: What is timed.
        period: Steps between two refreshes of a basis; None where there are none.
        ordinary_ms: Steps without a refresh.
        refresh_ms: Steps with one.
    """

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    period: int | None = None
    ordinary_ms: list[float] = field(default_factory=list)
    refresh_ms: list[float] = field(default_factory=list)

    def refreshes(self) -> int:
        """Bases refreshed so far, over all parameters."""
        return sum(int(state.get("refreshes", 0)) for state in self.optimizer.state.values())

    def step(self, seed: int) -> None:
        """Draw gradients, untimed, then take one timed step."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        before = self.refreshes()
        start = time.perf_counter()
        self.optimizer.step()
        elapsed_ms = 1e3 * (time.perf_counter() - start)
        chosen = self.refresh_ms if self.refreshes() > before else self.ordinary_ms
        chosen.append(elapsed_ms)


def build_block() -> nn.Module:
    """One decoder layer of the 60M LLaMA: four 512 x 512, two 1376 x 512, one 512 x 1376, two norms."""
    example = load_example("llama_bytes")
    torch.manual_seed(0)
    block: nn.Module = example.Block(example.SIZES["60m"])
    return block


def contenders() -> list[Contender]:
    """Every method with its defaults, after torch's own AdamW in its three forms."""
    forms: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
        REFERENCE: lambda model: torch.optim.AdamW(model.parameters(), lr=LR, fused=True),
        "torch AdamW foreach": lambda model: torch.optim.AdamW(
            model.parameters(), lr=LR, foreach=True
        ),
        "torch AdamW for-loop": lambda model: torch.optim.AdamW(
            model.parameters(), lr=LR, foreach=False
        ),
    }
    built = []
    for name, make in forms.items():
        model = build_block()
        built.append(Contender(name, model, make(model)))
    for name, method in METHODS.items():
        if (
            "needs_closure" in method.capabilities
        ):  # its step is not separable from the model's passes
            continue
        model = build_block()
        period = method.resolve({})["period"] if "refreshes" in method.capabilities else None
        built.append(Contender(name, model, create(name, model, lr=LR), period))
    return built


def summary(contender: Contender) -> dict[str, Any]:
    """Medians of one contender; its mean over a period where it refreshes."""
    refresh = statistics.median(contender.refresh_ms) if contender.refresh_ms else None
    ordinary = statistics.median(contender.ordinary_ms) if contender.ordinary_ms else None
    mean = ordinary
    if ordinary is not None and refresh is not None and contender.period:
        mean = ordinary + (refresh - ordinary) / contender.period
    return {
        "name": contender.name,
        "ordinary_ms": ordinary,
        "refresh_ms": refresh,
        "period": contender.period,
        "mean_ms": mean,
        "ordinary_steps": len(contender.ordinary_ms),
        "refresh_steps": len(contender.refresh_ms),
        "state_bytes": state_bytes(contender.optimizer),
        "ordinary_rows_ms": contender.ordinary_ms,
        "refresh_rows_ms": contender.refresh_ms,
    }


def measure(rounds: int) -> dict[str, Any]:
    """Interleave one warm-up step and `rounds` timed steps of every contender."""
    running = contenders()
    for contender in running:
        contender.step(seed=0)  # allocates the state
        # A first refresh is a refresh like any other; a first ordinary step is not like the others.
        contender.ordinary_ms.clear()
    for seed in range(1, rounds + 1):
        for contender in running:
            contender.step(seed)
    shapes = [tuple(p.shape) for p in running[0].model.parameters()]
    return {
        "rounds": rounds,
        "shapes": shapes,
        "conditions": conditions(),
        "rows": [summary(contender) for contender in running],
    }


def milliseconds(value: float | None) -> str:
    """Two digits after the point, or a dash for what did not happen."""
    return "–" if value is None else f"{value:.2f}"


def refresh_rhythm(row: dict[str, Any]) -> str:
    """How often a basis is decomposed: by its period, at the first step only, or never."""
    if row["period"] is not None:
        return f"{row['period']} steps"
    return "first step" if row["refresh_steps"] else "–"


def render(result: dict[str, Any]) -> str:
    """The report as Markdown."""
    reference = next(row["mean_ms"] for row in result["rows"] if row["name"] == REFERENCE)
    lines = [
        "# Optimizer step on the matrices of one LLaMA-60M block",
        "",
        f"Medians over {result['rounds']} interleaved rounds, defaults of every method, float32, "
        "random gradients. *mean over a period* spreads a refresh over the steps until the next; "
        f"*times* compares it with {REFERENCE} of the same run. Generated by "
        "`python benchmarks/bench_step.py --render`; every single time is in the `.json` beside it.",
        "",
        "| optimizer | ordinary ms | refresh ms | refreshed every | mean over a period ms | times | state MiB |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        times = "–" if row["mean_ms"] is None else f"{row['mean_ms'] / reference:.1f}"
        columns = [
            row["name"],
            milliseconds(row["ordinary_ms"]),
            milliseconds(row["refresh_ms"]),
            refresh_rhythm(row),
            milliseconds(row["mean_ms"]),
            times,
            f"{row['state_bytes'] / 2**20:.1f}",
        ]
        lines.append("| " + " | ".join(columns) + " |")
    lines += ["", ", ".join(f"{name} {value}" for name, value in result["conditions"].items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and render, or render alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS / f"{NAME}.json")
    parser.add_argument("--render", action="store_true", help="write the table, measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.render:
        result = measure(arguments.rounds)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    report = arguments.output.with_suffix(".md")
    report.write_text(
        render(json.loads(arguments.output.read_text(encoding="utf-8"))), encoding="utf-8"
    )
    print(f"wrote {report}")


if __name__ == "__main__":
    main()
