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
    load_evidence,
    published,
)

EVIDENCE = load_evidence()


def printed(table, paper, model, method):
    """The one number of a table's cell."""
    (found,) = [
        result
        for result in EVIDENCE.results
        if (result.place, result.paper.id, result.model, result.method)
        == (f"table {table}", paper, model, method)
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
    "method", ["soap-one-sided", "adafactor-torch", "dlrt", "adamw-8bit", "adamw"]
)
def test_a_method_that_no_table_is_about_has_no_published_gain(method):
    assert published(method, 60_000_000, "language") is None


def test_every_value_carries_paper_and_table():
    for result in EVIDENCE.results:
        assert result.paper.authors
        assert result.paper.year > 2000
        assert result.place
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


def test_rates_are_as_printed():
    rates = {
        (method, rate.model): (rate.lr, rate.paper.year, rate.place)
        for rate in EVIDENCE.rates
        for method in rate.methods
    }
    assert rates["adadiag", "LLaMA 60M"] == (0.003, 2025, "table 7")
    assert rates["adamw", "ViT-B/32"] == (0.0003, 2025, "appendix D")
    assert rates["osd", "LLaMA 1B"] == (0.001, 2024, "section 5.3")
    assert rates["muon", "GPT-2 124M"] == (0.02, 2026, "README")


def test_authors_count_half_and_reruns_by_others_whole():
    own = published("adadiag", 60_000_000, "language")
    assert own.certainty is Certainty.NEAR
    assert own.expected_gain == pytest.approx(0.5 * (1 - 28.71 / 31.12))
    rerun = published("galore", 60_000_000, "language")
    assert rerun.result.is_independent
    assert rerun.result.baseline == "stable-spam"
    assert rerun.expected_gain == pytest.approx(1 - 34.58 / 28.77)


def test_fewer_tokens_are_worth_what_the_steps_saved_are():
    near = published("soap", 130_000_000, "language")
    assert near.gain == pytest.approx(0.10 * math.log2(1 / 0.714))


def test_independent_sources_come_first_at_the_same_size():
    assert published("galore", 1_300_000_000, "language").result.paper.id == "minimalist"


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


def test_no_file_has_a_key_twice():
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader, node):
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return yaml.SafeLoader.construct_mapping(loader, node, deep=True)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    folder = resources.files("subopt.recipes.evidence")
    files = [*folder.joinpath("sources").iterdir(), folder.joinpath("methods.yaml")]
    prior = resources.files("subopt.recipes.prior")
    files += [prior.joinpath("rates.yaml"), prior.joinpath("gains.yaml")]
    for file in files:
        assert yaml.load(file.read_text(encoding="utf-8"), Strict)
