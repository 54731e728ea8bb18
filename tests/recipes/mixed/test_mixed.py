"""A mix of methods: against every possible one, within its budget, as overrides that do what it says, and in words."""

import io
import itertools
import math
import re
from functools import cache

import pytest
import torch
from typer.testing import CliRunner

from subopt.app import app
from subopt.optimizers import create, get_method, parameter_roles
from subopt.profilers.costs.formula import method_costs, weights_of
from subopt.profilers.record.profile import Layer
from subopt.recipes.advice.advisor import recommend, to_recipe
from subopt.recipes.advice.proposal import recipe_reasons
from subopt.recipes.advice.reasons import ChosenRate
from subopt.recipes.mixed import choose as mixed_module
from subopt.recipes.mixed.choices import matrices, measured_candidates
from subopt.recipes.mixed.choose import choose_mixed, leanest_bytes
from subopt.recipes.mixed.groups import WORTH_A_SPLIT, group_choices, like_layers
from subopt.recipes.mixed.name_patterns import patterns_for, role_of
from subopt.recipes.mixed.problem import problem_of
from subopt.recipes.mixed.record import MixRemark
from subopt.recipes.mixed.sentences import mixed_sentences
from subopt.recipes.plan.solving import PlanRequest
from subopt.recipes.ranking.planned import asked_plans
from subopt.recipes.ranking.rule import WORTH_A_CHANGE
from subopt.recipes.recipe.load import dump_recipe, parse_recipe
from subopt.recipes.run_folder.weights import actual_state_bytes
from subopt.terminal.advice import mixed_section

from .. import advice_profile as build

MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Linear(16, 16)
        self.up = nn.Linear(16, 48)
        self.down = nn.Linear(48, 16)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.q(x))))


def build_model():
    return nn.Sequential(nn.Embedding(37, 16), *(Block() for _ in range(3)), nn.Linear(16, 37))


def batches(batch_size):
    while True:
        yield torch.randint(0, 37, (batch_size,))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch), (batch * 3 + 1) % 37)
