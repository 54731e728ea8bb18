"""Sampled off-diagonal entries against the mn x mn matrix that they are of."""

import pytest
import torch

from subopt.profilers.gradients import off_diagonal as module
from subopt.profilers.gradients import rotated as coordinates
from subopt.profilers.gradients.off_diagonal import OffDiagonalMeter, histogram, sampled_pairs
from subopt.profilers.gradients.rotated import rotations, unit_of, unseen, walk, working_copies

from .second_moment import gradients, inner_products, second_moment

EDGES = [-8 + 0.25 * i for i in range(37)]


def measure(given):
    working = working_copies(given)
    products = inner_products(working)
    unit = unit_of(products, working[0].numel())
    meter = OffDiagonalMeter(working[0].numel(), products / unit**2)
    turns = {}
    for fitted in rotations(working, two_sided=True, stale={}):
        rotation = fitted()
        walk(working, rotation, unit, meter.add)
        P = rotation.left
        for name, Q in rotation.rights.items():
            turned = [G if P is None else P.T @ G for G in working]
            turns[name] = [G if Q is None else G @ Q for G in turned]
    return meter.result(), turns


def counted(values):
    """The histogram by its definition, one value after the other."""
    counts = [0] * 36
    for x in values:
        exponent = torch.tensor(float(x), dtype=torch.float64).log10()
        i = sum(float(exponent) >= edge for edge in EDGES) - 1
        counts[min(max(i, 0), 35)] += 1
    return counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "count"), [((4, 6), 5), ((6, 4), 2), ((3, 3), 8), ((1, 2), 1)])
def test_every_count_is_that_of_the_matrix(monkeypatch, shape, count, dtype):
    monkeypatch.setattr(module, "PAIRS", 300)
    found, turns = measure(gradients(count, *shape, dtype=dtype))
    assert found.pairs == 300
    assert found.edges == EDGES
    assert list(found.absolute) == ["raw", "one_sided", "two_sided", "covariance"]
    first, second = sampled_pairs(shape[0] * shape[1], 300)
    for basis, matrices in turns.items():
        C = second_moment(matrices[unseen(count)])
        entries = C[first, second].abs()
        roots = (C.diag()[first] * C.diag()[second]).sqrt()
        expected = counted(entries / C.diag().mean())
        assert moved(found.absolute[basis], expected) <= (1 if dtype == torch.float32 else 0)
        correlations = torch.where(roots > 0, entries / roots, 0.0).clamp(max=1 - 1e-12)
        expected = counted(correlations)
        assert moved(found.scale_free[basis], expected) <= (1 if dtype == torch.float32 else 0)


def moved(counts, expected):
    """How many values are in another bin: float32 may carry one over an edge."""
    return sum(abs(a - b) for a, b in zip(counts, expected, strict=True)) // 2


def test_pairs_are_distinct_coordinates_and_always_the_same():
    pairs = sampled_pairs(50, 4000)
    assert bool((pairs[0] != pairs[1]).all())
    assert pairs.min() == 0
    assert pairs.max() == 49
    assert torch.equal(pairs, sampled_pairs(50, 4000))
    # Both places are uniform: 80 expected in each, standard deviation 9.
    for place in pairs:
        assert torch.bincount(place).min() > 80 - 5 * 9


def test_zeros_are_in_the_first_bin_and_what_lies_beyond_in_the_outermost():
    counts = histogram(torch.tensor([0.0, 1e-12, 1e-8, 1.0, 9.9, 1e4], dtype=torch.float64))
    assert counts[0] == 3
    assert counts[32] == 1  # 10^0 is the lower edge of its bin
    assert counts[35] == 2
    assert sum(counts) == 6


def test_gradients_that_are_diagonal_in_a_basis_have_nothing_off_the_diagonal_there():
    generator = torch.Generator().manual_seed(4)
    U = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    V = torch.linalg.qr(torch.randn(7, 7, generator=generator, dtype=torch.float64))[0]
    first = U @ torch.diag(torch.arange(5, 0, -1.0, dtype=torch.float64)) @ V[:, :5].T
    later = [torch.outer(U[:, i], V[:, i]) for i in range(5)]
    found, _ = measure([first, *later])
    assert found.absolute["two_sided"][0] == found.pairs
    assert found.scale_free["raw"][0] < found.pairs / 10


def test_a_perfect_correlation_is_below_ten_to_the_zero():
    found, _ = measure([torch.ones(3, 4)] * 4)
    assert found.scale_free["raw"][31] == found.pairs
    assert found.absolute["raw"][32] == found.pairs  # |C_ij| equals the diagonal


def test_blocks_of_rows_hold_the_same_coordinates(monkeypatch):
    given = [G.double() for G in gradients(5, 7, 9)]
    whole, _ = measure(given)
    monkeypatch.setattr(coordinates, "_BLOCK", 1)
    monkeypatch.setattr(coordinates, "_LEAST_ROWS", 2)
    pieces, _ = measure(given)
    for basis, counts in whole.absolute.items():
        assert moved(pieces.absolute[basis], counts) <= 1  # rounding may carry one over an edge
