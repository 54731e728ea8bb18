"""Diagonality against the mn x mn matrix, built for layers small enough to build it."""

import pytest
import torch

from subopt.optimizers.bases.decompositions import LinAlgError, left_basis
from subopt.profilers.gradients import rotated as coordinates
from subopt.profilers.gradients.diagonality import diagonal_ratio, white_noise_ratio
from subopt.profilers.gradients.rotated import covariance_bases, right_basis

from .second_moment import gradients, inner_products, measure_diagonality, second_moment, wide

BASES = ("raw", "one_sided", "two_sided", "covariance", "low_rank")


def brute_force(matrices):
    """ratio, unbiased and d_eff of C = (1/K) sum g g^T, C built entry by entry in float64; the last two from pairs."""
    vectors = [G.double().flatten() for G in matrices]
    count = len(vectors)
    C = second_moment(matrices)
    ratio = C.diag().square().sum() / C.square().sum()
    # The unbiased estimate, entry by entry: products of different gradients only.
    upper = lower = lengths = 0.0
    for k in range(count):
        for l in range(count):  # noqa: E741
            if k != l:
                upper += float((vectors[k] ** 2 * vectors[l] ** 2).sum())
                lower += float(torch.dot(vectors[k], vectors[l])) ** 2
                lengths += float(vectors[k].square().sum() * vectors[l].square().sum())
    return float(ratio), upper / lower if lower else None, lengths / upper if upper else None


def squared_products(matrices):
    """All <G_k^2, G_l^2>, squared entry by entry."""
    squares = torch.stack([G.double().flatten().square() for G in matrices])
    return squares @ squares.T


