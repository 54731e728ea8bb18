"""Costs of a whole model are the sums of what the method table says of each parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subopt.errors import OptionError
from subopt.optimizers import METHODS, create, parameter_roles, stored_bytes
from subopt.optimizers.state import low_bit
from subopt.profilers.costs.architectures import WeightShape
from subopt.profilers.costs.formula import (
    forward_backward_flops,
    method_cost,
    method_costs,
    state_bytes,
    unusable,
    weights_of,
)
from subopt.profilers.memory.positions import counted_positions

WEIGHTS = [
    WeightShape("a", (6, 10), "matrix"),
    WeightShape("b", (10, 6), "matrix"),
    WeightShape("norm", (6,), "fallback"),
    WeightShape("old", (50, 50), "frozen"),
]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.conv = nn.Conv1d(8, 6, 3)
        self.norm = nn.LayerNorm(6)
        self.hidden = nn.Linear(6, 10)
        self.head = nn.Linear(10, 4)


@pytest.mark.parametrize("name", METHODS)
def test_state_bytes_of_a_model_equal_the_optimizers(name):
    model, method = Net(), METHODS[name]
    weights = weights_of(parameter_roles(model))
    before = sum(parameter.nbytes for parameter in model.parameters())
    grown = {"tau": 0.0} if "tau" in method.defaults else {}  # ranks grow as far as they may
    optimizer = create(name, model, **grown)

    def closure():
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        return torch.tensor(1.0)

    for _ in range(2):
        optimizer.step(closure)
    held = sum(
        stored_bytes(value) for state in optimizer.state.values() for value in state.values()
    )
    cost = method_cost(weights, method, grown)
    assert cost.state_bytes == held
    after = sum(parameter.nbytes for parameter in model.parameters())
    assert cost.weight_bytes_saved == before - after
    assert bool(method.layers) == (before != after)


def test_what_a_method_cannot_train_is_told(monkeypatch):
    assert all(unusable(method, WEIGHTS) is None for method in METHODS.values())
    odd = [weight._replace(layer_type=None) for weight in WEIGHTS]
    reasons = {name: unusable(method, odd) for name, method in METHODS.items()}
    assert {name for name, reason in reasons.items() if reason} == {
        name for name, method in METHODS.items() if method.layers
    }
    assert "no plain torch layer" in reasons["dlrt"]
    monkeypatch.setattr(low_bit, "is_installed", lambda: False)
    assert "pip install 'subopt[lowbit]'" in unusable(METHODS["adamw-8bit"], WEIGHTS)
    assert unusable(METHODS["adamw"], WEIGHTS) is None


def test_weights_that_stay_dense_save_nothing():
    method = METHODS["dlrt"]
    options = {"rank": 2, "rank_mode": "fixed"}
    odd = [WEIGHTS[0]._replace(layer_type=None), *WEIGHTS[1:]]
    one, both = (method_cost(weights, method, options) for weights in (odd, WEIGHTS))
    saved = 4 * (6 * 10 - 2 * (6 + 10) - 2 * 2)
    assert (one.weight_bytes_saved, both.weight_bytes_saved) == (saved, 2 * saved)
    # The weight that cannot be replaced has the fallback's state.
    own = method.state_bytes((6, 10), options=options)
    assert one.state_bytes - both.state_bytes == method.fallback_state_bytes((6, 10)) - own
    assert method_cost(odd, METHODS["lion"]) == method_cost(WEIGHTS, METHODS["lion"])


def test_flops_that_leave_evaluations_out_are_no_share_of_a_step():
    low_rank, plain = method_costs(WEIGHTS, ["dlrt", "adadiag"], tokens=100)
    assert low_rank.step_flops > 0
    assert low_rank.relative_flops is low_rank.bound_relative is None
    assert plain.relative_flops > 0


def test_frozen_parameters_cost_nothing():
    trained = [weight for weight in WEIGHTS if weight.role != "frozen"]
    assert method_costs(WEIGHTS) == method_costs(trained)


def test_flops_sum_over_matrices_and_temporaries_do_not():
    method = METHODS["adadiag"]
    both = method_cost(WEIGHTS, method)
    one = method_cost(WEIGHTS[:1], method)
    assert both.step_flops == 2 * one.step_flops > 0
    assert both.bound_flops == 2 * one.bound_flops > 0
    assert both.transient_bytes == max(method.transient_bytes(w.shape) for w in WEIGHTS[:2])


def test_the_share_of_flops_needs_the_number_of_tokens():
    method = METHODS["galore"]
    with_tokens = method_cost(WEIGHTS, method, tokens=100)
    assert with_tokens.relative_flops == pytest.approx(with_tokens.step_flops / (6 * 100 * 120))
    for cost in (method_cost(WEIGHTS, method), method_cost(WEIGHTS[2:], method, tokens=100)):
        assert (cost.relative_flops, cost.bound_relative) == (None, None)


def test_the_bound_has_the_same_yardstick():
    rows = {row.method: row for row in method_costs(WEIGHTS, tokens=100)}
    # What evaluates the model itself has no share: its passes are not the ones that the yardstick counts.
    closures = {name for name, method in METHODS.items() if "needs_closure" in method.capabilities}
    assert {name for name, row in rows.items() if row.bound_relative is None} == closures != set()
    for name in rows.keys() - closures:
        assert rows[name].bound_relative == pytest.approx(rows[name].bound_flops / (6 * 100 * 120))
    assert rows["adadiag"].bound_relative > rows["adamw"].bound_relative == 0


def test_flops_of_forward_and_backward_count_the_vectors_each_weight_meets():
    assert forward_backward_flops(WEIGHTS, 100) == 6 * 100 * 120
    assert forward_backward_flops(WEIGHTS, 100, {"a": 7}) == 6 * (7 + 100) * 60


def test_positions_of_linear_and_convolutional_layers():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.up = nn.ConvTranspose2d(4, 5, 2, stride=2)
            self.linear = nn.Linear(5, 6)

        def forward(self, images):
            x = self.up(self.conv(images)).mean((2, 3))
            return self.linear(self.linear(x)[:, :5])

    model = Mixed()
    with counted_positions(model) as positions:
        model(torch.zeros(2, 3, 8, 8))
    model(torch.zeros(2, 3, 8, 8))
    assert positions == {"conv.weight": 2 * 64, "up.weight": 2 * 64, "linear.weight": 4}


def test_published_counts_are_numbers_times_the_dtype_size():
    bf16 = [WeightShape("a", (6, 10), "matrix", torch.bfloat16)]
    m, n = 6, 10
    assert state_bytes(bf16, METHODS["adafacdiag"], as_published=True) == 2 * (
        m * m + m * n + m + n
    )
    # An option that says in how many bytes is heeded.
    large = [WeightShape("a", (64, 256), "matrix", torch.bfloat16)]
    size = 64 * 256
    codes = 2 * (size + size // 64 + 1024)
    assert state_bytes(large, METHODS["adamw-8bit"], as_published=True) == codes
    exact = {"state_dtype": "fp32"}
    assert state_bytes(large, METHODS["lion"], exact, as_published=True) == 4 * size
    # What is really held: a float32 basis and vectors, and counters.
    assert state_bytes(bf16, METHODS["adafacdiag"]) > 4 * (m * m + m + n) + 2 * m * n


def test_wishes_reach_the_methods_that_have_them():
    rows = {row.method: row for row in method_costs(WEIGHTS, wishes={"rank": 2})}
    assert rows["galore"].options["rank"] == 2
    assert rows["osd"].options["rank"] == 2
    assert "rank" not in rows["adamw"].options
    assert METHODS["lion"].among({"rank": 2}) == {}


@pytest.mark.parametrize("name", METHODS)
def test_recorded_options_build_the_method_again(name):
    (row,) = method_costs(WEIGHTS, [name])
    optimizer = create(row.method, nn.Sequential(nn.Linear(4, 4)), **row.options)
    assert METHODS[row.method].resolve(row.options) == METHODS[row.method].resolve({})
    resolved = METHODS[row.method].resolve({})
    group = optimizer.param_groups[0]
    # A group holds nothing of moments that could have been chosen.
    unused = {"clip_threshold", "clip_momentum"} - resolved.keys()
    expected = {key: resolved[key] for key in row.options.keys() - unused}
    assert {key: group[key] for key in expected} == expected


def test_unknown_methods_and_bad_values_are_refused():
    with pytest.raises(OptionError, match="did you mean 'galore'"):
        method_costs(WEIGHTS, ["galor"])
    with pytest.raises(OptionError, match="Invalid rank"):
        method_costs(WEIGHTS, ["galore"], {"rank": 0})


def test_the_largest_temporary_may_be_the_fallbacks():
    matrix = WeightShape("square", (8, 8), "matrix", torch.float32)
    # In bfloat16, where AdamW has to convert; in float32 its step has no temporaries.
    table = WeightShape("embed", (500, 8), "fallback", torch.bfloat16)
    method = METHODS["lion"]
    alone, together = method_cost([matrix], method), method_cost([matrix, table], method)
    assert alone.transient_bytes == method.transient_bytes((8, 8))
    assert together.transient_bytes == method.fallback_transient_bytes((500, 8), torch.bfloat16)
    assert together.transient_bytes >= 2 * 4 * 500 * 8
