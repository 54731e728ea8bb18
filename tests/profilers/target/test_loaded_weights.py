"""That weights come from an earlier training is noticed while the user's code builds the model, and recorded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subopt.profilers.target.load import load_target
from subopt.profilers.target.loaded_weights import LoadedWeights

FRESH = """
from torch import nn
def build_model():
    return nn.Linear(4, 4)
"""
LOADED = """
from torch import nn
def build_model():
    model = nn.Sequential(nn.Linear(4, 4))
    model.load_state_dict({"0.weight": nn.Linear(4, 4).weight, "0.bias": nn.Linear(4, 4).bias})
    return model
"""
WHEN_IMPORTED = """
from torch import nn
model = nn.Linear(4, 4)
model.load_state_dict(nn.Linear(4, 4).state_dict())
"""


def record(folder, text):
    (folder / "model.py").write_text(text)
    name = "build_model" if "build_model" in text else "model"
    target = load_target(f"{folder / 'model.py'}:{name}")
    target.build_model()
    return target.record


@pytest.mark.parametrize(("text", "loads"), [(FRESH, False), (LOADED, True), (WHEN_IMPORTED, True)])
def test_a_record_says_whether_weights_were_loaded(tmp_path, text, loads):
    assert record(tmp_path, text).loads_weights is loads


def test_methods_are_as_they_were_afterwards():
    before = nn.Module.load_state_dict
    with LoadedWeights().noticing():
        assert nn.Module.load_state_dict is not before
    assert nn.Module.load_state_dict is before
    model = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="Missing key"), LoadedWeights().noticing():
        model.load_state_dict({})
    assert nn.Module.load_state_dict is before


def test_what_is_called_outside_is_not_noticed_and_returns_what_it_did():
    model = nn.Linear(2, 2)
    weights = LoadedWeights()
    model.load_state_dict(model.state_dict())
    assert not weights.found
    with weights.noticing():
        keys = model.load_state_dict({"weight": torch.zeros(2, 2)}, strict=False)
    assert weights.found
    assert keys.missing_keys == ["bias"]
    assert torch.equal(model.weight, torch.zeros(2, 2))


def test_from_pretrained_of_transformers_is_noticed(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=16, n_positions=8)
    made = transformers.GPT2LMHeadModel(config)
    weights = LoadedWeights()
    with weights.noticing():
        transformers.GPT2LMHeadModel(config)
    assert not weights.found
    made.save_pretrained(tmp_path)
    with weights.noticing():
        found = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert weights.found
    assert torch.equal(found.transformer.wte.weight, made.transformer.wte.weight)
