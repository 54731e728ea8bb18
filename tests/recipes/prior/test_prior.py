"""What is expected before anything is measured: traits, rates, gains, and the few methods to try."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from subopt.optimizers import METHODS, get_method
from subopt.recipes.prior.gains import by_prior_gain, is_small_batch, prior_gain
from subopt.recipes.prior.portfolio import portfolio
from subopt.recipes.prior.rates import (
    FittedRate,
    RelatedRate,
    bearable_decay,
    beside_rate,
    on_grid,
    prior_rate,
    too_much_decay,
)
from subopt.recipes.prior.traits import Traits, traits_of_model, traits_of_profile

from ..advice_profile import layer, profile

TINY = Traits("language", 200_000, 64, 14, 2_048, 600)
LLAMA_60M = Traits("language", 60_000_000, 638, 56, 131_072, 10_000)
LLAMA_1B = Traits("language", 1_300_000_000, 2550, 168, 131_072, 100_000)
VIT_S = Traits("vision", 22_000_000, 610, 49, None, 93_835)


def half_decades(lr: float, other: float) -> float:
    return abs(2 * math.log10(lr / other))


# ---- traits


def test_width_is_the_geometric_mean_of_the_inputs_by_size():
    model = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 4))
    found = traits_of_model(model)
    assert found.width == pytest.approx(8)  # sqrt(4 * 16), equal sizes
    assert (found.depth, found.parameters, found.kind) == (2, 2 * 64 + 20, None)


def test_larger_matrices_count_more_and_embeddings_do_not():
    model = nn.Sequential(
        nn.Embedding(1000, 8), nn.Linear(8, 8), nn.Linear(8, 24), nn.Linear(24, 24)
    )
    sizes = {8: 64 + 192, 24: 576}
    total = sum(sizes.values())
    wanted = math.exp(sum(size * math.log(fan) for fan, size in sizes.items()) / total)
    found = traits_of_model(model, tokens_per_step=96, steps=7, fine_tunes=True)
    assert found.width == pytest.approx(wanted)
    assert (found.kind, found.tokens_per_step, found.steps, found.fine_tunes) == (
        "language",
        96,
        7,
        True,
    )


def test_a_convolution_has_the_inputs_of_its_window():
    found = traits_of_model(nn.Conv2d(3, 8, 5, bias=False))
    assert (found.kind, found.width) == ("vision", pytest.approx(75))


def test_an_embedding_of_positions_does_not_make_images_text():
    model = nn.Sequential(nn.Conv2d(1, 8, 4), nn.Embedding(16, 8))
    assert traits_of_model(model).kind == "vision"
    assert traits_of_model(nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 8))).kind == "language"


def test_a_model_without_matrices_has_a_width_too():
    assert traits_of_model(nn.LayerNorm(8)).width == 1
    assert traits_of_model(nn.Embedding(100, 16)).width == pytest.approx(16)


def test_a_profile_gives_the_traits_of_its_run():
    given = profile(
        [layer(shape=(8, 32)), layer(shape=(8,), role="fallback")], tokens_per_batch=512
    )
    found = traits_of_profile(given, examples_per_step=2 * given.settings.batch_size, steps=50)
    assert found == Traits(None, 8 * 32 + 8, pytest.approx(32), 1, 1024, 50, fine_tunes=False)
    target = given.target.model_copy(update={"loads_weights": True})
    loaded = given.model_copy(update={"target": target})
    assert traits_of_profile(loaded).fine_tunes


# ---- rates


@pytest.mark.parametrize(
    ("lr", "nearest"),
    [(1e-3, 1e-3), (1.7e-3, 1e-3), (1.8e-3, 3e-3), (5e-3, 3e-3), (6e-3, 1e-2), (0.9, 1.0)],
)
def test_rates_stand_on_the_half_decade_grid(lr, nearest):
    assert on_grid(lr) == nearest


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("traits", [TINY, LLAMA_60M, LLAMA_1B, VIT_S, replace(TINY, kind=None)])
def test_every_method_has_a_rate(method, traits):
    found = prior_rate(method, traits)
    assert found.lr == on_grid(found.lr)
    assert 1e-6 <= found.lr <= 1
    assert 0.1 < found.decades_error < 1
    assert not too_much_decay(found.lr, found.weight_decay)


@pytest.mark.parametrize(
    ("method", "times"),
    [("adamw", 1), ("soap", 1), ("muon", 0.3), ("lion", 3), ("galore-8bit", 0.3)],
)
def test_what_a_method_leaves_alone_is_trained_in_proportion(method, times):
    """As in the runs of the advice benchmark, that the methods' own rates are fitted to."""
    found = prior_rate(method, TINY)
    assert found.fallback_lr == pytest.approx(times * found.lr)
    assert beside_rate(method, 1e-2, TINY) == pytest.approx(times * 1e-2)


