"""The rate a recipe gets: the best that was measured on this model, else the prior's."""

from __future__ import annotations

import pytest

from subopt.profilers.record.profile import Trial
from subopt.recipes.evidence.raced_settings import (
    KnownRate,
    RacedFallbackRate,
    RacedRate,
    as_raced,
    fallback_rate,
    known_rate,
)
from subopt.recipes.prior.rates import BesideRate, heavy_decay, prior_rate
from subopt.recipes.prior.traits import traits_of_profile

from ..advice_profile import contestant, cost, layer, profile, race


def trial(lr, loss, *, method="soap", steps=100, options=None, status="done"):
    return Trial(
        method=method, lr=lr, seed=0, role="search", status=status, steps=steps, seconds=1.0,
        tokens=0, loss=loss, options=options or {},
    )  # fmt: skip


def raced(*trials, layers=None, **changes):
    return profile(
        layers or [layer()],
        ("adamw", "soap"),
        race=race(contestant("soap", (1.8, 1.8)), trials=list(trials), **changes),
    )


def rate_of(found, method="soap"):
    return known_rate(found, method, traits_of_profile(found))


def test_without_a_race_it_is_the_priors():
    plain = profile([layer()], ("adamw", "soap"))
    prior = prior_rate("soap", traits_of_profile(plain))
    found = rate_of(plain)
    assert (found.lr, found.weight_decay, found.reason) == (
        prior.lr, prior.weight_decay, prior.reason
    )  # fmt: skip
    beside = fallback_rate(plain, "soap", traits_of_profile(plain))
    assert (beside.lr, beside.reason) == (prior.fallback_lr, BesideRate(1))
    assert fallback_rate(plain, "adamw", traits_of_profile(plain)) is None


def test_the_best_of_all_trials_is_written_whatever_the_entry_says():
    """A race that the clock cut judged by its first trials alone: 9e-4, where 9e-3 had half the loss."""
    found = raced(trial(9e-4, 1.03), trial(9e-3, 0.38, options={"period": 50}), trial(0.09, 2.0))
    assert rate_of(found).lr == 9e-3
    assert rate_of(found).reason == RacedRate(4, 30, "cpu")
    assert as_raced(found, cost("soap")).options["period"] == 50


def test_a_trial_that_ended_early_is_not_compared_with_one_that_went_on():
    found = raced(
        trial(1e-2, 1.5, steps=300), trial(3e-2, 1.2, steps=30), trial(3e-3, 1.4, steps=290)
    )
    assert rate_of(found).lr == 3e-3


def test_trials_of_others_and_without_a_loss_do_not_count():
    gone = trial(1.0, None, status="diverged", steps=500)
    found = raced(trial(1e-2, 1.5), trial(3e-2, 0.1, method="adamw"), gone)
    assert rate_of(found).lr == 1e-2
    assert rate_of(raced()).lr == 3e-3  # the entry's own
    assert rate_of(found, "muon") == rate_of(profile([layer()]), "muon")


def test_what_the_race_trained_beside_it_keeps_its_rate():
    found = raced(trial(1e-2, 1.5))
    beside = fallback_rate(found, "soap", traits_of_profile(found))
    assert (beside.lr, beside.reason) == (1e-3, RacedFallbackRate())


def test_a_race_that_is_the_run_keeps_the_winners_alone():
    entries = [contestant("soap", (1.8,)), contestant("lion", (1.9,))]
    result = race(share=0.3).model_copy(update={"contestants": entries})
    found = profile([layer()], ("adamw", "soap", "lion"), race=result)
    won, stopped = (
        fallback_rate(found, method, traits_of_profile(found)) for method in ("soap", "lion")
    )
    assert won == KnownRate(result.fallback_lr, 0.0, RacedFallbackRate())
    lr = rate_of(found, "lion").lr
    assert stopped == KnownRate(pytest.approx(3 * lr), 0.0, BesideRate(3))


@pytest.mark.parametrize("lr", [1e-3, 0.3])
def test_the_decay_beside_a_raced_rate_is_one_it_can_bear(lr):
    found = raced(trial(lr, 1.5), layers=[layer(shape=(8, 1, 3, 3))])
    rate = rate_of(found)
    assert rate.lr == lr
    assert rate.weight_decay > 0
    assert heavy_decay(rate.lr, rate.weight_decay) is None
