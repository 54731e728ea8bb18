"""Spectrum numbers against a float64 singular value decomposition and plain loops."""

import math

import pytest
import torch

from subopt.profilers.spectrum import SpectrumAccumulator, energies, rank_at_energy, reported_ranks


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