def test_muons_share_falls_with_the_width_for_adamws_rate_does():
    wide = replace(LLAMA_1B, width=64 * 100)
    assert beside_rate("muon", 0.1, TINY) == pytest.approx(10 * beside_rate("muon", 0.1, wide))
    assert beside_rate("soap", 0.1, TINY) == beside_rate("soap", 0.1, wide)


@pytest.mark.parametrize(
    ("method", "traits", "published"),
    [
        ("adamw", LLAMA_60M, 3e-3),  # Nguyen et al. 2025, table 7
        ("adamw", LLAMA_1B, 1e-3),
        ("adadiag", LLAMA_1B, 1e-3),
        ("adamw", VIT_S, 3e-4),  # appendix D
        ("galore", replace(LLAMA_60M, steps=10_000), 1e-2),  # Liang et al. 2024, section 5.3
        ("muon", replace(LLAMA_60M, tokens_per_step=524_288), 2e-2),  # Jordan et al. 2024
        ("adamw", TINY, 5.5e-3),  # tiny models want 3e-3 to 1e-2
        ("soap", TINY, 1e-2),
        ("lion", TINY, 1e-3),  # 1e-3 to 3e-3 on most of the dev half
    ],
)
def test_rates_agree_with_what_is_published_and_with_small_models(method, traits, published):
    assert half_decades(prior_rate(method, traits).lr, published) <= 1.3


@pytest.mark.parametrize(("traits", "lr"), [(LLAMA_60M, 3e-3), (LLAMA_1B, 1e-3)])
def test_adamw_gets_the_papers_rates_for_the_papers_models(traits, lr):
    assert prior_rate("adamw", traits).lr == lr


@pytest.mark.parametrize(
    ("traits", "lr"),
    [
        (
            Traits("language", 110_000_000, 1219, 72, 4_096, 10_000, True),
            3e-5,
        ),  # BERT-base: 2e-5 to 5e-5
        (Traits("language", 6_700_000_000, 5106, 224, 65_536, 1_200, True), 3e-5),  # LLaMA 7B: 2e-5
    ],
)
def test_large_models_are_fine_tuned_at_the_usual_rates(traits, lr):
    assert prior_rate("adamw", traits).lr == lr


def test_rates_fall_with_width_and_length_and_for_fine_tuning():
    assert prior_rate("adamw", replace(TINY, width=4096)).lr < prior_rate("adamw", TINY).lr
    assert prior_rate("adamw", replace(TINY, steps=10**6)).lr < prior_rate("adamw", TINY).lr
    tuned = prior_rate("adamw", replace(TINY, fine_tunes=True))
    assert tuned.lr < 0.5 * prior_rate("adamw", TINY).lr
    # Steps whose size falls with the width by themselves
    assert prior_rate("muon", replace(TINY, width=6400)).lr >= prior_rate("muon", TINY).lr / 3


def test_a_reason_says_what_a_rate_rests_on():
    assert isinstance(prior_rate("adamw", TINY).reason, FittedRate)
    related = prior_rate("adamw-8bit", TINY)
    assert related.reason == RelatedRate("adamw-8bit", "adamw", related.decades_error)
    assert related.lr == prior_rate("adamw", TINY).lr
    assert related.decades_error > prior_rate("adamw", TINY).decades_error


