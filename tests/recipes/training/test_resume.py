"""Resumed is uninterrupted: weights, optimizer state, generators and losses bit for bit, for every kind of recipe."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from subopt.profilers.profile import run_profile
from subopt.profilers.record.profile import Contestant, Race, Settings, Trial
from subopt.profilers.target.load import load_target
from subopt.recipes.advice.advisor import recommend, to_recipe
from subopt.recipes.recipe.load import dump_recipe
from subopt.recipes.training.metrics import read_metrics

from ..running import Run, same_weights

MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.drop = nn.Dropout(dropout)
        self.back = nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.back(self.drop(torch.tanh(self.wide(self.norm(x)))))


class Net(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.embed = nn.Embedding(256, width)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(3))
        self.head = nn.Linear(width, 256, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def build_model(width: int = 8, dropout: float = 0.1):
    return Net(width, dropout)


def batches(batch_size):
    order = torch.randperm(64)
    for start in range(0, 64 - batch_size + 1, batch_size):
        ids = order[start : start + batch_size, None] + torch.arange(5)
        yield {"input_ids": ids, "labels": (ids * 3 + 1) % 256}


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["input_ids"]).flatten(0, -2), batch["labels"].flatten())
"""
RECIPE = """
model: {target: model.py}
data: {batch_size: 8}
optimizer: {method: adamw, lr: 1e-2}
schedule: {steps: 8, warmup_steps: 2}
checkpoint: {every: 3, keep: 5}
"""
TEXT = "\n\n".join(
    f"{number} times {number} is {number * number}, they say." for number in range(60)
)

# name: overrides; a package that is needed
RECIPES: dict[str, tuple[list[str], str | None]] = {
    "plain": ([], None),
    "accumulated": (["data.accumulate=3"], None),
    "overrides": (
        [
            "optimizer.method=galore",
            "optimizer.options={rank: 2, period: 3}",
            "optimizer.overrides=[{pattern: wide, method: soap, options: {period: 2}},"
            " {pattern: 'blocks.2', lr: 0.001}, {pattern: embed, method: frozen}]",
        ],
        None,
    ),
    "low-rank layers": (["optimizer.method=dlrt", "optimizer.options={rank: 6, tau: 0.2, settle_steps: 2}"], None),
    "galore-8bit": (
        ["optimizer.method=galore-8bit", "optimizer.options={rank: 40, period: 3}", "model.kwargs={width: 64}"],
        "torchao",
    ),
    "recomputed and fused": (["recompute=true", "fused_backward=true", "clip_norm=null"], None),
    "bf16-mixed": (["precision=bf16-mixed"], None),
    "text files": (["data.files={train: ['*.txt'], eval: [held.txt], sequence_length: 8}", "data.batch_size=2"], None),
    "text files, shuffled twice": (
        ["data.files={train: [short.txt], sequence_length: 8}", "data.batch_size=4", "data.accumulate=3"], None,
    ),
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "long.txt").write_text(TEXT)
    (tmp_path / "short.txt").write_text(TEXT[:700])
    (tmp_path / "held.txt").write_text(TEXT[::-1])
    return Run(tmp_path / "recipe.yaml")


def contents(value):
    """Return everything in a checkpoint's file as plain values, tensors as their bytes."""
    if isinstance(value, dict):
        return {key: contents(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [contents(inner) for inner in value]
    if isinstance(value, torch.Tensor):
        if hasattr(value, "__tensor_flatten__"):
            names, rest = value.__tensor_flatten__()
            return [
                type(value).__name__,
                str(rest),
                *(contents(getattr(value, name)) for name in names),
            ]
        plain = (
            value.contiguous().view(torch.uint8)
            if value.dim()
            else value.reshape(1).view(torch.uint8)
        )
        return [str(value.dtype), tuple(value.shape), plain.numpy().tobytes()]
    return value


def checkpoint_of(result):
    return {
        name: contents(torch.load(Path(result.checkpoint) / name, weights_only=True))
        for name in ("optimizer.pt", "trainer.pt")
    }


def losses_of(result):
    return [
        (entry["step"], entry.get("loss"), entry.get("grad_norm"), entry.get("eval_loss"))
        for entry in read_metrics(Path(result.output) / "metrics.jsonl")
    ]


def check_resumes(run, overrides, seed):
    rng = random.Random(seed)
    first, second = sorted(rng.sample(range(1, 8), 2))
    whole = run("whole", *overrides)
    stopped = run("parts", *overrides, interrupt_at=first)
    assert (stopped.interrupted, stopped.step) == (True, first)
    again = run("parts", *overrides, resume=True, interrupt_at=second)
    assert (again.resumed_from, again.step) == (first, second)
    resumed = run("parts", *overrides, resume=True)
    assert resumed.resumed_from == second
    assert same_weights(whole, resumed)
    assert losses_of(whole) == losses_of(resumed)
    assert checkpoint_of(whole) == checkpoint_of(resumed)


@pytest.mark.parametrize("name", RECIPES)
def test_resumed_is_uninterrupted(run, name):
    overrides, needs = RECIPES[name]
    if needs is not None:
        pytest.importorskip(needs)
    check_resumes(run, overrides, seed=name)


def test_the_winner_of_a_race_resumes(run, tmp_path, monkeypatch):
    """The recipe that `recommend` writes from a race: its rate, its options."""
    monkeypatch.chdir(tmp_path)
    profile = run_profile(
        load_target("model.py"),
        Settings(batch_size=8, batches=2, detail="quick"),
        methods=["adamw", "galore"],
    )
    settings = {"adamw": (0.003, {}), "galore": (0.02, {"rank": 3, "period": 4})}
    contestants = [
        Contestant(
            method=method, options=options, lr=lr, step_ms=1.0, state_bytes=1, trials=2, losses=[loss, loss, loss],
            difference=None if method == "adamw" else -1.0, difference_spread=None if method == "adamw" else 0.01,
            verdict="baseline" if method == "adamw" else "better",
        )
        for (method, (lr, options)), loss in zip(settings.items(), (3.0, 2.0), strict=True)
    ]  # fmt: skip
    trials = [
        Trial(
            method=one.method, options=one.options, lr=one.lr, seed=seed, role="final" if seed else "search",
            status="done", steps=10, seconds=1.0, tokens=10, loss=one.losses[seed],
        )
        for one in contestants for seed in range(3)
    ]  # fmt: skip
    race = Race(
        baseline="adamw", metric="held-out loss", minutes=1.0, spent_seconds=60.0, horizon_seconds=5.0, device="cpu",
        precision="fp32", batch_size=8, target_sha256=profile.target.sha256, seeds=[0, 1, 2], fallback_lr=0.003,
        contestants=contestants, trials=trials,
    )  # fmt: skip
    raced = profile.model_copy(update={"race": race})
    advice = recommend(raced, budget_bytes=2**30, device="cpu", steps=8)
    recipe = to_recipe(advice, raced, recipe_path=run.recipe_path)
    assert (recipe.optimizer.method, recipe.optimizer.lr) == ("galore", 0.02)
    run.recipe_path.write_text(dump_recipe(recipe))
    check_resumes(run, ["checkpoint.every=4", "checkpoint.keep=9"], seed=3)
