"""Overrides as a user writes them: methods, ranks and decay by layer, the fallback, freezing, mistakes."""

import os
import re
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from subopt.errors import FileFormatError, OptionError, UsageError
from subopt.optimizers import create, get_method, parameter_roles
from subopt.optimizers.name_patterns import compile_pattern
from subopt.optimizers.overrides import OverrideUse, override_uses
from subopt.recipes.recipe.load import dump_recipe, load_recipe, parse_recipe, with_settings
from subopt.recipes.run_folder.weights import actual_state_bytes
from subopt.recipes.training import events
from subopt.recipes.training.trainer import plan, train

MODEL = """
import torch
from torch import nn


def build_model():
    torch.manual_seed(3)
    layers = [nn.Linear(24, 24) for _ in range(4)]
    return nn.Sequential(nn.Embedding(11, 24), *layers, nn.LayerNorm(24), nn.Linear(24, 5))


def batches(batch_size):
    while True:
        yield torch.randint(0, 11, (batch_size,))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch), batch % 5)
"""

# Four methods in one run: 8-bit moments, a projection refreshed by SVD, eigenbases of covariances, a sign. 4 steps
# cross each one's refreshes. The 64 x 64 matrix is large enough for 8-bit blocks.
RECIPE = """
model: {target: model.py}
data: {batch_size: 8}
optimizer:
  method: adamw
  lr: 1e-2
  weight_decay: 0.1
  overrides:
  - {pattern: '^1\\.weight', method: adamw-8bit}
  - {pattern: '^2\\.weight', method: galore, options: {rank: 4, period: 3}, lr: 2e-2}
  - {pattern: '^3\\.weight', method: soap, options: {period: 2}}
  - {pattern: '^4\\.weight', method: lion, lr: 1e-3}
  - {pattern: '(bias|^5\\.)', weight_decay: 0}
schedule: {steps: 6, warmup_steps: 2}
"""


@pytest.fixture
def ruled_path(tmp_path):
    pytest.importorskip("torchao", reason="needs the extra 'lowbit'")
    (tmp_path / "model.py").write_text(MODEL.replace("24", "64"))
    path = tmp_path / "overridden.yaml"
    path.write_text(RECIPE)
    return path


def run(path, name, *overrides, interrupt_at=None, by=signal.SIGINT, **keys):
    def on_event(event):
        if isinstance(event, events.Stepped) and event.step == interrupt_at:
            signal.raise_signal(by)

    return train(
        with_settings(load_recipe(path), overrides),
        recipe_path=path,
        output=path.parent / name,
        device="cpu",
        on_event=on_event,
        **keys,
    )


def model_of(text=MODEL):
    namespace = {}
    exec(text, namespace)
    return namespace["build_model"]()


def by_name(optimizer):
    return {name: group for group in optimizer.param_groups for name in group["param_names"]}


def test_a_ruled_run_resumes_bit_for_bit_and_is_as_large_as_predicted(ruled_path):
    whole = run(ruled_path, "whole")
    assert whole.predicted.state_bytes == whole.actual.state_bytes
    first = run(ruled_path, "cut", "checkpoint.every=1", interrupt_at=3)
    assert first.interrupted
    last = run(ruled_path, "cut", "checkpoint.every=1", resume=True)
    expected, found = load_file(whole.weights), load_file(last.weights)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killing_a_ruled_run_changes_nothing(ruled_path):
    whole = run(ruled_path, "whole")
    child = os.fork()
    if child == 0:
        run(ruled_path, "cut", "checkpoint.every=1", interrupt_at=4, by=signal.SIGKILL)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    resumed = run(ruled_path, "cut", "checkpoint.every=1", resume=True)
    expected, found = load_file(whole.weights), load_file(resumed.weights)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert resumed.step == 6


def test_the_state_of_a_ruled_run_is_the_sum_of_its_methods(ruled_path):
    planned = plan(load_recipe(ruled_path), recipe_path=ruled_path, output=ruled_path.parent / "x")
    side = (64, 64)
    by_method = [
        get_method("adamw-8bit").state_bytes(side),
        get_method("galore").state_bytes(side, options={"rank": 4}),
        get_method("soap").state_bytes(side),
        get_method("lion").state_bytes(side),
    ]
    left = [(11, 64), (5, 64), (5,)] + 6 * [(64,)]
    adamw = get_method("adamw")
    assert planned.predicted_state_bytes == sum(by_method) + sum(map(adamw.state_bytes, left))