def rotated(given, rank):
    """The judged gradients in every basis: fitted on the first, or on the first half, judged on the others."""
    first, *rest = matrices = [wide(G).double() for G in given]
    half = max(1, len(given) // 2)
    judged, unseen = rest or [first], matrices[half:] or [first]
    P = left_basis(first)
    Q = right_basis(first, P)
    left, right = covariance_bases(matrices[:half])
    return {
        "raw": matrices,
        "one_sided": [P.T @ G for G in judged],
        "two_sided": [P.T @ G @ Q for G in judged],
        "covariance": [left.T @ G @ right for G in unseen],
        "low_rank": [P[:, :rank].T @ G for G in judged],
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
        expected = {}
        if effective is not None:
            expected = {f"{basis}_effective": (judged + 2) / (judged + effective + 1)}
        measured = {k: v for k, v in found.white_noise.items() if k == f"{basis}_effective"}
        assert measured == pytest.approx(expected, rel=1e-5)


def test_a_single_gradient_is_judged_on_itself_and_says_so():
    (G,) = given = gradients(1)
    found = measure_diagonality(given, rank=2)
    assert [getattr(found, basis).in_sample for basis in BASES] == [False, True, True, True, True]
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
        products = inner_products(batch)
        between = float((products - products.diag().diag()).square().sum())
        ratio = diagonal_ratio(squared_products(batch), products)
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
        diagonal += float(squared_products(batch).sum())
        whole += float(inner_products(batch).square().sum())
    effective = float(variances.sum() ** 2 / variances.square().sum())
    assert diagonal / whole == pytest.approx(white_noise_ratio(count, effective), rel=0.05)


@pytest.mark.parametrize("count", [4, 8])
def test_the_effective_white_noise_is_what_gaussian_gradients_of_those_variances_give(count):
    generator = torch.Generator().manual_seed(7)
    deviations = torch.linspace(0.1, 1.5, 300).square().reshape(15, 20)
    effective = float(deviations.square().sum() ** 2 / deviations.pow(4).sum())
    repeats, mean = 40, 0.0
    for _ in range(repeats):
        noise = torch.randn(count, 15, 20, generator=generator)
        found = measure_diagonality(list(noise * deviations), 2, two_sided=False)
        mean += found.white_noise["raw_effective"] / repeats
    assert mean == pytest.approx(white_noise_ratio(count, effective), rel=0.02)


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
    given = gradients(8)  # half of them are judged in the covariance basis
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


def test_stale_bases_are_judged_on_every_gradient():
    given = gradients(5, 6, 4)
    generator = torch.Generator().manual_seed(2)
    P = torch.linalg.qr(torch.randn(4, 4, generator=generator))[0]
    found = measure_diagonality(given, 2, stale={1: torch.eye(4), 20: P})
    assert list(found.stale) == ["1", "20"]
    assert found.stale["1"] == found.raw
    ratio, unbiased, effective = brute_force([P.double().T @ wide(G).double() for G in given])
    assert found.stale["20"].ratio == pytest.approx(ratio, rel=1e-5)
    assert found.stale["20"].unbiased == pytest.approx(unbiased, rel=1e-5)
    assert found.stale["20"].in_sample is False
    assert found.white_noise["stale_20"] == found.white_noise["raw"]
    assert found.white_noise["stale_20_effective"] == pytest.approx(7 / (6 + effective), rel=1e-5)


def test_a_stale_basis_on_a_single_gradient_is_not_in_sample():
    (G,) = given = gradients(1)
    found = measure_diagonality(given, 2, stale={3: left_basis(G).float()})
    assert found.stale["3"].in_sample is False
    assert found.stale["3"].ratio == pytest.approx(found.one_sided.ratio, rel=1e-5)


def test_bases_of_the_long_side_can_be_left_out():
    given = gradients(5)
    found, whole = measure_diagonality(given, 2, two_sided=False), measure_diagonality(given, 2)
    assert found.two_sided is None
    assert found.covariance is None
    assert found.one_sided == whole.one_sided
    assert not {"two_sided", "covariance"} & set(found.white_noise)


def test_blocks_of_rows_add_up(monkeypatch):
    given = [G.double() for G in gradients(5, 7, 9)]
    whole = measure_diagonality(given, 3)
    monkeypatch.setattr(coordinates, "_BLOCK", 1)
    monkeypatch.setattr(coordinates, "_LEAST_ROWS", 2)
    pieces = measure_diagonality(given, 3)
    for basis in BASES:
        ratio = getattr(whole, basis).ratio
        assert getattr(pieces, basis).ratio == pytest.approx(ratio, rel=1e-12), basis
    assert pieces.white_noise == pytest.approx(whole.white_noise, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_right_basis_is_orthonormal_and_begins_with_the_singular_vectors(rank, dtype):
    generator = torch.Generator().manual_seed(3)
    U = torch.linalg.qr(torch.randn(4, rank, generator=generator, dtype=torch.float64))[0]
    V = torch.linalg.qr(torch.randn(7, rank, generator=generator, dtype=torch.float64))[0]
    scales = torch.tensor([1, 1e-1, 1e-2, 1e-4], dtype=torch.float64)[:rank]
    G = (U * scales @ V.T).to(dtype)
    Q = right_basis(G, left_basis(G))
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(Q.T @ Q, torch.eye(7, dtype=dtype), rtol=0, atol=tolerance)
    # float32 gradients hold their weakest direction to 1e-7 of the strongest one's scale, 1e-3 of its own.
    overlap = (Q[:, :rank].double() * V).sum(0).abs()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(overlap, torch.ones(rank).double(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("limit", [0, 256])
def test_covariance_bases_diagonalise_the_sums(monkeypatch, limit, scale):
    monkeypatch.setattr(coordinates, "_FLOAT64_MAX_SIDE", limit)
    given = [(G * scale).float() for G in gradients(3, 4, 7)]
    for side, basis in zip((0, 1), covariance_bases(given), strict=True):
        total = sum(
            G.double() @ G.T.double() if side == 0 else G.T.double() @ G.double() for G in given
        )
        rotated_total = basis.double().T @ total @ basis.double()
        values = torch.linalg.eigvalsh(total).flip(0)
        largest = float(values[0])
        torch.testing.assert_close(rotated_total, values.diag(), rtol=0, atol=1e-6 * largest)


def test_eigenvectors_that_float32_does_not_find_are_solved_for_in_float64(monkeypatch):
    solve, tried = torch.linalg.eigh, []

    def fails_in_float32(matrix):
        tried.append(matrix.dtype)
        if matrix.dtype == torch.float32:
            raise LinAlgError("did not converge")
        return solve(matrix)

    matrix = torch.diag(torch.tensor([1.0, 3.0, 2.0]))
    monkeypatch.setattr(torch.linalg, "eigh", fails_in_float32)
    found = coordinates.eigenvectors(matrix)
    assert tried == [torch.float32, torch.float64]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.abs(), torch.eye(3)[:, [1, 2, 0]])


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_vectors_and_single_numbers_are_measured(shape):
    found = measure_diagonality(gradients(3, *shape), 1)
    for basis in BASES:
        assert 0 < getattr(found, basis).ratio <= 1 + 1e-6


def test_rank_one_gradients_are_diagonal_in_their_own_basis():
    u, v = torch.tensor([3.0, -1.0, 2.0]), torch.tensor([1.0, 2.0, 0.5, -1.0])
    found = measure_diagonality([c * torch.outer(u, v) for c in (1.0, -2.0, 0.5, 3.0, 1.5)], 1)
    for basis in ("two_sided", "covariance"):
        assert getattr(found, basis).ratio == pytest.approx(1, abs=1e-6)
    assert found.raw.ratio < 0.5
