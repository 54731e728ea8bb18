"""Small models, profiled and advised for real: bad initial weights, fine-tuning, and a recipe that learns."""

from __future__ import annotations

import math

import pytest

from subopt.profilers.profile import run_profile
from subopt.profilers.record.profile import Settings
from subopt.profilers.target.load import load_target
from subopt.recipes.advice.advisor import recommend, to_recipe
from subopt.recipes.advice.reasons import Rival, WaitingRival
from subopt.recipes.advice.regimes import FineTuning, TooEarly
from subopt.recipes.evidence.start import HighFirstLoss
from subopt.recipes.prior.rates import heavy_decay, prior_rate
from subopt.recipes.recipe.load import dump_recipe
from subopt.recipes.training.metrics import read_metrics
from subopt.recipes.training.trainer import train

from ..advice_profile import GIB, only

GPT = """
import torch
from torch import nn
from torch.nn import functional as F

WIDTH, VOCABULARY = 64, 128

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        past = x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
        return x + self.down(F.gelu(self.up(self.norm(past))))

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        TIE

    def forward(self, tokens):
        return self.head(self.norm(self.blocks(self.embedding(tokens))))

def build_model():
    torch.manual_seed(0)
    model = Model()
    LOAD
    return model

def batches(batch_size):
    generator = torch.Generator().manual_seed(0)
    while True:
        starts = torch.randint(VOCABULARY, (batch_size, 1), generator=generator)
        yield (starts + 3 * torch.arange(17)) % VOCABULARY

def loss(model, tokens):
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
"""

CONVNET = """
import torch
from torch import nn
from torch.nn import functional as F

def build_model():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(72, 4),
    )

def batches(batch_size):
    generator = torch.Generator().manual_seed(0)
    while True:
        labels = torch.randint(4, (batch_size,), generator=generator)
        images = 0.3 * torch.randn(batch_size, 1, 8, 8, generator=generator)
        images[torch.arange(batch_size), 0, labels] += 1.0
        yield images, labels

eval_batches = batches

def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])
"""


def profiled(folder, text, *, steps=10, **settings):
    """A profile of a model file, with fewer methods than there are."""
    (folder / "model.py").write_text(text)
    return run_profile(
        load_target(str(folder / "model.py")),
        Settings(batch_size=16, batches=4, steps=steps, detail="quick", **settings),
        methods=["adamw", "soap", "muon", "osd-two-sided", "momentum"],
    )


def gpt(*, tied=True, loads=False):
    tie = "self.head.weight = self.embedding.weight" if tied else ""
    load = "model.load_state_dict(model.state_dict())" if loads else ""
    return GPT.replace("TIE", tie).replace("LOAD", load)


@pytest.mark.parametrize("steps", [0, 10])
def test_weights_that_start_far_too_high_leave_adamw_and_are_remarked_on(tmp_path, steps):
    profile = profiled(tmp_path, gpt(), steps=steps)
    assert profile.losses.outputs == 128
    assert profile.losses.first > 5 * math.log(128)
    assert len(profile.losses.run) == steps
    advice = recommend(profile, budget_bytes=GIB, device="cpu")
    assert (advice.chosen.method, advice.confidence) == ("adamw", "low")
    assert [row.method for row in advice.rows if not row.waits] == ["adamw"]
    assert type(only(advice.reasons, WaitingRival)) is WaitingRival
    early = only(advice.reasons, TooEarly)
    (high,) = [doubt for doubt in early.doubts if isinstance(doubt, HighFirstLoss)]
    assert high == HighFirstLoss(profile.losses.first, pytest.approx(math.log(128)), 128)
    assert early.warmup_steps == 100
    osd = next(row for row in advice.rows if row.method == "osd-two-sided")
    assert osd.expected.gain < 0
    assert [item.evidence_type for item in osd.expected.estimates] == ["prior"]


def test_ordinary_weights_are_not_remarked_on(tmp_path):
    profile = profiled(tmp_path, gpt(tied=False))
    assert profile.losses.first < 1.2 * math.log(128)
    advice = recommend(profile, budget_bytes=GIB, device="cpu")
    doubts = [doubt for found in advice.reasons for doubt in getattr(found, "doubts", ())]
    assert not any(isinstance(doubt, HighFirstLoss) for doubt in doubts)
    assert not any(isinstance(reason, WaitingRival) for reason in advice.reasons)


def test_fine_tuning_is_noticed_and_can_be_denied(tmp_path):
    profile = profiled(tmp_path, gpt(tied=False, loads=True))
    assert profile.target.loads_weights
    noticed = recommend(profile, budget_bytes=GIB, device="cpu")
    assert noticed.chosen.method == "adamw"
    assert only(noticed.reasons, FineTuning) == FineTuning(is_asked=False)
    denied = recommend(profile, budget_bytes=GIB, device="cpu", fine_tunes=False)
    assert not any(isinstance(reason, FineTuning) for reason in denied.reasons)
    rates = [prior_rate("adamw", advice.traits).lr for advice in (noticed, denied)]
    assert rates[0] < rates[1]


def test_fine_tuning_is_asked_for(tmp_path):
    profile = profiled(tmp_path, gpt(tied=False))
    asked = recommend(profile, budget_bytes=GIB, device="cpu", fine_tunes=True)
    assert only(asked.reasons, FineTuning) == FineTuning(is_asked=True)
    assert asked.chosen.method == "adamw"
    assert isinstance(only(asked.reasons, Rival), Rival)


def test_a_recipe_with_momentum_learns(tmp_path):
    """At a rate of 0.1 and a weight decay of 0.1, which takes 1 % off the weights in every step, it learned nothing."""
    profile = profiled(tmp_path, CONVNET)
    advice = recommend(profile, budget_bytes=GIB, device="cpu", methods=["momentum"], steps=150)
    recipe = to_recipe(advice, profile, recipe_path=tmp_path / "recipe.yaml")
    assert recipe.optimizer.lr >= 0.03
    assert recipe.optimizer.weight_decay > 0
    assert heavy_decay(recipe.optimizer.lr, recipe.optimizer.weight_decay) is None
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    train(recipe, recipe_path=tmp_path / "recipe.yaml", output=tmp_path / "run", device="cpu")
    losses = [
        entry["eval_loss"]
        for entry in read_metrics(tmp_path / "run" / "metrics.jsonl")
        if "eval_loss" in entry
    ]
    assert losses[-1] < 0.5 * math.log(4)
