"""What measured gradients are made to say about a method: twins by hand, monotony, and silence where nothing speaks."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subopt.optimizers import METHODS
from subopt.profilers.record.profile import Blocks
from subopt.recipes.evidence.doubts import (
    LITTLE,
    UNTRAINED,
    EnergyBound,
    NotMeasured,
    SyntheticData,
    UntrainedGradients,
)
from subopt.recipes.evidence.layer_findings import layer_findings, mean_over
from subopt.recipes.evidence.method_family import family_of
from subopt.recipes.evidence.predicted import (
    AGREEMENT_WORTH,
    DIAGONALITY_WORTH,
    ENERGY_WORTH,
    MOST_DECADES,
    layer_gain,
    predicted_gain,
)

from ..advice_profile import agreement, cost, diagonality, layer, life, profile, spectrum

BLOCKS = Blocks(
    by_output=0.2,
    by_input=0.1,
    by_output_noise=0.02,
    by_input_noise=0.02,
    shared={"8": 0.5, "16": 0.8},
    own={"8": 1.0},
)
FULL = {
    "diagonality": diagonality(stale={1: 0.09, 10: 0.05}),
    "agreement": agreement(),
    "spectrum": spectrum({4: 0.6, 8: 0.8, 16: 0.95}),
    "subspace": {
        "gradient": life([0.8, 0.6], [0.85, 0.75]),
        "momentum": life([0.7, 0.65]),
        "covariance": life([0.78, 0.7]),
    },
    "blocks": BLOCKS,
}
ROTATING = [n for n in METHODS if family_of(cost(n)).coordinates is not None]
CONFINED = [
    n for n in METHODS if family_of(cost(n)).projected_sides
]  # fmt: skip


def gain(method, *, options=None, **measured):
    one = layer(**measured)
    return layer_gain(one, cost(method, options=options), profile([one]))


def brute_mean(points, period, pieces=20_000):
    """The same mean by the midpoint rule."""
    ordered = sorted(points)

    def value(age):
        if age <= ordered[0][0]:
            return ordered[0][1]
        for (x0, y0), (x1, y1) in pairwise(ordered):
            if x0 <= age <= x1:
                return y0 + (y1 - y0) * (age - x0) / (x1 - x0)
        return ordered[-1][1]

    return sum(value((i + 0.5) * period / pieces) for i in range(pieces)) / pieces


# ---- ages


@pytest.mark.parametrize("period", [0.5, 1, 7, 10, 50, 200])
def test_mean_over_a_period_is_the_area_under_the_line(period):
    points = [(1.0, 0.9), (0.0, 1.0), (10.0, 0.4), (100.0, 0.3)]
    assert mean_over(points, period) == pytest.approx(brute_mean(points, period), rel=1e-4)


def test_a_single_age_holds_for_all():
    assert mean_over([(5.0, 0.7)], 100) == pytest.approx(0.7)
    assert mean_over([(0.0, 1.0), (4.0, 0.0)], 0) == 1.0


# ---- the rule, by hand


def worth(decades):
    return DIAGONALITY_WORTH * min(decades, MOST_DECADES)


@pytest.mark.parametrize(
    ("method", "basis"),
    [("adadiag++", "two_sided"), ("soap", "covariance"), ("muon", "two_sided"), ("adadiag", "one_sided"),
     ("soap-one-sided", "one_sided"), ("shampoo", "covariance")],
)  # fmt: skip
def test_a_fresh_basis_is_worth_its_decades_and_its_agreement(method, basis):
    shares = {"one_sided": 0.1, "two_sided": 0.5, "covariance": 0.9}
    cosines = {"one_sided": 0.4, "two_sided": 0.5, "covariance": 0.7}
    found = gain(method, diagonality=diagonality(), agreement=agreement())
    expected = worth(math.log10(shares[basis] / 0.01))
    assert found == pytest.approx(expected + AGREEMENT_WORTH * (cosines[basis] - 0.3))


def test_beyond_two_decades_nothing_more_is_promised():
    most = gain("adadiag", diagonality=diagonality(raw=0.001, one_sided=0.1))
    beyond = gain("adadiag", diagonality=diagonality(raw=0.001, one_sided=1.0))
    assert beyond == most == pytest.approx(DIAGONALITY_WORTH * MOST_DECADES)


def test_a_basis_loses_with_its_age_what_the_stale_ones_lost():
    stale = {1: 0.09, 10: 0.04, 100: 0.02}
    found = gain("adadiag", diagonality=diagonality(stale=stale), agreement=agreement())
    points = [(0.0, 1.0), *((float(age), math.log10(d / 0.01)) for age, d in stale.items())]
    left = brute_mean(points, 200)
    assert found == pytest.approx(
        left * (DIAGONALITY_WORTH + AGREEMENT_WORTH * (0.4 - 0.3)), rel=1e-3
    )
    shorter = gain(
        "adadiag", options={"period": 5}, diagonality=diagonality(stale=stale), agreement=agreement()
    )  # fmt: skip
    assert shorter > found


def test_a_two_sided_basis_ages_as_the_one_sided_does():
    stale = diagonality(stale={1: 0.05, 10: 0.05})
    whole, aged = (gain("adadiag++", diagonality=d) for d in (diagonality(), stale))
    left = brute_mean([(0.0, 1.0), (1.0, math.log10(5))], 200)
    assert aged == pytest.approx(whole * left, rel=1e-3)
    assert gain("muon", diagonality=stale) == pytest.approx(whole)  # a basis for every step


def test_energy_in_a_refreshed_subspace_is_averaged_over_its_period():
    subspace = {"gradient": life([0.8, 0.6], own=0.9)}
    found = gain("galore", subspace=subspace)
    kept = brute_mean([(0.0, 0.9), (1.0, 0.8), (10.0, 0.6)], 200)
    assert found == pytest.approx(-ENERGY_WORTH * (1 - kept), rel=1e-3)


def test_energy_in_a_followed_subspace_is_the_trackers():
    subspace = {"gradient": life([0.8, 0.6], [0.85, 0.75])}
    assert gain("osd", subspace=subspace) == pytest.approx(-ENERGY_WORTH * 0.25)
    assert gain("osd-two-sided", subspace=subspace) == pytest.approx(-ENERGY_WORTH * (1 - 0.75**2))


def test_another_rank_reads_the_curve_of_that_rank():
    subspace = {"gradient": life([0.8], own=0.8, at_rank={"16": [0.95]})}
    wide = gain("galore", options={"rank": 16, "period": 1000}, subspace=subspace)
    half = gain("galore", options={"rank": 12, "period": 1000}, subspace=subspace)
    assert wide == pytest.approx(-ENERGY_WORTH * 0.05, rel=0.01)
    assert half == pytest.approx(-ENERGY_WORTH * 0.125, rel=0.01)  # half way between 8 and 16
    assert gain("galore", options={"rank": 1.0}, subspace=subspace) > -0.01


def test_the_source_of_the_basis_decides_which_curve():
    momentum = gain("galore", options={"source": "momentum"}, subspace=FULL["subspace"])
    kept = brute_mean([(0.0, 0.9), (1.0, 0.7), (10.0, 0.65)], 200)
    assert momentum == pytest.approx(-ENERGY_WORTH * (1 - kept), rel=1e-3)


def test_without_subspaces_the_spectrum_bounds_the_energy():
    one = layer(spectrum=spectrum({4: 0.6, 8: 0.8}))
    reading = layer_findings(one, cost("galore"))
    assert reading.is_bound
    assert reading.kept == pytest.approx(0.8)  # rank 0.25 of 32
    found = predicted_gain(profile([one]), cost("galore"))
    assert found.certainty == LITTLE
    assert found.doubts == (EnergyBound(),)


def test_a_shared_basis_is_worth_what_it_keeps_of_the_blocks():
    found = gain(
        "shared-basis", options={"rank": 16}, diagonality=diagonality(raw=0.01), blocks=BLOCKS
    )
    assert found == pytest.approx(DIAGONALITY_WORTH * math.log10(0.2 * 0.8 / 0.01))


def test_noise_below_the_white_level_is_no_diagonality():
    noisy = diagonality(raw=0.001, one_sided=0.02)
    floor = noisy.model_copy(update={"white_noise": {"raw": 0.05, "one_sided": 0.05}})
    assert gain("adadiag", diagonality=floor) == 0.0


# ---- monotony


@given(
    method=st.sampled_from(CONFINED),
    energy=st.floats(0, 1),
    more=st.floats(0, 1),
    cos=st.floats(-1, 1),
)
def test_more_energy_is_never_worse(method, energy, more, cos):
    def with_energy(share):
        return gain(
            method,
            spectrum=spectrum({8: share}),
            subspace={"gradient": life([share, share], [share, share], own=share)},
            agreement=agreement(one_sided=cos, two_sided=cos),
        )

    low, high = sorted((energy, more))
    assert with_energy(low) <= with_energy(high) + 1e-12


@given(method=st.sampled_from(ROTATING), cos=st.floats(-1, 1), more=st.floats(-1, 1))
def test_more_agreement_is_never_worse(method, cos, more):
    def with_cosine(value):
        same = {"one_sided": value, "two_sided": value, "covariance": value}
        return gain(method, **(FULL | {"agreement": agreement(**same)}))

    low, high = sorted((cos, more))
    assert with_cosine(low) <= with_cosine(high) + 1e-12


@given(method=st.sampled_from(ROTATING), share=st.floats(1e-6, 1), more=st.floats(1e-6, 1))
def test_more_diagonality_is_never_worse(method, share, more):
    def with_share(value):
        same = {"one_sided": value, "two_sided": value, "covariance": value}
        return gain(method, **(FULL | {"diagonality": diagonality(raw=0.01, **same)}))

    low, high = sorted((share, more))
    assert with_share(low) <= with_share(high) + 1e-12


# ---- a whole model


def test_layers_count_by_size_in_any_order():
    small = layer("a", (32, 32), diagonality=diagonality(one_sided=0.1))
    large = layer("b", (96, 32), diagonality=diagonality(one_sided=0.01))
    forth, back = (
        predicted_gain(profile(p), cost("adadiag")) for p in ([small, large], [large, small])
    )
    assert forth == back
    assert forth.layers == 2
    assert forth.gain == pytest.approx(DIAGONALITY_WORTH / 4)


def test_layers_that_the_method_leaves_alone_do_not_count():
    one = layer("a", **FULL)
    others = [
        layer("b", role="fallback", **FULL),
        layer("c", role="frozen", **FULL),
    ]
    alone, beside = (predicted_gain(profile(p), cost("soap")) for p in ([one], [one, *others]))
    assert alone == beside
    assert layer_gain(others[0], cost("soap"), profile(others)) is None
    # The rank of a gradient is not that of the weights.
    assert layer_gain(one, cost("dlrt"), profile([one])) is None


@pytest.mark.parametrize(
    ("changes", "share", "doubts"),
    [
        ({}, 1.0, ()),
        ({"steps": 0}, UNTRAINED, (UntrainedGradients(),)),
        ({"synthetic": True}, UNTRAINED, (SyntheticData(),)),
    ],
)
def test_certainty_names_its_doubts(changes, share, doubts):
    found = predicted_gain(profile([layer(**FULL)], **changes), cost("soap"))
    assert found.certainty == share
    assert found.doubts == doubts


def test_few_layers_and_other_moments_weaken_it():
    mostly = [layer("a", **FULL), layer("b", (640, 32))]
    assert predicted_gain(profile(mostly), cost("soap")).certainty == LITTLE
    other = predicted_gain(profile([layer(**FULL)]), cost("adafacdiag"))
    assert other.certainty == LITTLE
    assert other.doubts == (NotMeasured("moments", "adafactor"),)
    packed = predicted_gain(profile([layer(**FULL)]), cost("galore-8bit"))
    assert packed.doubts == (NotMeasured("state_dtype", "8bit"),)


def test_the_means_are_part_of_it():
    found = predicted_gain(profile([layer(**FULL)]), cost("osd"))
    assert (found.layers, found.coverage, found.shares_basis) == (1, 1.0, False)
    assert (found.decades, found.agreement, found.kept) == pytest.approx((1.0, 0.1, 0.75))


# ---- silence


@pytest.mark.parametrize("method", sorted(METHODS))
def test_nothing_measured_says_nothing(method):
    bare = profile([layer()])
    assert layer_gain(bare.layers[0], cost(method), bare) is None
    assert predicted_gain(bare, cost(method)) is None


@pytest.mark.parametrize("method", sorted(METHODS))
def test_simulated_says_nothing(method):
    made_up = profile([layer(**FULL)], simulate=True)
    assert layer_gain(made_up.layers[0], cost(method), made_up) is None
    assert predicted_gain(made_up, cost(method)) is None


def test_unknown_numbers_are_not_zeros():
    blank = diagonality().model_copy(
        update={"one_sided": None, "raw": None, "two_sided": diagonality().raw}
    )
    assert gain("adadiag", diagonality=blank) is None
    nothing = agreement().model_copy(update={"cosine": {"raw": 0.3}})
    assert gain("soap", agreement=nothing) is None
    # A rotation says nothing about a subspace whose energy nobody measured.
    assert gain("galore", diagonality=diagonality(), agreement=agreement()) is None


def test_every_method_is_of_a_family_or_has_none():
    """What is derived from the composition, for the whole table."""
    of = {name: family_of(cost(name)) for name in METHODS}
    silent = {
        n for n, f in of.items() if f.coordinates is None and not f.shares_basis
    }  # fmt: skip
    assert silent == {
        "adamw", "adafactor", "adafactor-nomom", "lion", "momentum", "hfac", "adafactor-torch",
        "adamw-8bit", "block-adam", "dlrt",
    }  # fmt: skip
    assert {n for n, f in of.items() if f.projected_sides} == {
        "galore", "galore-8bit", "osd", "osd-8bit", "osd-two-sided",
    }  # fmt: skip
    assert of["osd-two-sided"].projected_sides == 2
    assert {n for n, f in of.items() if f.period is None} == {"osd", "osd-8bit", "osd-two-sided"}
    assert {n for n, f in of.items() if f.coordinates == "covariance"} == {
        "soap", "shampoo", "sketchy",
    }  # fmt: skip
    everything = profile([layer(**FULL)])
    for name in set(METHODS) - silent:
        assert predicted_gain(everything, cost(name)) is not None, name
    for name in silent:
        assert predicted_gain(everything, cost(name)) is None, name


def test_options_change_the_family():
    assert family_of(cost("galore", options={"rank": 4, "period": 50})).period == 50
    assert (
        family_of(cost("adadiag++", options={"source": "covariance"})).coordinates == "covariance"
    )
    assert family_of(cost("soap", options={"moments": "adafactor"})).unmeasured == (
        ("moments", "adafactor"),
    )
