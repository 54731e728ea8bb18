"""A model whose gradients are prescribed is profiled, and every number is compared with what follows from them.

Nothing here is measured twice: the truths are formulas of the prescribed angles, spectra and covariances (or, for the
4 x 4 layer, its 16 x 16 covariance written out). EXACT covers float32 gradients, products and bases; a number that
depends on random draws has its own error, four standard deviations of it, derived where it is used.
"""

from __future__ import annotations

import cmath
import importlib.util
import math
from pathlib import Path

import pytest
import torch

from subopt.optimizers import create, get_method, stored_bytes
from subopt.profilers.profile import run_profile
from subopt.profilers.record.profile import Profile, Settings
from subopt.profilers.target.load import load_target
from subopt.profilers.timing import decompositions

ASSETS = Path(__file__).parent.parent / "assets"
SPEC = importlib.util.spec_from_file_location("known_answers", ASSETS / "known_answers.py")
truth = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(truth)

EXACT = 1e-5
METHODS = ["adamw", "galore", "soap"]
K, STEPS = truth.BATCHES, truth.STEPS
RANK = 0.25
LAGS = [1, 2, 5, 10]
# Of 20 steps counted from 0: after the first fifth, the last one so that a lag of 10 still falls into the run.
FITTED_AT = (4, 9)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The profile, as it reads back from its file."""
    with pytest.MonkeyPatch.context() as patch:
        # What is asserted of the decompositions does not depend on how well they are timed.
        patch.setattr(decompositions, "MOST_REPEATS", decompositions.LEAST_REPEATS)
        patch.setattr(decompositions, "_LEAST_RUN_S", 1e-4)
        profile = run_profile(
            load_target("known_answers.py", base=ASSETS),
            Settings(batch_size=1, batches=K, steps=STEPS, rank=RANK),
            methods=METHODS,
        )
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    profile.save(path)
    return Profile.load(path)


@pytest.fixture(scope="module")
def layer(found):
    layers = {layer.name.removeprefix("weights."): layer for layer in found.layers}
    return layers.__getitem__


def close(expected, error=EXACT):
    return pytest.approx(expected, rel=error, abs=error)


def shares(values):
    squares = [value**2 for value in values]
    return [square / sum(squares) for square in squares]


def spectrum_of(values, size):
    """Stable rank, effective rank, ranks at 90, 95, 99 % and energies at m/16, m/8, m/4, m/2 of singular values."""
    energy = shares(values)
    ranks = [
        next(r for r in range(1, len(energy) + 1) if sum(energy[:r]) > s - 1e-9)
        for s in (0.9, 0.95, 0.99)
    ]
    kept = {
        max(1, size // divisor): sum(energy[: max(1, size // divisor)]) for divisor in (16, 8, 4, 2)
    }
    return 1 / energy[0], math.exp(-sum(e * math.log(e) for e in energy)), ranks, kept


def test_nothing_is_missing(found):
    # its batches have no dimension of examples that could be made longer
    missing = [what for what in found.missing if not what.startswith("memory of batches of more")]
    assert missing == []
    assert {layer.name: layer.role for layer in found.layers} == {
        **{f"weights.{name}": "matrix" for name in truth.PRESCRIBED},
        "reader.weight": "matrix",
        "offset": "fallback",
    }


def test_spectra_and_their_spread_over_the_batches(layer):
    """Half of the batches have one spectrum and half the other."""
    spectrum = layer("spectrum").spectrum
    one, other = (spectrum_of(values, 16) for values in truth.SPECTRA)
    for spread, a, b in (
        (spectrum.stable_rank, one[0], other[0]),
        (spectrum.effective_rank, one[1], other[1]),
        *zip(spectrum.rank_at_energy.values(), one[2], other[2], strict=True),
        *((spectrum.energy_at_rank[str(r)], one[3][r], other[3][r]) for r in (1, 2, 4, 8)),
    ):
        expected = ((a + b) / 2, min(a, b), max(a, b))
        assert (spread.mean, spread.min, spread.max) == close(expected)
    assert spectrum.sketched_rank is None


def turned_share(angle):
    """What four directions keep, at ranks 1, 2, 4, 8, of a gradient whose directions have turned by an angle since."""
    energy = [s**2 for s in truth.TURNING]
    still = sum(s**2 for s in truth.STILL)
    kept = [math.cos(angle) ** 2 * sum(energy[:rank]) for rank in (1, 2, 4)]
    return [share / (sum(energy) + still) for share in (*kept, kept[2] + still)]


def test_a_turning_subspace_keeps_the_squared_cosine(layer):
    life = layer("drift").subspace["gradient"]
    expected = [turned_share(lag * truth.ANGLE) for lag in LAGS]
    assert (life.rank, life.lag, life.fits, life.chance) == (4, LAGS, len(FITTED_AT), 0.25)
    assert life.frozen == close([row[2] for row in expected])
    assert {int(r): curve for r, curve in life.at_rank.items()} == {
        rank: close([row[i] for row in expected]) for i, rank in enumerate((1, 2, 4, 8))
    }
    assert life.own == close(turned_share(0)[2])
    assert not life.is_noise


def test_the_period_is_the_longest_over_which_nine_tenths_of_a_fresh_basis_are_kept(layer):
    """The curve is read between lags 2 and 5 on a straight line over log(lag), below the cosine: one step is lost."""
    kept = [math.cos(age * truth.ANGLE) ** 2 for age in range(1, 30)]
    true = max(T for T in range(1, 30) if sum(kept[:T]) / T >= 0.9 * kept[0])
    assert (true, layer("drift").subspace["gradient"].period) == (5, 4)


@pytest.mark.parametrize(
    ("source", "decay", "fold"), [("momentum", 0.9, 1), ("covariance", 0.95, 2)]
)
def test_averages_lag_behind_a_turning_subspace(layer, source, decay, fold):
    """The average of e^(i fold angle) with weights decay^age has the argument fold phi: phi is where its basis is."""
    life = layer("drift").subspace[source]
    curves = []
    for t in FITTED_AT:
        average = sum(
            decay ** (t - s) * cmath.exp(1j * fold * s * truth.ANGLE) for s in range(t + 1)
        )
        behind = t * truth.ANGLE - cmath.phase(average) / fold
        curves.append([turned_share(behind + lag * truth.ANGLE) for lag in LAGS])
    means = [
        [sum(pair) / 2 for pair in zip(*rows, strict=True)] for rows in zip(*curves, strict=True)
    ]
    if (
        source == "covariance"
    ):  # its next four directions are what the turning ones have left, not the still ones
        rotating = sum(s**2 for s in truth.TURNING)
        for row in means:
            row[3] = rotating / (rotating + sum(s**2 for s in truth.STILL))
    assert life.frozen == close([row[2] for row in means])
    assert life.at_rank == {
        str(rank): close([row[i] for row in means]) for i, rank in enumerate((1, 2, 4, 8))
    }
    assert life.tracked is None


def test_a_subspace_that_stays_is_kept_for_ever(layer):
    subspace = layer("static").subspace
    assert set(subspace) == {"gradient", "momentum", "covariance"}
    energy = shares(truth.STATIC)
    for life in subspace.values():
        assert life.frozen == close([1.0] * 4)
        kept = {rank: sum(energy[:rank]) for rank in (1, 2, 4, 8)}
        assert life.at_rank == {str(r): close([share] * 4) for r, share in kept.items()}
        assert (life.period, life.is_noise, life.own) == (None, False, close(1.0))


def test_a_followed_basis_is_the_frozen_one_at_first_and_turns_no_faster_than_its_steps(layer):
    """Adam's early steps are at most 5 lr in every entry of B: a step turns it by that times sqrt(entries) at most."""
    for name in ("drift", "static"):
        life = layer(name).subspace["gradient"]
        assert life.tracked[0] == close(life.frozen[0])
        most = 5 * 1e-3 * math.sqrt(16 * life.rank)  # radians per step
        for lag, tracked, frozen in zip(LAGS, life.tracked, life.frozen, strict=True):
            away = (math.acos(math.sqrt(min(1.0, frozen))) + most * lag) % math.pi
            assert math.cos(min(away, math.pi / 2)) ** 2 - EXACT <= tracked <= 1


