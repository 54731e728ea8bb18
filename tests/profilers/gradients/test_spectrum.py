"""Spectrum numbers against a float64 singular value decomposition and plain loops."""

import math

import pytest
import torch

from subopt.profilers.gradients import spectrum
from subopt.profilers.gradients.spectrum import (
    SpectrumAccumulator,
    effective_rank,
    energies,
    energy_at_rank,
    lower_gram,
    rank_at_energy,
    reported_ranks,
    sketch_rank,
    sketched_energies,
    solving_device,
    stable_rank,
)
from subopt.profilers.target.session import default_dtype


def brute_force(G):
    """Every number of one gradient, by loops over its singular values."""
    squares = [float(s) ** 2 for s in torch.linalg.svdvals(G.double())]
    total = sum(squares)
    shares = [e / total for e in squares]
    ranks = {}
    for share in ("0.90", "0.95", "0.99"):
        held, rank = 0.0, 0
        while held < float(share):
            held += shares[rank]
            rank += 1
        ranks[share] = rank
    m = min(G.shape)
    return {
        "stable": total / squares[0],
        "effective": math.exp(-sum(e * math.log(e) for e in shares if e > 0)),
        "rank_at_energy": ranks,
        "energy_at_rank": {str(r): sum(shares[:r]) for r in (m // 16, m // 8, m // 4, m // 2)},
    }


def accumulated(gradients):
    accumulator = SpectrumAccumulator()
    for G in gradients:
        accumulator.add(G)
    return accumulator.result()


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (32, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_number_is_the_brute_force_one(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    decay = torch.linspace(0, 4, shape[1]).neg().exp()
    gradients = [
        (torch.randn(shape, generator=generator) * decay * 1e-4).to(dtype) for _ in range(3)
    ]
    found, expected = accumulated(gradients), [brute_force(G) for G in gradients]

    def check(spread, values):
        assert spread.mean == pytest.approx(sum(values) / 3, rel=1e-5)
        assert spread.min == pytest.approx(min(values), rel=1e-5)
        assert spread.max == pytest.approx(max(values), rel=1e-5)

    check(found.stable_rank, [e["stable"] for e in expected])
    check(found.effective_rank, [e["effective"] for e in expected])
    for table in ("rank_at_energy", "energy_at_rank"):
        assert list(getattr(found, table)) == list(expected[0][table])
        for key, spread in getattr(found, table).items():
            check(spread, [e[table][key] for e in expected])


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (1, 7), (7, 1)])
def test_energies_are_squared_singular_values(shape):
    G = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        energies(G), torch.linalg.svdvals(G.double()).square(), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("shape", [(6, 9), (40, 40), (70, 300), (300, 70), (1, 5000)])
@pytest.mark.parametrize("scale", [1.0, 1e-25])
def test_energies_in_float32_are_the_same_to_rounding(shape, scale):
    G = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * scale
    exact = torch.linalg.svdvals(G.double()).square()
    found = energies(G, torch.float32)
    assert found.dtype == torch.float64
    # A float32 Gram matrix is off by a few 2^-24 of its largest entries.
    torch.testing.assert_close(found / exact.sum(), exact / exact.sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("m", "n"), [(1, 3), (31, 32), (40, 70), (129, 500), (257, 257)])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_lower_half_of_the_gram_matrix_is_summed_in_pieces_and_strips(monkeypatch, m, n, kind):
    monkeypatch.setattr(spectrum, "_SLICE", 1024)
    G = torch.randn(n, m, generator=torch.Generator().manual_seed(3)).T
    expected = (G.double() @ G.double().T).to(kind)
    rounding = 1e-12 if kind == torch.float64 else 1e-4
    found = lower_gram(G, kind)
    torch.testing.assert_close(found.tril(), expected.tril(), rtol=rounding, atol=rounding)


def test_an_orthogonal_matrix_has_full_ranks_and_meets_a_share_exactly():
    result = accumulated([3 * torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64))[0]])
    assert result.stable_rank.mean == pytest.approx(10)
    assert result.effective_rank.mean == pytest.approx(10)
    assert result.rank_at_energy["0.90"].mean == 9


def test_a_rank_one_gradient():
    result = accumulated([torch.outer(torch.arange(1.0, 9.0), torch.arange(1.0, 5.0))])
    assert result.stable_rank.max == pytest.approx(1)
    assert result.effective_rank.max == pytest.approx(1, abs=1e-9)
    assert {spread.max for spread in result.rank_at_energy.values()} == {1}
    assert result.energy_at_rank["1"].min == pytest.approx(1)


def test_zero_and_non_finite_gradients_are_left_out():
    good = torch.eye(4)
    bad = [torch.zeros(4, 4), torch.full((4, 4), torch.nan), torch.eye(4) * torch.inf]
    assert accumulated([bad[0], good, *bad[1:]]) == accumulated([good])
    assert accumulated(bad) is None
    assert accumulated([]) is None


def test_tiny_gradients_do_not_underflow():
    G = torch.tensor([[3e-30, 0.0], [0.0, 1e-30]])
    assert accumulated([G]).stable_rank.mean == pytest.approx(10 / 9, rel=1e-5)


def test_reported_ranks_are_at_least_one_and_do_not_repeat():
    assert reported_ranks(64) == [4, 8, 16, 32]
    assert reported_ranks(10) == [1, 2, 5]
    assert reported_ranks(1) == [1]


def test_rank_at_energy_counts_the_direction_that_crosses():
    assert rank_at_energy(torch.tensor([8.0, 1.0, 1.0]), 0.85) == 2
    assert rank_at_energy(torch.tensor([8.0, 1.0, 1.0]), 0.80) == 1


