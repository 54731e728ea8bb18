"""From a name and a model to an optimizer: who is treated how, and the overrides that change it."""

import sys

import pytest
import torch
from torch import nn

from subopt.errors import OptionError
from subopt.optimizers import METHODS, create, get_method, parameter_roles, stored_bytes
from subopt.optimizers.state import low_bit


class Model(nn.Module):
    """Everything that decides a role; as wide as its vocabulary, so that shapes alone mislead."""

    def __init__(self, tied=False):
        super().__init__()
        self.embed = nn.Embedding(8, 8)
        self.conv = nn.Conv1d(8, 8, 3)
        self.square = nn.Linear(8, 8)
        self.narrow = nn.Linear(8, 1)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.norm = nn.LayerNorm(8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.lm_head = nn.Linear(8, 8, bias=False)
        if tied:
            self.lm_head.weight = self.embed.weight

    def forward(self, ids):
        hidden = self.norm(self.square(self.embed(ids)) * self.scale) + self.narrow(self.embed(ids))
        return self.lm_head(hidden + self.conv(hidden.mT).mean(-1)[:, None])


def loss(model):
    return model(torch.arange(16).reshape(2, 8) % 8).square().mean()


@pytest.mark.parametrize("tied", [False, True])
def test_treatments_name_every_parameter_once_with_its_reason(tied):
    found = {item.name: (item.role, item.reason) for item in parameter_roles(Model(tied))}
    tied_to = ", tied to lm_head.weight" if tied else ""
    assert found["embed.weight"] == ("fallback", f"an embedding{tied_to}")
    assert found["conv.weight"] == ("matrix", "a convolution, viewed as 8 x 24")
    assert found["square.weight"] == ("matrix", "a matrix")
    assert found["square.bias"] == ("fallback", "a vector")
    assert found["narrow.weight"] == ("fallback", "a matrix with one row or column")
    assert found["scale"] == ("fallback", "a scalar")
    assert found["frozen.weight"] == ("frozen", "does not require a gradient")
    assert ("lm_head.weight" in found) is not tied
    if not tied:
        assert found["lm_head.weight"] == ("fallback", "an output head onto the vocabulary")


def test_the_last_linear_onto_the_vocabulary_is_a_head_whatever_its_name():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    found = {item.name: item.role for item in parameter_roles(model)}
    assert (found["1.weight"], found["2.weight"]) == ("matrix", "fallback")


def test_padded_and_second_heads_and_embedding_bags_are_seen():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(9, 4)
            self.output = nn.Linear(4, 16)
            self.lm_head = nn.Linear(4, 9)
            self.square = nn.Linear(4, 4)

    found = {item.name: item.role for item in parameter_roles(Two())}
    kinds = [found[f"{name}.weight"] for name in ("bag", "output", "lm_head", "square")]
    assert kinds == ["fallback", "fallback", "fallback", "matrix"]


def test_exclude_patterns_leave_parameters_to_the_fallback():
    found = {item.name: item for item in parameter_roles(Model(), exclude=["^square"])}
    assert found["square.weight"].reason == "its name matches '^square'"
    assert found["conv.weight"].role == "matrix"


@pytest.mark.parametrize("name", METHODS)
def test_matrices_get_the_method_and_the_rest_its_fallback(name):
    optimizer = create(name, Model(), lr=1e-2, weight_decay=0.1, fallback={"lr": 3e-3})
    by_name = {n: group for group in optimizer.param_groups for n in group["param_names"]}
    assert "frozen.weight" not in by_name
    method = by_name["square.U" if METHODS[name].layers else "square.weight"]
    assert (method["method"], method["lr"]) == (name, 1e-2)
    assert {key: method[key] for key in METHODS[name].fixed} == METHODS[name].fixed
    rest = by_name["lm_head.weight"]
    assert (rest["method"], rest["lr"], rest["basis"]) == (METHODS[name].fallback, 3e-3, "identity")
    assert rest["moments"] == ("adam-nomom" if name.endswith("nomom") else "adam")
    assert method["weight_decay"] == rest["weight_decay"] == 0.1


@pytest.mark.parametrize("name", METHODS)
def test_total_state_is_the_sum_over_treatments(name):
    model, method = Model(), METHODS[name]
    described = parameter_roles(model)
    options = {"rank_mode": "fixed"} if "rank_mode" in method.defaults else {}
    optimizer = create(name, model, **options)

    def closure():
        optimizer.zero_grad()
        result = loss(model)
        result.backward()
        return result

    for _ in range(2):
        optimizer.step(closure)
    held = sum(stored_bytes(v) for s in optimizer.state.values() for v in s.values())
    bytes_of = {
        "matrix": lambda shape: method.state_bytes(shape, options=options),
        "fallback": method.fallback_state_bytes,
    }
    expected = [bytes_of[t.role](t.shape) for t in described if t.role in bytes_of]
    assert held == sum(expected) == optimizer.planned_state_bytes()


def test_only_plain_layers_with_a_place_of_their_own_can_be_replaced():
    class Mine(nn.Linear):
        pass

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain = nn.Linear(4, 4)
            self.conv = nn.Conv2d(4, 4, 3)
            self.grouped = nn.Conv2d(4, 4, 3, groups=2)
            self.mine = Mine(4, 4)
            self.once = nn.Linear(4, 4)
            self.again = self.once
            self.tied = nn.Linear(4, 4)
            self.other = nn.Linear(4, 4)
            self.other.weight = self.tied.weight
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.bare = nn.Parameter(torch.ones(4, 4))

    kinds = {item.name: item.layer_type for item in parameter_roles(Net()) if item.layer_type}
    assert kinds == {"plain.weight": "linear", "conv.weight": "conv"}
    assert [item.layer_type for item in parameter_roles(nn.Linear(4, 4))] == [None, None]


def test_a_method_that_replaces_layers_leaves_the_other_matrices_to_the_fallback():
    class Mine(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(6, 6), Mine(6, 6), nn.Linear(6, 6))
    dense = {name: value.clone() for name, value in model.state_dict().items()}
    overrides = [{"pattern": "^2", "method": "adadiag"}]
    optimizer = create("dlrt", model, overrides=overrides, rank=6, max_rank=6)
    methods = {n: group["method"] for group in optimizer.param_groups for n in group["param_names"]}
    assert methods == {
        "0.U": "dlrt", "0.S": "dlrt", "0.V": "dlrt", "0.bias": "adamw",
        "1.weight": "adamw", "1.bias": "adamw", "2.weight": "adadiag", "2.bias": "adadiag",
    }  # fmt: skip
    assert type(model[2]) is nn.Linear
    exported = METHODS["dlrt"].dense_state_dict(model)
    assert exported.keys() == dense.keys()
    for name, value in dense.items():
        torch.testing.assert_close(exported[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"overrides": [{"pattern": "square", "method": "dlrt"}]},
            "cannot name 'dlrt', which replaces",
        ),
        ({"method": "dlrt", "fallback": "same"}, "'dlrt' replaces layers and cannot be its own"),
        ({"method": "dlrt", "exclude": ["square", "conv"]}, "no layer that dlrt could replace"),
    ],
)
def test_replacing_layers_where_that_means_nothing_is_refused(keys, message):
    with pytest.raises(OptionError, match=message):
        create(**{"method": "adamw", "model": Model(), **keys})


