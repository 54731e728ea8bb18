"""Options belong to the parts that have them: a group holds its own method's and refuses every other's."""

import pytest
import torch
from torch import nn

from subopt.errors import OptionError
from subopt.optimizers import METHODS, Composed, create
from subopt.optimizers.composition import OPTION_NAMES, known_options, part_names

COMMON = {"params", "param_names", "method", "lr", "weight_decay", "maximize"}


def model():
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))


@pytest.mark.parametrize("name", METHODS)
def test_a_group_holds_the_options_of_its_own_parts_and_no_others(name):
    for group in create(name, model()).param_groups:
        parts = known_options(part_names(group, {})).keys()
        assert group.keys() == COMMON | parts
        if group["method"] != METHODS[name].fallback:
            own = METHODS[name].options.items()
            assert {key: group[key] for key, _ in own} == dict(own)
            # What other moments have, which a user could choose, is not there.
            assert {*METHODS[name].tunable} - parts <= {"clip_threshold", "clip_momentum"}


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "shampoo", "adafactor-torch"])
def test_a_group_of_a_method_without_a_basis_is_about_as_long_as_torchs(name):
    assert all(len(group) <= 20 for group in create(name, model()).param_groups)
    assert len(create("adamw", model()).param_groups[0]) <= len(
        torch.optim.AdamW(model().parameters()).param_groups[0]
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_option_says_what_it_is_and_refuses_what_it_is_not(name):
    for key, option in METHODS[name].settable.items():
        assert option.meaning
        assert option.checked(key, METHODS[name].defaults[key]) == METHODS[name].defaults[key]
        with pytest.raises(OptionError, match=f"Invalid {key}: .* it must be {option.allowed[:9]}"):
            METHODS[name].resolve({key: object()})


FOREIGN = {
    "argument": lambda m: create("adamw", m, tau=0.3),
    "group": lambda m: create("adamw", m, groups=[{"params": m.parameters(), "tau": 0.3}]),
    "group of the fallback": lambda m: create("adadiag", m, groups=[{"params": m[0].bias, "period": 3}]),
    "override": lambda m: create("adamw", m, overrides=[{"pattern": "0", "options": {"tau": 0.3}}]),
    "override with a method": lambda m: create(
        "adadiag", m, overrides=[{"pattern": "0", "method": "lion", "options": {"period": 3}}]
    ),
    "constructor": lambda m: Composed(m.parameters(), tau=0.3),
    "constructor's group": lambda m: Composed([{"params": m.parameters(), "tau": 0.3}]),
    "added group": lambda m: Composed([m[0].weight]).add_param_group({"params": [m[1].weight], "tau": 0.3}),
    "basis of a whole update": lambda m: Composed(m.parameters(), update="muon", basis="one-sided"),
    "rank of a full basis": lambda m: create("adadiag", m, groups=[{"params": m[0].weight, "rank": 2}]),
}  # fmt: skip


@pytest.mark.parametrize("where", FOREIGN)
def test_a_foreign_option_is_refused_wherever_it_comes_from(where):
    with pytest.raises(OptionError, match=r"ha(s|ve) (no|an) option '(tau|period|basis|rank)'"):
        FOREIGN[where](model())


def test_a_groups_options_reach_those_of_its_parameters_that_have_them():
    m = model()
    groups = [
        {"params": m[0].parameters(), "period": 7, "eps": 1e-5},
        {"params": m[1].parameters()},
    ]
    found = create("adadiag", m, period=3, groups=groups).param_groups
    by_name = {name: group for group in found for name in group["param_names"]}
    assert (by_name["0.weight"]["period"], by_name["0.weight"]["eps"]) == (7, 1e-5)
    assert "period" not in by_name["0.bias"]
    assert by_name["0.bias"]["eps"] == 1e-5
    assert (by_name["1.weight"]["period"], by_name["1.weight"]["eps"]) == (3, 1e-8)


def test_a_group_with_parts_of_its_own_takes_only_what_is_shared():
    first, second, third = (nn.Parameter(torch.ones(4, 6)) for _ in range(3))
    settings = {"basis": "one-sided", "rank": 2, "betas": (0.5, 0.6), "weight_decay": 0.2}
    optimizer = Composed([first], 1e-2, **settings)
    optimizer.add_param_group({"params": [second], "moments": "lion"})
    optimizer.add_param_group({"params": [third], "update": "muon"})
    _, other, whole = optimizer.param_groups
    assert (other["rank"], other["betas"]) == (2, (0.9, 0.99))
    assert (whole["betas"], whole["weight_decay"]) == ((0.95, 0.0), 0.2)
    assert whole.keys() & OPTION_NAMES == known_options({"update": "muon"}).keys()
    assert optimizer.defaults["rank"] == 2


def test_a_printed_optimizer_names_method_and_options_of_every_group():
    text = repr(create("galore", model(), rank=2, weight_decay=0.1))
    first, second = text.split("Parameter Group 1")
    assert "Parameter Group 0: galore, 2 tensors\n" in first
    assert "    rank: 2\n" in first
    assert second.startswith(": adamw, 2 tensors\n")
    assert "rank" not in second
    assert "    weight_decay: 0.1\n" in second
    assert "0.weight" not in text
    assert "one-sided with lion" in repr(
        Composed([nn.Parameter(torch.ones(2, 2))], basis="one-sided", moments="lion")
    )
