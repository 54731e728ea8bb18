"""The papers' numbers as data, and the two questions asked of them."""

from __future__ import annotations

import math
from importlib import resources

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from subopt.recipes.evidence.published import (
    Certainty,
    NearestRate,
    NoPublishedRate,
    load_evidence,
    published,
    published_lr,
)

EVIDENCE = load_evidence()


def printed(table, paper, model, method):
    """The one number of a table's cell."""
    (found,) = [
        result
        for result in EVIDENCE.results
        if (result.table, result.paper.id, result.model, result.method)
        == (table, paper, model, method)
    ]
    return found


@pytest.mark.parametrize(
    ("paper", "table", "model", "method", "value"),
    [
        ("diagonalization", 1, "ResNet50", "adadiag++", 75.86),
        ("diagonalization", 2, "LLaMA 1B", "adadiag", 14.11),
        ("diagonalization", 3, "ViT-B/32", "adafacdiag", 73.24),
        ("diagonalization", 3, "ViT-B/32", "adafacdiag-nomom", 72.54),
        ("diagonalization", 5, "LLaMA 350M", "hfacdiag", 17.50),
        ("diagonalization", 6, "RoBERTa-Base", "adadiag", 86.74),
        ("subspace", 1, "LLaMA 1B", "osd", 31.30),
        ("subspace", 1, "LLaMA 60M", "galore-8bit", 57.03),
        ("diagonalization", 2, "LLaMA 130M", "shampoo", 23.40),
        ("shared-basis", 3, "6-layer Transformer", "block-adam", 70.43),
        ("shared-basis", 3, "6-layer Transformer", "shampoo", 68.79),
        ("shared-basis", 3, "6-layer Transformer", "sketchy", 68.32),
        ("subspace", 3, "LLaMA 7B", "galore", 51.21),
        ("shared-basis", 3, "6-layer Transformer", "shared-basis", 70.63),
    ],
)
def test_cells_are_as_printed(paper, table, model, method, value):
    assert printed(table, paper, model, method).value == value


def test_column_of_the_same_model_has_one_baseline_value_per_paper():
    seen = {}
    for result in EVIDENCE.results:
        if result.method == EVIDENCE.baseline:
            key = (result.paper.id, result.model, result.metric)
            assert seen.setdefault(key, result.value) == result.value


def test_every_id_is_a_method_or_a_named_other():
    from subopt.optimizers import METHODS

    known = set(METHODS) | set(EVIDENCE.other_methods)
    used = {result.method for result in EVIDENCE.results}
    used |= {method for rate in EVIDENCE.rates for method in rate.methods}
    used |= set(EVIDENCE.relative_rates)
    assert used <= known
    assert EVIDENCE.baseline in METHODS


@pytest.mark.parametrize(
    "method", ["soap", "soap-one-sided", "muon", "adafactor-torch", "dlrt", "adamw-8bit"]
)
def test_a_method_that_no_table_is_about_has_no_published_gain(method):
    assert published(method, 60_000_000, "language") is None


def test_every_value_carries_paper_and_table():
    for result in EVIDENCE.results:
        assert result.paper.authors
        assert result.paper.year > 2000
        assert result.table > 0
        assert result.parameters > 0
        assert 0 < result.value < 100


def test_gain_of_a_perplexity_is_the_share_removed():
    result = printed(2, "diagonalization", "LLaMA 350M", "adadiag")
    assert result.gain == pytest.approx((18.79 - 16.91) / 18.79)


def test_gain_of_an_accuracy_is_the_share_of_errors_removed():
    result = printed(1, "diagonalization", "ViT-S/16", "adadiag")
    assert result.gain == pytest.approx((79.18 - 78.35) / (100 - 78.35))


def test_worse_than_the_baseline_is_negative():
    assert printed(1, "subspace", "LLaMA 1B", "galore").gain == pytest.approx(1 - 35.52 / 29.40)


def test_the_baseline_gains_nothing_over_itself():
    near = published(EVIDENCE.baseline, 60_000_000, "language")
    assert near is not None
    assert near.gain == 0.0


def test_a_table_without_a_baseline_is_never_a_gain():
    assert printed(3, "subspace", "LLaMA 7B", "osd").gain is None
    near = published("osd", 7_000_000_000, "language")
    assert near is not None
    assert near.result.model == "LLaMA 1B"