def test_the_plan_says_what_every_rule_gets(ruled_path):
    planned = plan(load_recipe(ruled_path), recipe_path=ruled_path, output=ruled_path.parent / "x")
    assert planned.overrides == (
        OverrideUse(r"^1\.weight", "adamw-8bit", 1, 4096),
        OverrideUse(r"^2\.weight", "galore", 1, 4096),
        OverrideUse(r"^3\.weight", "soap", 1, 4096),
        OverrideUse(r"^4\.weight", "lion", 1, 4096),
        OverrideUse(r"(bias|^5\.)", None, 7, 5 + 6 * 64),
        OverrideUse(None, None, 2, 11 * 64 + 5 * 64),
    )


def test_decay_by_rule_leaves_biases_and_norms_alone():
    overrides = [{"pattern": r"(bias|^5\.)", "weight_decay": 0.0}]
    groups = by_name(create("adadiag", model_of(), weight_decay=0.1, overrides=overrides))
    spared = {name for name, group in groups.items() if group["weight_decay"] == 0}
    assert spared == {"1.bias", "2.bias", "3.bias", "4.bias", "5.weight", "5.bias", "6.bias"}
    assert all(groups[name]["method"] == "adamw" for name in spared)
    assert groups["1.weight"]["weight_decay"] == 0.1


def test_ranks_may_differ_by_layer():
    overrides = [
        {"pattern": r"^1\.weight", "options": {"rank": 3}},
        {"pattern": r"^2\.weight", "options": {"rank": 0.5}},
    ]
    model = model_of()
    optimizer = create("galore", model, overrides=overrides, period=7)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    widths = [optimizer.state[model[k].weight]["basis_left"].shape[1] for k in (1, 2, 3)]
    assert widths == [3, 12, 6]
    assert by_name(optimizer)["2.weight"]["period"] == 7
    assert optimizer.planned_state_bytes() == actual_state_bytes(optimizer)


def test_a_rule_may_leave_a_layer_to_the_fallback():
    overrides = [{"pattern": r"^1\.weight", "method": "fallback", "options": {"betas": (0.8, 0.9)}}]
    fallback = {"lr": 1e-4, "weight_decay": 0.2}
    groups = by_name(create("soap", model_of(), lr=1e-2, fallback=fallback, overrides=overrides))
    one = groups["1.weight"]
    assert (one["method"], one["lr"], one["weight_decay"]) == ("adamw", 1e-4, 0.2)
    assert (one["basis"], one["betas"]) == ("identity", (0.8, 0.9))
    assert groups["2.weight"]["method"] == "soap"


def test_a_rule_may_freeze():
    model = model_of()
    before = model[0].weight.clone()
    optimizer = create("lion", model, lr=0.1, overrides=[{"pattern": r"^0\.", "method": "frozen"}])
    assert "0.weight" not in by_name(optimizer)
    model(torch.arange(5)).sum().backward()
    optimizer.step()
    assert model[0].weight.grad is None
    assert torch.equal(model[0].weight, before)


def test_low_rank_layers_beside_layers_of_other_methods():
    overrides = [
        {"pattern": r"^1\.weight", "method": "soap"},
        {"pattern": r"^2\.weight", "method": "fallback"},
        {"pattern": r"^3\.weight", "options": {"rank": 2, "max_rank": 2}},
    ]
    torch.manual_seed(0)
    model = model_of()
    optimizer = create("dlrt", model, lr=1e-2, rank=6, max_rank=6, overrides=overrides)
    methods = {name: group["method"] for name, group in by_name(optimizer).items()}
    assert methods["1.weight"] == "soap"
    assert methods["2.weight"] == "adamw"
    assert (model[3].rank, model[4].rank) == (2, 6)
    ids = torch.arange(10)

    def closure():
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(model(ids), ids % 5)
        value.backward()
        return value

    losses = [optimizer.step(closure).item() for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert optimizer.planned_state_bytes() >= actual_state_bytes(optimizer)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([{"pattern": "nowhere"}], "'nowhere' matches no trained parameter"),
        ([{"pattern": "weight"}, {"pattern": r"^1\.weight"}], r"gets nothing: earlier overrides match"),
        ([{"pattern": "1", "method": "dlrt"}], "cannot name 'dlrt'"),
        ([{"pattern": "1", "method": "fallbak"}], "unknown method 'fallbak'"),
        ([{"pattern": "1", "method": "fallback", "options": {"rank": 2}}], "fallback has no option 'rank'"),
        ([{"pattern": "1", "method": "frozen", "lr": 0.1}], "that freezes takes no lr"),
        ([{"pattern": ".", "method": "frozen"}], "no parameter that requires a gradient"),
        ([{"pattern": "1", "weight_decay": -1.0}], "Invalid weight_decay"),
        ([{"pattern": 7}], "needs a regular expression"),
    ],
)  # fmt: skip
def test_rules_that_mean_nothing_are_refused(overrides, message):
    with pytest.raises(OptionError, match=message):
        create("adamw", model_of(), overrides=overrides)


