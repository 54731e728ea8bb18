"""Simulated memory of a training step against torch's own tracker on real tensors, and how large models take.

    OMP_NUM_THREADS=2 python benchmarks/bench_memory.py             # everything; minutes
    OMP_NUM_THREADS=2 python benchmarks/bench_memory.py compare     # the first table alone

The first table: three examples and two Hugging Face architectures with real tensors on the CPU, AdamW, fp32. Peaks of
each phase by `torch.distributed._tools.mem_tracker.MemTracker` and by our simulation, which allocates nothing.
The second: `subopt profile --simulate` of LLaMA with 7 and 70 billion parameters, all methods: seconds, and the most
memory the process had.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common.conditions import RESULTS, ROOT, conditions, load_example
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._pytree import tree_leaves

from subopt.optimizers import create
from subopt.profilers.memory.phases import simulated_peak
from subopt.profilers.memory.simulation import SimulatedModel

PHASES = ("forward", "backward", "step")
OUTPUT = RESULTS / "memory_cpu_202611"
CPU = torch.device("cpu")


class Case(NamedTuple):
    """A model, a batch and a loss."""

    name: str
    build: Callable[[], nn.Module]
    batch: Any
    loss: Callable[[nn.Module, Any], Tensor]


def cases() -> Iterator[Case]:
    """The three examples with small arguments, and two architectures of transformers with random weights."""
    small = {
        "autoencoder_digits": ({}, 256),
        "convnet_digits": ({"width": 8}, 64),
        "llama_bytes": ({"size": "tiny"}, 4),
    }
    for name, (arguments, batch_size) in small.items():
        example = load_example(name)
        loss = getattr(example, "loss", lambda model, batch: model(batch))
        batch = next(iter(example.batches(batch_size)))
        yield Case(name, lambda e=example, a=arguments: e.build_model(**a), batch, loss)
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    gpt2 = GPT2Config(vocab_size=500, n_positions=64, n_embd=64, n_layer=3, n_head=4)
    llama = LlamaConfig(
        vocab_size=500,
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    tokens = torch.randint(500, (4, 64), generator=torch.Generator().manual_seed(0))
    yield Case("GPT2LMHeadModel", lambda: GPT2LMHeadModel(gpt2), tokens, causal_loss)
    yield Case("LlamaForCausalLM", lambda: LlamaForCausalLM(llama), tokens, causal_loss)


def causal_loss(model: Any, tokens: Tensor) -> Tensor:
    """Next-token cross-entropy, as transformers computes it."""
    result: Tensor = model(input_ids=tokens, labels=tokens).loss
    return result


def tracked(case: Case) -> dict[str, int]:
    """Return the peak bytes of each phase of the second AdamW step, by MemTracker, on real tensors."""
    model = case.build().train()
    optimizer = create("adamw", model)
    tracker = MemTracker()
    tracker.track_external(model, *tree_leaves(case.batch))
    peaks: dict[str, int] = {}

    def begin() -> None:
        # its peak is one for all time: forgotten at every phase, so that the next operation sets it
        tracker._peak_mem[CPU] = 0

    def end(phase: str) -> None:
        peaks[phase] = tracker._peak_mem[CPU]

    with tracker:
        for _ in range(2):
            begin()
            loss = case.loss(model, case.batch)
            end("forward")
            begin()
            loss.backward()
            end("backward")
            del loss
            begin()
            optimizer.step()
            end("step")
            optimizer.zero_grad()
            tracker.reset_mod_stats()
    return peaks


def compare(case: Case) -> list[dict[str, Any]]:
    """Return a row for each phase and for the peak."""
    followed = SimulatedModel(lambda: case.build().train(), case.batch, case.loss)
    peak = simulated_peak(followed.peaks, followed.step_peaks("adamw", {}), 0)
    simulated = {phase: getattr(peak.by_phase, phase) for phase in PHASES}
    real = tracked(case)
    simulated["peak"], real["peak"] = peak.bytes, max(real.values())
    return [
        {
            "model": case.name,
            "phase": phase,
            "simulated_bytes": simulated[phase],
            "tracked_bytes": real[phase],
            "ratio": simulated[phase] / real[phase],
        }
        for phase in (*PHASES, "peak")
    ]


def simulate_large(size: str) -> dict[str, Any]:
    """Run the command on a large LLaMA in a process of its own; return its seconds, memory and peaks."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "profile.json")
        command = [sys.executable, "-m", "subopt", "profile", "benchmarks/models/llama_hf.py"]
        command += [f"size={size}", "--simulate", "--batch-size", "1", "-o", str(output)]
        begin_s = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - begin_s
        if status != 0:
            raise RuntimeError(f"{shlex.join(command)} ended with {status}")
        profile = json.loads(output.read_text(encoding="utf-8"))
    rows = {row["method"]: row["peak"]["by_phase"] for row in profile["methods"]}
    return {
        "model": f"LLaMA {size}",
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "resident_bytes": usage.ru_maxrss * 1024,
        "load": os.getloadavg()[0],
        "methods": len(rows),
        "missing": profile["missing"],
        "peaks": rows,
    }


def rendered(result: dict[str, Any]) -> str:
    """Return the result as a page."""
    lines = [
        "# Memory: simulated against tracked, and large models",
        "",
        "Written by `benchmarks/bench_memory.py`; the numbers are in the .json beside it.",
        "",
        f"Command: `{result['command']}`. "
        + ", ".join(f"{k} {v}" for k, v in result["conditions"].items()),
        "",
        "## A step of AdamW in fp32, on real tensors (MemTracker) and simulated",
        "",
        "| model | phase | simulated, bytes | MemTracker, bytes | ratio |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row['model']} | {row['phase']} | {row['simulated_bytes']:,} | {row['tracked_bytes']:,} | "
        f"{row['ratio']:.4f} |"
        for row in result["compared"]
    ]
    if result["large"]:
        lines += [
            "",
            "## `subopt profile benchmarks/models/llama_hf.py --simulate --batch-size 1`, all methods",
            "",
            "Random weights, 2048 tokens, fp32. Load: processes waiting for the machine's cores, ours among them.",
            "",
            "| model | wall, s | CPU, s | resident, GiB | load | methods with peaks by phase |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {row['model']} | {row['wall_s']:.0f} | {row['cpu_s']:.0f} | "
            f"{row['resident_bytes'] / 2**30:.2f} | {row['load']:.1f} | {row['methods']} |"
            for row in result["large"]
        ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Measure and write both files."""
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/bench_memory.py", *arguments]),
        "conditions": conditions(),
        "compared": [row for case in cases() for row in compare(case)],
        "large": [],
    }
    for row in result["compared"]:
        print(f"{row['model']:20} {row['phase']:9} {row['ratio']:.4f}")
    if arguments != ["compare"]:
        for size in ("7b", "70b"):
            result["large"].append(simulate_large(size))
            print({k: v for k, v in result["large"][-1].items() if k != "peaks"})
    OUTPUT.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    OUTPUT.with_suffix(".md").write_text(rendered(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
