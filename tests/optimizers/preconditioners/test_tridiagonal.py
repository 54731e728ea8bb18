"""Batched inverse roots without eigenvectors: against eigenvectors, and in the cases where rounding decides."""

import math

import pytest
import torch

from subopt.optimizers.bases import covariance as gram
from subopt.optimizers.preconditioners import tridiagonal
from subopt.optimizers.preconditioners.inverse_sqrt import Eigenvectors, inverse_roots
from subopt.optimizers.preconditioners.tridiagonal import EPS, Tridiagonal

SIDES = [3, 4, 8, 9, 32]
COUNT = 20


def normal(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(k, rank=None, sizes=(1.0,)):
    """Random matrices of a rank, each of a size of its own."""
    F = normal(COUNT, k, rank or 2 * k)
    size = torch.tensor([sizes[i % len(sizes)] for i in range(COUNT)], dtype=torch.float64)
    return F @ F.mT / k * size[:, None, None]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 2e-6), (torch.float32, 1e-4)], ids=str
)
@pytest.mark.parametrize("k", SIDES)
def test_roots_are_those_of_eigenvectors_whatever_the_size(k, dtype, tolerance):
    A, x = positive(k, sizes=(1e-30, 1.0, 1e30)).to(dtype), normal(COUNT, k, seed=1)
    largest = torch.linalg.eigvalsh(A.double())[:, -1]
    shift = 0.01 * largest
    expected = Eigenvectors(A.double()).inverse_root_times(x, shift)
    found = Tridiagonal(A).inverse_root_times(x.to(dtype), shift)
    assert found.dtype == dtype
    error = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < tolerance


@pytest.mark.parametrize("k", SIDES)
def test_extreme_eigenvalues_are_found(k):
    A = positive(k)
    values, solved = torch.linalg.eigvalsh(A), Tridiagonal(A)
    torch.testing.assert_close(solved.smallest(), values[:, 0], rtol=1e-9, atol=1e-12)
    assert (solved.largest >= values[:, -1] * (1 - 1e-12)).all()
    assert (solved.largest <= 3 * values[:, -1]).all()


@pytest.mark.parametrize("k", SIDES)
def test_singular_matrices_have_nothing_smaller_than_rounding(k):
    A = positive(k, rank=1)
    largest = torch.linalg.eigvalsh(A)[:, -1]
    assert (Tridiagonal(A.float()).smallest().abs() <= k * EPS * largest).all()
    # On its own direction the root of v v^T is known, whatever is added for the others.
    v = normal(COUNT, k, 1)[:, :, 0]
    found = Tridiagonal(A).inverse_root_times(v, EPS * largest)
    torch.testing.assert_close(found, v / largest.sqrt()[:, None], rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", SIDES)
def test_equal_eigenvalues_and_zeros_are_no_exception(k):
    A = torch.cat((torch.eye(k)[None], 7 * torch.eye(k)[None], torch.zeros(1, k, k)))
    solved = Tridiagonal(A)
    smallest = solved.smallest()
    torch.testing.assert_close(smallest, torch.tensor([1.0, 7, 0]).double(), rtol=1e-5, atol=1e-30)
    x = normal(3, k).float()
    shift = torch.tensor([3.0, 2.0, 4.0]).double()
    expected = x / torch.tensor([2.0, 3.0, 2.0])[:, None]
    torch.testing.assert_close(solved.inverse_root_times(x, shift), expected, rtol=1e-5, atol=1e-6)


def test_a_matrix_that_is_not_positive_shows_in_its_smallest_eigenvalue():
    A = positive(6)
    A.diagonal(dim1=1, dim2=2).sub_(0.3 * torch.linalg.eigvalsh(A)[:, -1:])
    values, smallest = torch.linalg.eigvalsh(A), Tridiagonal(A).smallest()
    assert (values[:, 0] < 0).all()
    assert (smallest <= values[:, 0] + 1e-9).all()
    assert (smallest >= values[:, 0] - 0.1 * values[:, -1]).all()


def test_resolvents_add_up_to_the_inverse_root_over_float32s_range():
    nodes, weights = tridiagonal._quadrature(EPS, tridiagonal._NODES)
    for exponent in torch.linspace(math.log(EPS), 0, 200).tolist():
        x = math.exp(exponent)
        root = sum(w / (x + t) for t, w in zip(nodes, weights, strict=True))
        assert root * math.sqrt(x) == pytest.approx(1, abs=2e-6)


def test_the_solver_follows_precision_and_side():
    A = positive(8)
    assert isinstance(inverse_roots(A.float()), Tridiagonal)
    assert isinstance(inverse_roots(A), Eigenvectors)
    assert isinstance(inverse_roots(A[:, :2, :2].float()), Eigenvectors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [5, 8, 20], ids=str)
def test_strips_of_a_gram_matrix_are_the_whole(rows, dtype, monkeypatch):
    monkeypatch.setattr(gram, "STRIP_ROWS", 8)
    X, C = normal(rows, 6).float(), positive(rows)[0].to(dtype)
    expected = (0.9 * C.float() + 0.1 * X @ X.mT).to(dtype)
    gram.average_gram(C, X, 0.9, 0.1)
    torch.testing.assert_close(C, expected)