"""

# How much the covariance's bases gain over the weights' own coordinates, layer by layer: the deeper and the wider the
# more, and nothing for the first block.
DIAGONAL = {"1.q": 0.01, "2.q": 0.05, "3.q": 0.1, "1.up": 0.02, "2.up": 0.4, "3.up": 0.9}


def build_model():
    namespace = {}
    exec(MODEL, namespace)
    return namespace["build_model"]()


def measured(name):
    best = DIAGONAL.get(name.removesuffix(".weight"), 0.2)
    return {
        "diagonality": build.diagonality(0.01, max(best / 2, 0.01), max(best / 1.5, 0.01), best),
        "spectrum": build.spectrum({1: 0.3, 4: 0.6, 8: 0.9}),
    }


def make_profile(methods, *, overhead_ms=None, target="model.py", **changes):
    """A profile of the model above with real costs, made-up times, and gradients that favour some layers."""
    described = parameter_roles(build_model())
    costs = [
        row.model_copy(
            update={"step_ms": 10 + extra, "overhead_ms": extra, "step_ms_source": "measured"}
        )
        for row in method_costs(weights_of(described), methods, tokens=2048)
        for extra in [(overhead_ms or {}).get(row.method, 0.0)]
    ]
    layers = [
        Layer(
            name=item.name,
            shape=list(item.shape),
            module_type=item.module_type,
            layer_type=item.layer_type,
            role=item.role,
            reason=item.reason,
            **(measured(item.name) if item.role == "matrix" else {}),
        )
        for item in described
    ]
    weights = sum(math.prod(layer.shape) * 4 for layer in layers)
    found = build.profile(layers, costs, steps=100, **changes)
    memory = found.memory.model_copy(update={"parameter_bytes": weights, "gradient_bytes": weights})
    return found.model_copy(
        update={"memory": memory, "target": found.target.model_copy(update={"spec": target})}
    )


@cache
def profile_of(methods):
    return make_profile(methods)


def rows_of(profile, usable_bytes=2**40):
    planned = asked_plans(
        profile, profile.methods, PlanRequest(recompute=False, fused_backward=False), usable_bytes
    )
    return [item.row for item in planned]


def choose(profile, usable_bytes=2**40):
    return choose_mixed(profile, rows_of(profile, usable_bytes), usable_bytes)


def peak_of(profile, method):
    (row,) = [row for row in rows_of(profile) if row.method == method]
    return row.peak.bytes + row.peak.overhead_bytes


FEW = ("adamw", "soap", "adafacdiag", "hfacdiag")


@pytest.mark.parametrize("method", ["adamw", "soap", "adadiag", "galore"])
def test_one_method_allowed_is_that_method_everywhere(method):
    profile = profile_of((method,))
    (cost,) = [cost for cost in profile.methods if cost.method == method]
    rows = [row for row in rows_of(profile) if row.method == method]
    found = choose_mixed(profile, rows, 2**40)
    assert {use.method for use in found.uses} == {method}
    assert sum(len(use.layers) for use in found.uses) == 9
    if method != "galore":  # which may have several ranks
        assert (found.overrides, found.state_bytes) == ((), cost.state_bytes)
        assert found.gain == pytest.approx(
            rows[0].score if rows[0].is_promising or rows[0].score < 0 else 0.0
        )
        assert found.peak.bytes == rows[0].peak.bytes
        assert found.step_ms == pytest.approx(rows[0].step_ms)


def brute_force(profile, usable_bytes, parts):
    """The best gain of all assignments of methods to parts of the layers, and of fallbacks."""
    problem = problem_of(profile, rows_of(profile, usable_bytes), usable_bytes)
    best = -math.inf
    for picks in itertools.product(problem.methods, repeat=len(parts)):
        chosen = [method.choice(part) for method, part in zip(picks, parts, strict=True)]
        for kind in problem.kinds:
            used = [*chosen, kind.choice]
            if sum(c.bytes for c in used) <= min(c.limit_bytes for c in used):
                best = max(best, sum(c.value for c in used))
    return best


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_it_is_as_good_as_trying_everything_by_group_and_bounded_by_everything_by_layer(share):
    profile = profile_of(FEW)
    least, most = peak_of(profile, "hfacdiag"), peak_of(profile, "soap")
    usable = int(least + share * (most - least))
    found = choose(profile, usable)
    groups = like_layers(matrices(profile))
    assert [len(group) for group in groups] == [3, 3, 3]
    assert found.gain >= brute_force(profile, usable, groups) - 1e-12
    six = [
        (0,),
        (3,),
        (6,),
        (1, 2),
        (4, 5),
        (7, 8),
    ]  # finer than groups, and still few enough to try
    assert found.bound_gain >= brute_force(profile, usable, six) - 1e-12
    assert found.bound_gain >= found.gain
    assert found.peak.bytes + found.peak.overhead_bytes <= usable


def test_a_larger_budget_promises_no_less():
    profile = profile_of(FEW)
    least, most = peak_of(profile, "hfacdiag"), peak_of(profile, "soap")
    found = [
        choose(profile, usable) for usable in range(least - 2000, most + 2000, (most - least) // 25)
    ]
    found = found[found.count(None) :]
    assert None not in found
    # What a split must be worth is not in the gain: a budget that saves one may look as much worse.
    room = 3 * WORTH_A_SPLIT
    assert all(a.gain <= b.gain + room for a, b in itertools.pairwise(found))
    assert all(a.bound_gain <= b.bound_gain + 1e-12 for a, b in itertools.pairwise(found))
    assert found[0].gain < found[-1].gain


def test_what_fits_nowhere_is_none_and_what_it_would_need_is_exact():
    profile = profile_of(FEW)
    needed = leanest_bytes(profile, rows_of(profile), 2**40)
    assert choose(profile, needed - 1) is None
    leanest = choose(profile, needed)
    assert leanest.peak.bytes + leanest.peak.overhead_bytes == needed
    assert needed <= peak_of(profile, "hfacdiag")
    assert leanest_bytes(profile, [], 2**40) is None


def test_the_layers_that_gain_most_get_the_dear_method():
    profile = profile_of(("adamw", "soap"))
    little = peak_of(profile, "adamw") + 40_000
    found = choose(profile, little)
    dear = {name for use in found.uses if use.method == "soap" for name in use.layers}
    assert "3.up.weight" in dear
    assert not {"1.up.weight", "2.up.weight"} & dear
    assert 0 < len(dear) < 9


def test_a_dear_step_is_worth_less():
    profile = make_profile(FEW, overhead_ms={"soap": 400.0})
    assert all(use.method != "soap" for use in choose(profile).uses)
    assert any(use.method == "soap" for use in choose(profile_of(FEW)).uses)


def test_lower_ranks_are_tried_and_keep_fewer_directions():
    profile = profile_of(("adamw", "galore"))
    candidates = [
        found.candidate for found in measured_candidates(profile, rows_of(profile), 2**40)
    ]
    assert [c.cost.options.get("rank") for c in candidates] == [None, 0.25, 0.5, 0.125]
    by_rank = {
        f.candidate.cost.options.get("rank"): f
        for f in measured_candidates(profile, rows_of(profile), 2**40)
    }
    assert sum(by_rank[0.125].values) < sum(by_rank[0.25].values) < sum(by_rank[0.5].values)
    assert sum(by_rank[0.125].bytes) < sum(by_rank[0.25].bytes) < sum(by_rank[0.5].bytes)
    assert by_rank[0.125].step_ms == by_rank[0.25].step_ms  # a lower rank is not taken to be faster
    whole = get_method("galore").state_bytes((16, 16), options={"rank": 0.125})
    assert by_rank[0.125].bytes[0] == whole


def test_methods_without_evidence_or_with_layers_of_their_own_are_left_out():
    profile = profile_of(("adamw", "lion", "dlrt", "soap"))
    methods = {
        found.candidate.row.method
        for found in measured_candidates(profile, rows_of(profile), 2**40)
    }
    assert methods == {"adamw", "soap"}


def test_more_than_a_few_methods_are_simplified(monkeypatch):
    profile = profile_of(FEW)
    usable = (peak_of(profile, "hfacdiag") + peak_of(profile, "soap")) // 2
    whole = choose(profile, usable)
    assert len({use.method for use in whole.uses}) > 1
    monkeypatch.setattr(mixed_module, "MOST_METHODS", 1)
    simple = choose(profile, usable)
    assert len([use for use in simple.uses if use.layers]) == 1
    assert simple.gain < whole.gain
    assert simple.bound_gain == whole.bound_gain


def test_ways_of_a_group_hold_every_method_and_the_layers_that_gain_most():
    profile = profile_of(("adamw", "soap"))
    methods = measured_candidates(profile, rows_of(profile), 2**40)
    up = like_layers(matrices(profile))[1]
    ways = {way.methods for way in group_choices(up, methods)}
    assert (0, 0, 0) in ways
    assert (0, 0, 1) in ways
    assert (1, 0, 0) not in ways


# ---- as a recipe


@pytest.fixture
def advice(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    profile = make_profile(FEW, target="model.py")
    usable = (peak_of(profile, "hfacdiag") + peak_of(profile, "soap")) // 2
    return profile, recommend(profile, budget_bytes=usable, device="cpu", mixed=True)


def test_the_recipe_gives_every_layer_its_method_and_takes_the_predicted_bytes(advice, tmp_path):
    profile, found = advice
    recipe = to_recipe(found, profile, recipe_path=tmp_path / "r.yaml")
    assert parse_recipe(dump_recipe(recipe)) == recipe
    model, settings = build_model(), recipe.optimizer
    optimizer = create(
        settings.method, model, lr=settings.lr, fallback=settings.fallback.model_dump(),
        overrides=[override.model_dump() for override in settings.overrides], **settings.options,
    )  # fmt: skip
    methods = {name: g["method"] for g in optimizer.param_groups for name in g["param_names"]}
    for use in found.mixed.uses:
        assert {methods[name] for name in use.layers} <= {use.method}
    assert len(found.mixed.uses) > 1
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert (
        optimizer.planned_state_bytes() == actual_state_bytes(optimizer) == found.mixed.state_bytes
    )
    assert recipe.why.predicted_state_bytes == found.mixed.state_bytes
    assert recipe.why.predicted_peak_bytes == found.mixed.peak.bytes


def test_every_rate_is_the_methods_own_and_the_fallback_has_adamws(advice, tmp_path):
    profile, found = advice
    recipe = to_recipe(found, profile, recipe_path=tmp_path / "r.yaml")
    rates = [r.method for r in recipe_reasons(found, profile) if isinstance(r, ChosenRate)]
    assert {use.method for use in found.mixed.uses} <= set(rates)
    assert recipe.optimizer.fallback.lr is not None
    assert all(
        override.lr is not None and override.weight_decay is not None
        for override in recipe.optimizer.overrides
    )


def test_the_command_writes_a_mixed_recipe_that_trains(advice, tmp_path, monkeypatch):
    profile, found = advice
    profile.save(tmp_path / "p.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subopt.recipes.advice.advisor.recommend", lambda profile, **keys: found)
    run = CliRunner()
    words = ["recommend", "--profile", "p.json", "--gpu-mem", "4GB", "--mixed", "-o", "r.yaml"]
    shown = run.invoke(app, words, env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    assert "Mix of methods" in shown.stdout
    for override in found.mixed.overrides:
        assert override.pattern in shown.stdout
    overrides = ["model.sha256=null", "schedule.steps=2", "schedule.warmup_steps=0", "--dry-run"]
    dry = run.invoke(app, ["train", "r.yaml", *overrides], env={"COLUMNS": "160"})
    assert dry.exit_code == 0, dry.output
    assert dry.stdout.count("override") >= len(found.mixed.overrides)


# ---- in words


def test_it_says_what_it_assumes_and_how_far_from_the_best_it_is(advice):
    _, found = advice
    what, against, best, assumed = found.mixed.sentences
    assert what.startswith(f"A mix of {len(found.mixed.uses)} methods for the 9 matrices: ")
    assert "against plain AdamW in equal time" in against
    assert re.search(r"within \d+\.\d% of the best possible", best)
    assert "add up, which nothing measured here shows" in assumed
    assert set(map(MixRemark, found.mixed.sentences)) <= set(found.reasons)


def test_a_mix_that_gains_next_to_nothing_is_said_to_be_no_better(advice):
    from dataclasses import replace

    _, found = advice
    gain = found.mixed.gain
    close = replace(found.mixed, best_single=(gain - WORTH_A_CHANGE / 2, "soap"))
    assert "not enough of a difference" in mixed_sentences(close)[1]
    alone = replace(found.mixed, best_single=None)
    assert "no method of which anything is known fits alone" in mixed_sentences(alone)[1]
    worse = replace(found.mixed, gain=-0.05, bound_gain=-0.04)
    assert "at most 1.00 points from it" in mixed_sentences(worse)[2]


def test_the_table_has_a_row_for_every_rule_and_for_the_rest(advice):
    from rich.console import Console

    _, found = advice
    console = Console(width=140, file=io.StringIO())
    console.print(mixed_section(found.mixed))
    text = console.file.getvalue()
    assert text.count("all other matrices") == 1
    assert "all that is no matrix" in text
    assert all(override.pattern in text for override in found.mixed.overrides)


# ---- patterns


NAMES = [
    f"blocks.{i}.{role}.weight" for i in (0, 1, 2, 10) for role in ("attn.q", "attn.k", "mlp.fc")
]
SETS = {
    "one role": [n for n in NAMES if "attn.q" in n],
    "two roles": [n for n in NAMES if "attn.q" in n or "mlp" in n],
    "some layers": ["blocks.1.attn.q.weight", "blocks.10.attn.q.weight"],
    "roles and layers": [n for n in NAMES if "mlp" in n] + ["blocks.2.attn.k.weight"],
    "all": NAMES,
    "one": ["blocks.1.mlp.fc.weight"],
}


@pytest.mark.parametrize("names", SETS.values(), ids=SETS)
def test_patterns_match_their_names_and_no_others(names):
    extra = [
        "xblocks.0.attn.q.weight",
        "blocks.0.attn.q.weights",
        "blocks.0.attn_q.weight",
        "weight",
    ]
    others = {*NAMES, *extra} - set(names)
    (pattern,) = patterns_for(names, others)
    assert all(re.search(pattern, name) for name in names)
    assert not any(re.search(pattern, other) for other in others)


def test_patterns_are_short_where_names_are_alike():
    assert patterns_for(SETS["two roles"], set(NAMES) - set(SETS["two roles"])) == [
        r"^blocks\.\d+\.(?:attn\.q|mlp\.fc)\.weight$"
    ]
    assert patterns_for(SETS["some layers"], NAMES) == [r"^blocks\.(?:1|10)\.attn\.q\.weight$"]
    assert role_of("h.3.experts.12.w1.weight") == "h.#.experts.#.w1.weight"


def test_names_with_several_numbers_and_odd_characters_are_matched_one_by_one():
    names = ["layers.0.experts.1.w+1", "layers.1.experts.0.w+1"]
    others = ["layers.0.experts.0.w+1", "layers.1.experts.1.w+1", "layers.0.experts.1.www1"]
    (pattern,) = patterns_for(names, others)
    assert [bool(re.search(pattern, name)) for name in [*names, *others]] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_what_is_too_long_for_one_pattern_becomes_several():
    names = [f"layers.{i}.experts.{(7 * i) % 4001}.some_long_projection.weight" for i in range(600)]
    others = [f"layers.{i}.experts.{i}.some_long_projection.weight" for i in range(1, 200)]
    patterns = patterns_for(names, set(others) - set(names))
    assert 1 < len(patterns) < 10
    assert all(sum(bool(re.search(pattern, name)) for pattern in patterns) == 1 for name in names)