def test_a_fallback_that_is_the_method_itself_cannot_be_a_rule():
    overrides = [{"pattern": "1", "method": "fallback"}]
    with pytest.raises(OptionError, match="a fallback that is the method itself"):
        create("adamw", model_of(), fallback="same", overrides=overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "{pattern: '(a+)+$'}",
            r"overrides.0.pattern: the pattern '\(a\+\)\+\$' could take for ever",
        ),
        (
            "{pattern: x, method: frozen, lr: 1e-3}",
            r"overrides.0: an override that freezes takes no lr",
        ),
        ("{pattern: x, method: fallback, options: {rank: 2}}", "the fallback has no option 'rank'"),
        ("{pattern: x, method: galor}", "method 'galor'; did you mean 'galore'"),
        ("{pattern: x, weight_decay: 2.0}", "weight_decay: must be less than or equal to 1"),
    ],
)
def test_a_recipe_says_where_its_rule_is_wrong(ruled_path, override, message):
    with pytest.raises(UsageError, match=message):
        with_settings(load_recipe(ruled_path), [f"optimizer.overrides=[{override}]"])
    text = RECIPE.replace("{pattern: '^1\\.weight', method: adamw-8bit}", override)
    with pytest.raises(FileFormatError, match=r"r.yaml:9: "):
        parse_recipe(text, "r.yaml")


def test_a_ruled_recipe_is_written_and_read_back(ruled_path):
    recipe = load_recipe(ruled_path)
    assert parse_recipe(dump_recipe(recipe)) == recipe


def test_rules_are_counted_by_the_first_that_matches():
    overrides = [{"pattern": "weight", "method": "lion"}, {"pattern": "bias"}]
    uses = override_uses(
        overrides, parameter_roles(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)))
    )
    assert uses == (
        OverrideUse("weight", "lion", 2, 15),
        OverrideUse("bias", None, 2, 6),
        OverrideUse(None, None, 0, 0),
    )


# ---- patterns that could hang


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$", "(a*)*b", "(a|aa)+$", "(a|ab)*c", "(.*a){12}", "([a-z]+)*x", "((a?){20}){20}", ".*.*.*.*x",
        "(.|.)" * 25, "(?:x+x+)+y", r"(\w+\.?)+$", "(a??)*b", "(a{1,9}){1,9}z" * 2, "^(([a-z])+.)+[A-Z]([a-z])+$",
        "(?=(a+)+$)", "(?P<n>a|b|ab)*c", "([)]+)+", r"(\(+)+", "(a" * 30 + ")" * 30, "x" * 5000,
    ],
)  # fmt: skip
def test_patterns_that_could_hang_are_refused(pattern):
    with pytest.raises(OptionError, match=r"for ever|deep|too long"):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("attn", "blocks.0.attn.q.weight"),
        (r"^blocks\.\d+\.(?:attn\.(?:q|k|v)|mlp)\.weight$", "blocks.12.attn.k.weight"),
        (r"^blocks\.(?:0|1|2|10)\.", "blocks.10.x"),
        (r"layers\.([0-9]|1[0-5])\..*proj", "layers.13.mlp.up_proj.weight"),
        (r".*attn.*weight", "blocks.0.attn.q.weight"),
        (r"(?i)ATTN", "blocks.0.attn.q.weight"),
        (r"^(?!.*norm).*weight$", "blocks.0.attn.q.weight"),
        (r"[]()*+]|[^a-z]{2,3}?|(\.\w\.)", "blocks.0.attn.q.weight"),
        (r"a{x}|b{,2}|blocks?\.0", "block.0"),
        (r"(bl)(oc){1}ks\.\d{1,3}\b", "blocks.123"),
    ],
)
def test_what_people_write_matches_as_ever(pattern, name):
    assert compile_pattern(pattern).search(name)


def test_a_pattern_within_the_limit_ends_on_a_long_name_that_it_does_not_match():
    assert compile_pattern(".*.*.*z").search("blocks.0.attention.output.projection.weight") is None


@pytest.mark.parametrize(
    "pattern", ["(", ")", "a)", "[a", "*", "(?z)", "(?", "a**", "(?<n>a)", "\\", "(?#(x)", "(?x:a)"]
)
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(OptionError, match="is not a regular expression"):
        compile_pattern(pattern)


@given(st.text(alphabet="ab.|()[]{}*+?^$\\,12-:=!<Pi", max_size=14))
def test_any_text_is_a_pattern_or_an_error(text):
    refused = None
    try:
        found = compile_pattern(text)
    except OptionError as error:
        refused = str(error)
    if refused is not None:
        assert re.search("is not a regular expression|could take for ever", refused)
        return
    name = "blocks.0.attn.q.weight aabb12"
    assert [hit.span() for hit in found.finditer(name)] == [
        hit.span() for hit in re.finditer(text, name)
    ]
