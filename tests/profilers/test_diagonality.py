"""Diagonality against the mn x mn matrix, built for layers small enough to build it."""

import pytest
import torch

from subopt.optimizers.decompositions import left_basis, two_sided_bases
from subopt.profilers import diagonality as module
from subopt.profilers.diagonality import (
    DiagonalityAccumulator,
    DiagonalSums,
    diagonal_ratio,
    inner_products,
    measure_diagonality,
    white_noise_ratio,
)

BASES = ("raw", "one_sided", "two_sided", "low_rank")


def gradients(count, m=4, n=6, seed=0, dtype=torch.float32):
    """Correlated gradients: a few shared directions under noise of unequal variances."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(2, m, n, generator=generator)
    variances = torch.linspace(0.2, 2, m * n).reshape(m, n)
    weights = torch.randn(count, 2, 1, 1, generator=generator)
    noise = torch.randn(count, m, n, generator=generator)
    return [G.to(dtype) for G in (weights * shared).sum(1) + 0.5 * noise * variances]


def brute_force(matrices):
    """ratio, unbiased and d_eff of C = (1/K) sum g g^T, C built entry by entry in float64."""
    vectors = [G.double().flatten() for G in matrices]
    count = len(vectors)
    C = sum(torch.outer(g, g) for g in vectors) / count
    ratio = C.diag().square().sum() / C.square().sum()
    # The unbiased estimate, entry by entry: products of different gradients only.
    upper = lower = 0.0
    for k in range(count):
        for l in range(count):  # noqa: E741
            if k != l:
                upper += float((vectors[k] ** 2 * vectors[l] ** 2).sum())
                lower += float(torch.dot(vectors[k], vectors[l])) ** 2
    effective = C.trace() ** 2 / C.diag().square().sum()
    return float(ratio), upper / lower if lower else None, float(effective)


def wide(G):
    return G if G.shape[0] <= G.shape[1] else G.T


def rotated(matrices, rank):
    """The judged gradients in every basis: fitted on the first, judged on the others."""
    first, *rest = [wide(G).double() for G in matrices]
    judged = rest or [first]
    P, Q = two_sided_bases(first)
    one = left_basis(first)
    return {
        "raw": [first, *rest],
        "one_sided": [one.T @ G for G in judged],
        "two_sided": [P.T @ G @ Q for G in judged],
        "low_rank": [one[:, :rank].T @ G for G in judged],
    }


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5), (1, 6)])
@pytest.mark.parametrize("count", [2, 5, 8])
def test_every_number_is_the_brute_force_one(shape, count):
    given = gradients(count, *shape)
    found = measure_diagonality(given, rank=2)
    for basis, matrices in rotated(given, rank=2).items():
        ratio, unbiased, effective = brute_force(matrices)
        measured, judged = getattr(found, basis), len(matrices)
        assert measured.ratio == pytest.approx(ratio, rel=1e-5), basis
        assert measured.unbiased == (pytest.approx(unbiased, rel=1e-5) if judged >= 4 else None), (
            basis
        )
        assert measured.in_sample is False
        assert found.white_noise[basis] == pytest.approx(
            (judged + 2) / (judged + matrices[0].numel() + 1)
        )
        expected = (judged + 2) / (judged + effective + 1)
        assert found.white_noise[f"{basis}_effective"] == pytest.approx(expected, rel=1e-5)


def test_a_single_gradient_is_judged_on_itself_and_says_so():
    (G,) = given = gradients(1)
    found = measure_diagonality(given, rank=2)
    assert [getattr(found, basis).in_sample for basis in BASES] == [False, True, True, True]
    for basis, matrices in rotated(given, rank=2).items():
        assert getattr(found, basis).ratio == pytest.approx(brute_force(matrices)[0], rel=1e-5)
        assert getattr(found, basis).unbiased is None
    assert found.white_noise["raw"] == pytest.approx(3 / (G.numel() + 2))


def test_a_diagonal_second_moment_is_found_in_its_basis_and_nowhere_else():
    generator = torch.Generator().manual_seed(4)
    U = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    V = torch.linalg.qr(torch.randn(7, 7, generator=generator, dtype=torch.float64))[0]
    # One pair of singular vectors per batch; the first batch holds them all.
    first = U @ torch.diag(torch.arange(5, 0, -1.0, dtype=torch.float64)) @ V[:, :5].T
    later = [torch.outer(U[:, i], V[:, i]) for i in range(5)]
    found = measure_diagonality([first, *later], rank=5)
    assert found.two_sided.ratio == pytest.approx(1, abs=1e-9)
    assert found.two_sided.unbiased is None  # the gradients are orthogonal to one another
    assert found.raw.ratio < 0.5
    assert found.one_sided.ratio < 0.5


def test_the_unbiased_estimate_is_unbiased_and_the_plain_one_is_low():
    dimension, repeats, count = 24, 400, 8
    generator = torch.Generator().manual_seed(5)
    mixing = (
        torch.randn(dimension, dimension, generator=generator, dtype=torch.float64) / dimension**0.5
    )
    mixing += 1.5 * torch.eye(dimension, dtype=torch.float64)
    C = mixing @ mixing.T
    true = float(C.diag().square().sum() / C.square().sum())
    upper = lower = plain = 0.0
    for _ in range(repeats):
        batch = [
            mixing @ torch.randn(dimension, generator=generator, dtype=torch.float64)
            for _ in range(count)
        ]
        sums = DiagonalSums()
        for g in batch:
            sums.add(g)
        products = inner_products(batch)
        between = float((products - products.diag().diag()).square().sum())
        ratio = diagonal_ratio(sums, products)
        upper, lower, plain = (
            upper + ratio.unbiased * between,
            lower + between,
            plain + ratio.ratio / repeats,
        )
    # Numerator and denominator are unbiased each; their quotient over many draws is the true share.
    assert upper / lower == pytest.approx(true, rel=0.03)
    assert plain < 0.8 * true


def test_white_noise_is_what_gaussian_gradients_give():
    generator = torch.Generator().manual_seed(6)
    count, repeats = 6, 300
    variances = torch.linspace(0.3, 1.5, 20, dtype=torch.float64)
    diagonal = whole = 0.0
    for _ in range(repeats):
        batch = [
            variances.sqrt() * torch.randn(20, generator=generator, dtype=torch.float64)
            for _ in range(count)
        ]
        sums = DiagonalSums()
        for g in batch:
            sums.add(g)
        diagonal += float(sums.squares.square().sum())
        whole += float(inner_products(batch).square().sum())
    effective = float(variances.sum() ** 2 / variances.square().sum())
    assert diagonal / whole == pytest.approx(white_noise_ratio(count, effective), rel=0.05)


def test_gradients_orthogonal_to_the_truncated_basis_leave_nothing_to_divide():
    first = torch.zeros(3, 4, dtype=torch.float64)
    first[0, 0], first[1, 1], first[2, 2] = 3.0, 2.0, 1.0
    other = torch.zeros(3, 4, dtype=torch.float64)
    other[2, 3] = 1.0
    found = measure_diagonality([first, other], rank=1)
    assert found.low_rank.ratio is None
    assert "low_rank_effective" not in found.white_noise
    assert found.one_sided.ratio == pytest.approx(1)


def test_a_rank_above_the_short_side_is_the_full_basis():
    found = measure_diagonality(gradients(4), rank=99)
    assert found.low_rank.ratio == pytest.approx(found.one_sided.ratio, rel=1e-6)
    assert found.white_noise["low_rank"] == found.white_noise["one_sided"]


@pytest.mark.parametrize("scale", [1e-12, 1e9])
def test_the_scale_of_the_gradients_does_not_matter(scale):
    given = gradients(5)
    expected, found = (
        measure_diagonality(given, 2),
        measure_diagonality([G * scale for G in given], 2),
    )
    for basis in BASES:
        assert getattr(found, basis).ratio == pytest.approx(
            getattr(expected, basis).ratio, rel=1e-5
        )
        assert getattr(found, basis).unbiased == pytest.approx(
            getattr(expected, basis).unbiased, rel=1e-5
        )


def test_half_precision_gradients_are_rotated_in_single_precision():
    given = gradients(5, dtype=torch.bfloat16)
    found, expected = (
        measure_diagonality(given, 2),
        measure_diagonality([G.float() for G in given], 2),
    )
    assert found == expected


def test_inner_products_are_the_same_in_slices(monkeypatch):
    given = gradients(4, 5, 7)
    whole = inner_products(given)
    monkeypatch.setattr(module, "_SLICE", 6)
    torch.testing.assert_close(inner_products(given), whole, rtol=1e-12, atol=1e-12)
    expected = [[float((a.double() * b.double()).sum()) for a in given] for b in given]
    torch.testing.assert_close(whole, torch.tensor(expected, dtype=torch.float64))


def test_the_accumulator_keeps_copies_and_leaves_out_what_says_nothing():
    given = gradients(4)
    accumulator = DiagonalityAccumulator(rank=2)
    for G in [torch.zeros(4, 6), given[0], torch.full((4, 6), torch.nan), *given[1:]]:
        buffer = G.clone()
        accumulator.add(buffer)
        buffer.fill_(0)
    assert accumulator.result() == measure_diagonality(given, 2)


def test_the_accumulator_has_no_result_without_gradients_and_lets_go_of_them():
    accumulator = DiagonalityAccumulator(rank=2)
    accumulator.add(torch.zeros(2, 2))
    assert accumulator.result() is None
    accumulator.add(torch.eye(2))
    assert accumulator.result() is not None
    assert accumulator.result() is None