def test_decay_is_scaled_to_what_a_rate_can_bear():
    assert bearable_decay(1e-3, 0.1) == 0.1
    assert bearable_decay(0.1, 0.1) == pytest.approx(0.01)
    assert bearable_decay(1.0, 0.1) == pytest.approx(0.001)
    assert bearable_decay(0.006, 1.0) == pytest.approx(0.1)  # 0.167 rounded down
    assert too_much_decay(0.1, 0.1)
    assert not too_much_decay(0.008, 0.1)  # Muon's in Wen et al. 2025


# ---- gains


def regime_of(traits):
    return prior_gain("soap", traits).regime


def test_regimes_of_runs():
    assert is_small_batch(replace(LLAMA_60M, tokens_per_step=8192))
    assert not is_small_batch(LLAMA_60M)
    assert not is_small_batch(TINY)  # there our own runs speak
    assert regime_of(TINY) == "small models"
    assert regime_of(LLAMA_60M) == "language models from scratch"
    assert regime_of(replace(LLAMA_60M, tokens_per_step=8192)) == "small batches"
    assert regime_of(replace(LLAMA_60M, tokens_per_step=None)) == "language models from scratch"
    assert regime_of(replace(VIT_S, parameters=88_000_000)) == "other models"
    assert regime_of(replace(TINY, fine_tunes=True)) == "fine-tuning"


@pytest.mark.parametrize(
    "traits",
    [
        TINY,
        replace(LLAMA_60M, tokens_per_step=4096),
        LLAMA_1B,
        VIT_S,
        replace(TINY, fine_tunes=True),
    ],
)
def test_every_method_has_a_gain_in_every_regime_but_the_baseline(traits):
    missing = [name for name in METHODS if prior_gain(name, traits) is None]
    assert missing == ["adamw"]


def test_gains_of_matrix_methods_shrink_with_size():
    sizes = (60e6, 0.5e9, 0.8e9, 1e9, 2e9, 7e9)
    gains = [prior_gain("soap", replace(LLAMA_1B, parameters=int(n))).gain for n in sizes]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] == gains[1] == pytest.approx(0.10 * math.log2(1.35), abs=0.001)
    assert gains[-1] == pytest.approx(0.10 * math.log2(1.1), abs=0.001)


def test_fine_tuning_and_small_batches_promise_nothing_over_adamw():
    for traits in (replace(LLAMA_1B, fine_tunes=True), replace(LLAMA_1B, tokens_per_step=8192)):
        assert by_prior_gain(traits)[0] == "adamw"
        assert all(prior_gain(name, traits).gain <= 0 for name in METHODS if name != "adamw")


# ---- portfolio


@pytest.mark.parametrize("traits", [TINY, LLAMA_60M, LLAMA_1B, VIT_S])
def test_a_portfolio_is_few_methods_with_adamw_and_a_lean_one(traits):
    found = portfolio(traits, list(METHODS))
    assert 3 <= len(found) <= 4
    assert found[0] == "soap"
    assert "adamw" in found
    square = (1024, 1024)
    adamw_bytes = get_method("adamw").state_bytes(square)
    assert any(get_method(name).state_bytes(square) < 0.6 * adamw_bytes for name in found)


def test_fine_tuning_starts_with_adamw():
    assert portfolio(replace(LLAMA_60M, fine_tunes=True), list(METHODS))[0] == "adamw"


def test_a_portfolio_has_what_is_available_alone():
    assert portfolio(TINY, ["lion"]) == ("lion",)
    assert set(portfolio(TINY, ["lion", "adamw", "galore"])) == {"lion", "adamw", "galore"}
    assert portfolio(TINY, []) == ()
    assert portfolio(TINY, ["galore-8bit", "adamw-8bit"]) == ("adamw-8bit", "galore-8bit")
    assert portfolio(TINY, ["adamw-8bit", "adamw"]) == ("adamw",)


@given(lr=st.floats(1e-9, 100), decay=st.floats(0, 1))
def test_a_bearable_decay_is_bearable(lr, decay):
    found = bearable_decay(lr, decay)
    assert found <= decay
    assert not too_much_decay(lr, found)
    assert found == decay or found > 0.49e-3 / lr