def test_new_directions_in_every_batch_are_noise(layer):
    """An orthonormal basis of rank r keeps Beta(r/2, (m-r)/2) of a random direction; several repel: less variance."""
    life = layer("spectrum").subspace["gradient"]
    variance = 2 * 4 * 12 / (16**2 * 18) / len(FITTED_AT)
    for i, kept in enumerate(life.frozen):
        assert kept == pytest.approx(0.25, abs=4 * math.sqrt(variance)), LAGS[i]
    assert life.is_noise
    judged = [sum(shares(truth.SPECTRA[(2 + t) % 2])[:4]) for t in FITTED_AT]
    assert life.own == close(sum(judged) / 2)


def test_signal_and_noise_are_told_apart(layer):
    """|G|^2 = |S|^2 + |N|^2, and <G_k, G_l> = |S|^2: the noise of two batches is orthogonal."""
    noise = layer("signal").noise
    S, N = sum(s**2 for s in truth.SIGNAL), truth.NOISE**2
    assert noise.signal_share == close(S / (S + N))
    assert noise.batches_needed == close(N / S)
    # The mean of b batches has b directions of noise of length NOISE / b beside those of the signal, of which the
    # longest six are kept. The mean of the other 16 batches holds the signal and N / 16 of noise in other directions.
    kept = {}
    for b in (1, 2, 4, 8, 16):
        lengths = [(s, True) for s in truth.SIGNAL] + [(truth.NOISE / b, False)] * b
        longest = sorted(lengths, reverse=True)[:6]
        kept[str(b)] = close(sum(s**2 for s, is_signal in longest if is_signal) / (S + N / 16))
    assert noise.captured == kept
    assert kept["1"].expected < kept["4"].expected