@pytest.mark.parametrize(
    ("parameters", "model", "certainty"),
    [
        (60_000_000, "LLaMA 60M", Certainty.NEAR),
        (300_000_000, "LLaMA 350M", Certainty.NEAR),
        (10_000_000, "LLaMA 60M", Certainty.MODERATE),
        (3_000_000, "LLaMA 60M", Certainty.FAR),
        (7_000_000_000, "LLaMA 1B", Certainty.MODERATE),
    ],
)
def test_nearest_size_of_the_same_kind(parameters, model, certainty):
    near = published("adadiag", parameters, "language")
    assert near is not None
    assert (near.result.model, near.certainty) == (model, certainty)


@pytest.mark.parametrize(
    ("tokens", "certainty"),
    [
        (131_072, Certainty.NEAR),
        (None, Certainty.NEAR),
        (32_768, Certainty.MODERATE),
        (2_048, Certainty.FAR),
        (10_000_000, Certainty.FAR),
    ],
)
def test_a_batch_unlike_the_published_one_is_less_certain(tokens, certainty):
    near = published("adadiag", 60_000_000, "language", tokens)
    assert near is not None
    assert near.certainty is certainty


def test_kind_comes_before_size():
    near = published("adadiag", 25_600_000, "language")
    assert near is not None
    assert near.result.kind == "language"


def test_another_kind_is_far_whatever_its_size():
    near = published("adadiag++", 25_600_000, "language")
    assert near is not None
    assert near.result.kind == "vision"
    assert near.certainty is Certainty.FAR
    assert abs(near.expected_gain) < abs(near.gain)


def test_unknown_kind_is_far():
    near = published("adadiag", 60_000_000, None)
    assert near is not None
    assert near.certainty is Certainty.FAR


@pytest.mark.parametrize("method", ["lion", "momentum", "no-such-method"])
def test_no_published_comparison_is_none(method):
    assert published(method, 60_000_000, "language") is None


@pytest.mark.parametrize(
    ("method", "parameters", "kind", "lr"),
    [
        ("adadiag", 60_000_000, "language", 0.003),
        ("adadiag", 3_000_000, "language", 0.003),
        ("adamw", 120_000_000, "language", 0.001),
        ("adamw", 90_000_000, "vision", 0.0003),
        ("adamw", 26_000_000, "vision", 0.001),
        ("galore", 50_000_000, "language", 0.01),
        ("osd", 1_000_000_000, "language", 0.001),
        ("lion", 130_000_000, "language", 0.0003),
        ("adadiag++", 60_000_000, "language", 0.003),  # published for vision only: AdamW's
        ("adadiag++", 60_000_000, "vision", 0.0003),
        ("adadiag++", 26_000_000, None, 0.001),
    ],
)
def test_learning_rate_of_the_nearest_setting(method, parameters, kind, lr):
    assert published_lr(method, parameters, kind).lr == pytest.approx(lr)


def test_learning_rate_says_where_it_is_from():
    found = published_lr("adadiag", 60_000_000, "language")
    assert (found.lr, found.weight_decay, found.tokens_per_step) == (0.003, None, 131_072)
    assert type(found.reason) is NearestRate
    rate = found.reason.rate
    assert (rate.model, rate.paper.year, rate.place) == ("LLaMA 60M", 2025, "table 7")


def test_unpublished_learning_rate_is_the_baselines_and_says_so():
    found = published_lr("momentum", 60_000_000, "language")
    assert found.lr == published_lr(EVIDENCE.baseline, 60_000_000, "language").lr
    assert type(found.reason) is NoPublishedRate
    assert found.reason.method == "momentum"


def test_vision_rates_bring_their_weight_decay():
    assert published_lr("adadiag", 22_000_000, "vision").weight_decay == 0.1


@given(
    parameters=st.integers(1, 10**12),
    method=st.sampled_from(sorted({result.method for result in EVIDENCE.results})),
    kind=st.sampled_from(["language", "vision", None]),
)
def test_nearest_is_nearest(parameters, method, kind):
    near = published(method, parameters, kind)
    same = [
        result
        for result in EVIDENCE.results
        if result.method == method and result.gain is not None and kind in {None, result.kind}
    ]
    if near is not None and same:
        ratio = abs(math.log(near.result.parameters / parameters))
        assert ratio == min(abs(math.log(result.parameters / parameters)) for result in same)


def test_the_file_has_no_key_twice():
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader, node):
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return yaml.SafeLoader.construct_mapping(loader, node, deep=True)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    file = resources.files("subopt.recipes.evidence").joinpath("published.yaml")
    text = file.read_text(encoding="utf-8")
    assert yaml.load(text, Strict)["baseline"] == EVIDENCE.baseline