def test_8_bit_state_without_torchao_is_refused_before_the_first_step(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    low_bit.require.cache_clear()
    for keys in ({"method": "adamw-8bit"}, {"method": "adamw", "state_dtype": "8bit"}):
        with pytest.raises(OptionError, match="needs the package torchao") as caught:
            create(model=Model(), **keys)
        assert caught.value.hint == "pip install 'subopt[lowbit]'"
    low_bit.require.cache_clear()


def test_fallback_same_gives_the_method_everything():
    optimizer = create("hfac", Model(), fallback="same")
    assert {group["method"] for group in optimizer.param_groups} == {"hfac"}
    model = Model()
    optimizer = create("hfac", model, fallback="same")
    loss(model).backward()
    optimizer.step()
    assert "row_avg" in optimizer.state[model.embed.weight]
    assert "exp_avg" in optimizer.state[model.square.bias]


def test_rules_choose_method_rate_and_options_first_match_wins():
    overrides = [
        {"pattern": "square", "method": "galore", "options": {"rank": 2}, "lr": 0.5},
        {"pattern": "square|conv", "options": {"period": 7}},
        {"pattern": "norm", "lr": 0.25},
    ]
    optimizer = create("adadiag", Model(), lr=1e-2, overrides=overrides)
    by_name = {n: group for group in optimizer.param_groups for n in group["param_names"]}
    square, conv, norm = (by_name[f"{name}.weight"] for name in ("square", "conv", "norm"))
    assert (square["method"], square["rank"], square["lr"], square["scale"]) == (
        "galore",
        2,
        0.5,
        0.25,
    )
    assert (conv["method"], conv["period"], conv["lr"]) == ("adadiag", 7, 1e-2)
    assert (norm["method"], norm["lr"]) == ("adamw", 0.25)


def test_rules_reach_the_fallback_with_the_options_it_has():
    overrides = [{"pattern": "square", "options": {"betas": (0.8, 0.9), "period": 7}}]
    optimizer = create("adadiag", Model(), overrides=overrides)
    by_name = {n: group for group in optimizer.param_groups for n in group["param_names"]}
    weight, bias = by_name["square.weight"], by_name["square.bias"]
    assert (weight["betas"], weight["period"]) == ((0.8, 0.9), 7)
    assert (bias["betas"], bias["basis"], bias["method"]) == ((0.8, 0.9), "identity", "adamw")


def test_user_groups_limit_what_is_trained_and_override_settings():
    model = Model()
    groups = [
        {"params": [model.square.weight], "weight_decay": 0.0, "lr": 0.5},
        {"params": model.norm.parameters()},
    ]
    optimizer = create("adadiag", model, lr=1e-2, weight_decay=0.1, groups=groups)
    by_name = {n: group for group in optimizer.param_groups for n in group["param_names"]}
    assert set(by_name) == {"square.weight", "norm.weight", "norm.bias"}
    square, norm = by_name["square.weight"], by_name["norm.weight"]
    assert (square["lr"], square["weight_decay"], norm["weight_decay"]) == (0.5, 0.0, 0.1)


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ({"method": "adadag"}, "unknown method 'adadag'; did you mean 'adadiag'"),
        ({"peroid": 5}, "no option 'peroid'; did you mean 'period'"),
        ({"rank": 4}, "method 'adadiag' has no option 'rank'"),
        ({"period": True}, "Invalid period: True"),
        ({"lr": -1.0}, "Invalid lr"),
        ({"lr": float("nan")}, "Invalid lr"),
        ({"weight_decay": -0.1}, "Invalid weight_decay"),
        ({"basis_dtype": "int8"}, "Invalid basis_dtype"),
        ({"fallback": "sgd"}, "unknown fallback 'sgd'"),
        ({"fallback": {"learning_rate": 1}}, "unknown fallback key"),
        ({"overrides": [{"pattern": "("}]}, "'(' is not a regular expression"),
        ({"overrides": [{"lr": 1.0}]}, "needs a regular expression"),
        (
            {"overrides": [{"pattern": "nowhere", "lr": 1.0}]},
            "'nowhere' matches no trained parameter",
        ),
        (
            {"overrides": [{"pattern": "norm", "options": {"period": 2}}]},
            "its option 'period' means nothing",
        ),
        ({"overrides": [{"pattern": "x", "rank": 2}]}, "unknown override key 'rank'"),
        ({"method": "hfacdiag", "source": "momentum"}, "needs an average of gradients"),
    ],
)
def test_mistakes_are_named(arguments, pattern):
    with pytest.raises(OptionError, match=pattern.replace("(", r"\(")):
        create(**{"method": "adadiag", "model": Model(), **arguments})


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(OptionError, match="no parameter that requires a gradient"):
        create("adamw", nn.Linear(2, 2).requires_grad_(False))


def test_a_stranger_in_the_groups_is_refused():
    with pytest.raises(OptionError, match="not the model's"):
        create("adamw", Model(), groups=[{"params": [nn.Parameter(torch.ones(2, 2))]}])


def test_methods_are_complete_records():
    for name, method in METHODS.items():
        assert get_method(name) is method
        assert method.summary
        assert method.section
        assert set(method.defaults) == set(method.tunable)
        assert method.resolve(method.defaults) == method.resolve()
        assert method.test_inputs
        assert method.error_inputs