def test_gradients_without_a_signal_have_none(layer):
    """<G_k, G_l> of independent ones has the variance sum v^2, |G|^2 the mean sum v: over K (K - 1) / 2 pairs."""
    v = truth.VARIANCES
    deviation = math.sqrt(2 * float(v.square().sum()) / (K * (K - 1))) / float(v.sum())
    noise = layer("random").noise
    assert noise.signal_share == pytest.approx(0, abs=4 * deviation)
    needed = (1 - noise.signal_share) / noise.signal_share
    assert noise.batches_needed == (close(needed) if noise.signal_share > 0 else None)


R, S = truth.orthogonal(4, 5), truth.orthogonal(4, 6)
CORES = torch.stack([truth.core(k) for k in range(K)])
# The coordinates of each basis, which the fits have to find: R's and S's columns.
IN_BASIS = {
    "raw": R @ CORES @ S.T,
    "one_sided": CORES @ S.T,
    "two_sided": CORES,
    "covariance": CORES,
}
JUDGED = {"raw": slice(None), "covariance": slice(K // 2, None), "stale": slice(None)}


def vectors(basis, ks=slice(None)):
    return IN_BASIS[basis][ks].flatten(1)


def ratio_of(g):
    C = g.T @ g / len(g)
    return float(C.diag().square().sum() / C.square().sum())


def unbiased_of(g):
    """The same over pairs of different gradients alone."""
    squares, inner = g.square() @ g.square().T, (g @ g.T).square()
    return float((squares.sum() - squares.trace()) / (inner.sum() - inner.trace()))


@pytest.mark.parametrize("basis", ["raw", "one_sided", "two_sided", "covariance"])
def test_a_rotation_makes_the_covariance_diagonal(layer, basis):
    found = getattr(layer("rotated").diagonality, basis)
    g = vectors(basis, JUDGED.get(basis, slice(1, None)))
    assert (found.ratio, found.unbiased) == close((ratio_of(g), unbiased_of(g)))
    assert not found.in_sample


def test_the_rotation_is_worth_what_it_was_made_to_be(layer):
    """Judged on complete groups of signs the covariance basis has nothing off the diagonal."""
    diagonality = layer("rotated").diagonality
    assert diagonality.covariance.ratio == close(1.0)
    assert diagonality.two_sided.ratio > 0.98  # one signed diagonal is the one it was fitted to
    assert diagonality.raw.ratio < diagonality.one_sided.ratio < 0.8


def test_old_bases_of_a_layer_that_does_not_turn_are_as_good_as_new_ones(layer):
    stale = layer("rotated").diagonality.stale
    assert set(stale) == {"1", "10"}
    g = vectors("one_sided")
    for ratio in stale.values():
        assert (ratio.ratio, ratio.unbiased) == close((ratio_of(g), unbiased_of(g)))


def test_a_truncated_basis_keeps_the_row_of_most_energy(layer):
    """Of the first gradient, whose rows in R's coordinates have DEVIATIONS[0] for lengths: row 0."""
    g = IN_BASIS["one_sided"][1:, 0]
    found = layer("rotated").diagonality.low_rank
    assert (found.ratio, found.unbiased) == close((ratio_of(g), unbiased_of(g)))


def test_the_white_noise_values(layer):
    noise = layer("rotated").diagonality.white_noise
    for basis, count, size in (
        ("raw", K, 16),
        ("one_sided", K - 1, 16),
        ("two_sided", K - 1, 16),
        ("covariance", K // 2, 16),
        ("low_rank", K - 1, 4),
        ("stale_1", K, 16),
        ("stale_10", K, 16),
    ):
        assert noise[basis] == close((count + 2) / (count + size + 1))
    squares = CORES[K // 2 :].square().flatten(1)
    lengths = squares.sum(1)
    pairs = ~torch.eye(K // 2, dtype=torch.bool)
    effective = float(
        torch.outer(lengths, lengths)[pairs].sum() / (squares @ squares.T)[pairs].sum()
    )
    assert noise["covariance_effective"] == close((K // 2 + 2) / (K // 2 + effective + 1))


def test_random_gradients_give_the_unbiased_ratio_of_their_covariance(layer):
    """True: ||diag C||^2 / ||C||^2 of C = (R x S) diag(v) (R x S)^T. Of 500 draws of 32 batches the unbiased estimates
    have a standard deviation of 0.043, the biased ones 0.008 around the quotient of the sums' expectations.
    """
    R, S = truth.orthogonal(8, 10), truth.orthogonal(10, 11)
    v = truth.VARIANCES
    diagonal = float((R.square() @ v @ S.square().T).square().sum())
    norm, trace = float(v.square().sum()), float(v.sum())
    found = layer("random").diagonality.raw
    assert found.unbiased == pytest.approx(diagonal / norm, abs=4 * 0.043)
    biased = (1 + 2 / K) * diagonal / ((1 + 1 / K) * norm + trace**2 / K)
    assert found.ratio == pytest.approx(biased, abs=4 * 0.008)


def merged(counts, edges):
    """Counts by bin, those of rounding in one: what lies below 1e-5 is zero in the layer's own coordinates."""
    rounding = int((edges < -5).sum())
    counts = torch.as_tensor(counts, dtype=torch.float64)
    return torch.cat([counts[:rounding].sum().reshape(1), counts[rounding:]])


def test_sampled_entries_off_the_diagonal(layer):
    """Counts of 20,000 pairs are binomial: within four standard deviations of what all 240 entries say, and one."""
    found = layer("rotated").off_diagonal
    edges = torch.tensor(found.edges, dtype=torch.float64)
    off = ~torch.eye(16, dtype=torch.bool)
    for basis in IN_BASIS:
        g = vectors(basis, slice(K // 2, None))
        C = g.T @ g / len(g)
        scale = (C.diag()[:, None] * C.diag()).sqrt()
        correlations = torch.where(scale > 0, C.abs() / scale, 0.0)
        kinds = (C.abs() / (C.trace() / 16), found.absolute), (correlations, found.scale_free)
        for entries, counts in kinds:
            bins = torch.bucketize(entries[off].log10(), edges, right=True) - 1
            share = merged(bins.clamp_min(0).bincount(minlength=len(edges) - 1) / 240, edges)
            error = 4 * (found.pairs * share * (1 - share)).sqrt() + 1
            assert ((merged(counts[basis], edges) - found.pairs * share).abs() <= error).all()
        if basis == "covariance":
            assert merged(found.absolute[basis], edges)[0] == found.pairs


@pytest.mark.parametrize("basis", ["raw", "one_sided", "two_sided", "covariance"])
def test_where_the_covariance_is_diagonal_the_diagonal_step_is_the_full_one(layer, basis):
    agreement = layer("rotated").agreement
    fitted = K - K // 4
    g = vectors(basis)
    C = g[:fitted].T @ g[:fitted] / fitted
    eps = float(C.trace()) / 16
    values, V = torch.linalg.eigh(C + eps * torch.eye(16, dtype=torch.float64))
    full = g[fitted:] @ (V / values.sqrt()) @ V.T
    diagonal = g[fitted:] / (C.diag() + eps).sqrt()
    cosine = float(torch.cosine_similarity(full, diagonal).mean())
    assert (agreement.cosine[basis], agreement.in_span[basis]) == close((cosine, cosine))
    assert agreement.eps == close(eps)
    assert agreement.share_outside == pytest.approx(0, abs=EXACT)
    if basis in ("two_sided", "covariance"):
        assert agreement.cosine[basis] == close(1.0)


def test_the_share_outside_the_span_of_other_gradients(layer):
    """The projection of S + N on the span of F others is that on their sum: F |S|^4 / (F |S|^2 + |N|^2)."""
    fitted = K - K // 4
    S, N = sum(s**2 for s in truth.SIGNAL), truth.NOISE**2
    inside = fitted * S**2 / (fitted * S + N) / (S + N)
    assert layer("signal").agreement.share_outside == close(1 - inside)


def test_blocks_of_neurons_that_never_agree(layer):
    """C = diag(C_1, C_2), C_i = O diag(EIGENVALUES[i]) O^T; the shared basis is O's, by the sum of squares."""
    vectors, eigenvalues = truth.orthogonal(20, 7)[:, :16], truth.EIGENVALUES
    C = [vectors * values @ vectors.T for values in eigenvalues]
    whole = float(eigenvalues.square().sum())
    aligned = float(sum(block.diag().square().sum() for block in C)) / whole
    rows, columns = layer("rows").blocks, layer("columns").blocks
    assert (rows.by_output, rows.by_input) == close((1.0, aligned))
    assert (columns.by_output, columns.by_input) == close((aligned, 1.0))
    assert layer("rows").diagonality.raw.ratio == close(aligned)
    noises = (20 + K + 1) / (40 + K + 1), (2 + K + 1) / (40 + K + 1)
    assert (rows.by_output_noise, rows.by_input_noise) == close(noises)
    assert (columns.by_input_noise, columns.by_output_noise) == close(noises)
    squares = eigenvalues.square()
    shared = {k: squares[:, squares.sum(0).argsort(descending=True)[:k]] for k in (8, 16)}
    own = {k: squares.sort(1, descending=True).values[:, :k] for k in (8, 16)}
    assert rows.shared == {str(k): close(float(kept.sum()) / whole) for k, kept in shared.items()}
    assert rows.own == {str(k): close(float(kept.sum()) / whole) for k, kept in own.items()}
    assert rows.shared["8"] < rows.own["8"] < rows.own["16"] == close(1.0)
    assert columns.shared == columns.own == {}


def test_inputs_of_a_linear_layer(layer):
    found = layer("reader.weight").activations
    stable, effective, ranks, kept = spectrum_of(truth.INPUTS, 12)
    assert (found.width, found.positions) == (12, truth.POSITIONS)
    assert (found.stable_rank, found.effective_rank) == close((stable, effective))
    assert list(found.rank_at_energy.values()) == ranks
    assert found.energy_at_rank == {str(r): close(share) for r, share in kept.items()}
    # The layer's gradient was made to have the inputs' spectrum.
    assert layer("reader.weight").spectrum.stable_rank.mean == close(stable)
    assert layer("rotated").activations is None  # no layer of torch holds it


def test_memory_and_state_are_those_of_the_real_model_and_optimizers(found):
    model = truth.build_model()
    weights = list(model.parameters())
    for parameter in weights:
        parameter.grad = torch.ones_like(parameter)
    size = 4 * sum(parameter.numel() for parameter in weights)
    assert (found.memory.parameter_bytes, found.memory.gradient_bytes) == (size, size)
    rows = {row.method: row for row in found.methods}
    assert list(rows) == METHODS
    for name, row in rows.items():
        optimizer = create(name, model, **row.options)
        optimizer.step()
        kept = sum(stored_bytes(v) for state in optimizer.state.values() for v in state.values())
        assert row.state_bytes == kept
    counters = rows["adamw"].state_bytes - 2 * size
    assert 0 < counters <= 16 * len(weights)
    assert found.memory.optimizer_state_bytes == rows["adamw"].state_bytes


def test_times_fit_together(found):
    for row in found.methods:
        period = get_method(row.method).defaults.get("period")
        assert (row.refresh_ms is None) == (row.staggered_ms is None) == (period is None)
        if period is not None:
            assert row.ordinary_ms <= row.staggered_ms <= max(row.ordinary_ms, row.refresh_ms)
            average = row.ordinary_ms + max(0.0, row.refresh_ms - row.ordinary_ms) / period
            assert row.step_ms == close(average)
    counts = {(2, 20): 2, (16, 24): 2, (8, 10): 1, (4, 4): 1, (24, 40): 1, (16, 16): 1, (12, 12): 1}
    assert {tuple(row.shape) for row in found.decompositions} == set(counts)
    for row in found.decompositions:
        expected = counts[tuple(row.shape)] * row.median_ms / row.period
        assert row.ms_per_training_step == close(expected)
        assert row.rank == max(1, round(RANK * row.shape[0]))
        assert row.driver is not None