@pytest.mark.parametrize("energy", [0.1, 0.3, 1e-8])
def test_a_share_met_exactly_is_not_lost_to_rounding(energy):
    assert rank_at_energy(torch.full((10,), energy, dtype=torch.float64), 0.90) == 9


def with_spectrum(energy, n, dtype=torch.float32):
    """A matrix with these squared singular values, its singular vectors random."""
    generator = torch.Generator().manual_seed(5)
    m = len(energy)
    left, right = (
        torch.linalg.qr(torch.randn(rows, m, generator=generator, dtype=torch.float64)).Q
        for rows in (m, n)
    )
    return ((left * energy.sqrt()) @ right.T).to(dtype)


SPECTRA = {
    "decaying": torch.arange(64, dtype=torch.float64).div(-4).exp(),
    "low rank on noise": torch.cat([torch.ones(8), torch.full((56,), 1e-4)]).double(),
    "rank one": torch.cat([torch.ones(1), torch.zeros(63)]).double(),
    "flat": torch.ones(64, dtype=torch.float64),
    "noise": torch.linalg.svdvals(
        torch.randn(64, 100, generator=torch.Generator().manual_seed(2)).double()
    ).square(),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_a_sketch_errs_to_one_side_only(name, scale):
    energy = SPECTRA[name] * scale
    sketch = sketched_energies(with_spectrum(energy, 100), sketch_rank(64))
    assert sketch.shape == (64,)
    assert bool((sketch.diff() <= 0).all())
    assert float(sketch.min()) >= 0
    assert float(sketch.sum() / energy.sum()) == pytest.approx(1, rel=1e-6)
    rounding = 1e-6
    assert stable_rank(sketch) >= stable_rank(energy) * (1 - rounding)
    assert effective_rank(sketch) >= effective_rank(energy) * (1 - 1e-4)  # entropy of rounding
    for share in (0.9, 0.95, 0.99):
        assert rank_at_energy(sketch, share + rounding) >= rank_at_energy(energy, share)
    for rank in range(1, 65):
        kept = energy_at_rank(sketch, rank)
        assert kept <= 1
        assert kept <= energy_at_rank(energy, rank) + rounding


@pytest.mark.parametrize(
    ("energy", "error"),
    [
        (torch.arange(256).double().div(-16).exp(), 0.002),
        (1 / torch.arange(1, 257).double(), 0.04),
        (torch.linspace(1, 0.2, 256).double(), 0.1),  # about white noise of 256 x 700
    ],
)
def test_the_error_of_a_sketch_is_the_stated_one(energy, error):
    sketch = sketched_energies(with_spectrum(energy, 700), sketch_rank(256))
    for rank, share in ((64, 1), (32, 1 / 2), (16, 1 / 4)):
        missed = energy_at_rank(energy, rank) - energy_at_rank(sketch, rank)
        assert 0 < missed < share * error


def test_a_sketch_does_not_depend_on_the_default_dtype():
    G = torch.randn(32, 48, generator=torch.Generator().manual_seed(1))
    expected = sketched_energies(G, 10)
    with default_dtype(torch.float64):
        assert torch.equal(sketched_energies(G, 10), expected)


def test_an_apple_gpus_tensors_are_decomposed_on_the_cpu_and_others_where_they_are():
    assert solving_device(torch.device("mps")) == torch.device("cpu")
    assert solving_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


def test_a_sketch_of_every_direction_is_exact():
    G = torch.randn(12, 20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sketched_energies(G, 12), energies(G), rtol=1e-5, atol=1e-5)


def test_a_tall_matrix_has_the_sketch_of_its_transpose_and_the_seed_is_fixed():
    G = with_spectrum(SPECTRA["decaying"], 100)
    before = torch.get_rng_state()
    sketch = sketched_energies(G, 24)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(sketched_energies(G, 24), sketch)
    torch.testing.assert_close(sketched_energies(G.T, 24), sketch, rtol=1e-6, atol=1e-7)


def test_a_wide_layer_is_sketched_and_says_so():
    G = with_spectrum(SPECTRA["decaying"], 100)
    exact, sketched = SpectrumAccumulator(), SpectrumAccumulator(sketch_from=64)
    for accumulator in (exact, sketched):
        accumulator.add(G)
        accumulator.add(torch.zeros_like(G))
    assert exact.result().sketched_rank is None
    assert sketched.result().sketched_rank == sketch_rank(64) == 20
    assert exact.result().rank_at_energy["0.99"].mean == 19
    assert 19 <= sketched.result().rank_at_energy["0.99"].mean <= 24
    assert sketched.result().energy_at_rank["16"].mean == pytest.approx(
        exact.result().energy_at_rank["16"].mean, abs=2.5e-3
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_sketch_takes_every_float_type(dtype):
    G = with_spectrum(SPECTRA["decaying"], 100, dtype)
    torch.testing.assert_close(
        sketched_energies(G, 24)[:16], energies(G)[:16], rtol=2e-2, atol=1e-4
    )


def test_the_sum_of_squares_is_that_of_all_slices(monkeypatch):
    monkeypatch.setattr(spectrum, "_SLICE", 7)
    G = torch.randn(5, 9, generator=torch.Generator().manual_seed(1))
    for matrix in (G, G.T, G[:, ::2]):
        assert float(spectrum.total_energy(matrix)) == pytest.approx(
            float(matrix.double().square().sum()), rel=1e-14
        )
