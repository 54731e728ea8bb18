"""Update agreement against steps taken with the mn x mn matrix itself."""

import pytest
import torch

from subopt.profilers.gradients.rotated import rotations, unit_of, walk, working_copies
from subopt.profilers.gradients.update_agreement import AgreementMeter, fit_count, full_steps

from .second_moment import gradients, inner_products, inverse_root, second_moment


def measure(given):
    working = working_copies(given)
    products = inner_products(working)
    unit = unit_of(products, working[0].numel())
    meter = AgreementMeter(products / unit**2, working[0].numel(), unit)
    turns = {}
    for fitted in rotations(working, two_sided=True, stale={}):
        rotation = fitted()
        walk(
            working,
            rotation,
            unit,
            lambda basis, _, block: meter.add(basis, block, block.square()),
        )
        P = rotation.left
        for name, Q in rotation.rights.items():
            turned = [G if P is None else P.T @ G for G in working]
            turns[name] = [(G if Q is None else G @ Q).double() for G in turned]
    return meter.result(), turns


def brute_force(matrices):
    """Mean cosines of whole steps and of their parts in the span, the share outside it, and eps; C built in float64."""
    fitted = fit_count(len(matrices))
    C = second_moment(matrices[:fitted])
    eps = float(C.trace()) / len(C)
    full_root = inverse_root(C, eps)
    span = torch.linalg.svd(
        torch.stack([G.flatten() for G in matrices[:fitted]]), full_matrices=False
    ).Vh
    whole, within, outside = [], [], []
    for G in matrices[fitted:]:
        g = G.flatten()
        full, diagonal = full_root @ g, (C.diag() + eps).rsqrt() * g
        whole.append(torch.cosine_similarity(full, diagonal, dim=0))
        within.append(torch.cosine_similarity(span @ full, span @ diagonal, dim=0))
        outside.append(1 - (span @ g).square().sum() / g.square().sum())
    return *(float(torch.stack(x).mean()) for x in (whole, within, outside)), eps


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5), (1, 6)])
@pytest.mark.parametrize("count", [2, 5, 8])
def test_every_number_is_the_brute_force_one(shape, count, dtype, tolerance):
    if count > 6 and shape == (1, 6):
        count = 6  # the span must leave something outside
    found, turns = measure(gradients(count, *shape, dtype=dtype))
    assert list(found.cosine) == ["raw", "one_sided", "two_sided", "covariance"]
    for basis, matrices in turns.items():
        whole, within, outside, eps = brute_force(matrices)
        assert found.cosine[basis] == pytest.approx(whole, abs=tolerance), basis
        assert found.in_span[basis] == pytest.approx(within, abs=tolerance), basis
        assert found.share_outside == pytest.approx(outside, abs=tolerance)
        assert found.eps == pytest.approx(eps, rel=tolerance)


@pytest.mark.parametrize(("count", "fitted"), [(2, 1), (3, 2), (4, 3), (7, 6), (8, 6), (16, 12)])
def test_the_last_quarter_is_held_out(count, fitted):
    assert fit_count(count) == fitted


def test_a_diagonal_second_moment_is_preconditioned_exactly_in_its_coordinates():
    # Gradients with one entry each: C is diagonal as it stands, and the held-out one has two of those entries.
    def single(i, j, value):
        G = torch.zeros(3, 4, dtype=torch.float64)
        G[i, j] = value
        return G

    given = [single(0, 0, 2.0), single(1, 2, 1.0), single(2, 3, 0.5)]
    given.append(single(0, 0, 1.0) + single(2, 3, 1.0))
    found, _ = measure(given)
    assert found.cosine["raw"] == pytest.approx(1, abs=1e-12)
    assert found.in_span["raw"] == pytest.approx(1, abs=1e-12)
    assert found.share_outside == pytest.approx(0, abs=1e-12)
    assert found.cosine["two_sided"] < 1


def test_a_gradient_outside_the_span_takes_the_same_full_step_as_none():
    # The full step is then g / sqrt(eps), and nothing of it can be compared within the span.
    given = [torch.diag(torch.tensor([1.0, 0.0, 0.0])), torch.diag(torch.tensor([0.0, 0.0, 2.0]))]
    found, _ = measure([G.double() for G in given])
    assert found.share_outside == 1
    assert found.cosine["raw"] == pytest.approx(1)
    assert found.in_span == {}


def test_repeated_gradients_span_no_more_than_one():
    G, H = (g.double() for g in gradients(2))
    once, _ = measure([G, H])
    working = inner_products([G, G, G, H])
    full = full_steps(working, 3, once.eps)
    assert full.span.shape == (3, 1)
    assert float(full.share_outside[0]) == pytest.approx(once.share_outside, abs=1e-12)
    # Its step is that of the single gradient: (C + eps I)^(-1/2) depends on C alone.
    single = full_steps(inner_products([G, H]), 1, once.eps)
    torch.testing.assert_close(full.squares, single.squares, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        full.coefficients.sum(1), single.coefficients.sum(1), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize("scale", [1e-12, 1e9])
def test_the_scale_of_the_gradients_does_not_matter(scale):
    given = gradients(6)
    expected, _ = measure(given)
    found, _ = measure([G * scale for G in given])
    assert found.cosine == pytest.approx(expected.cosine, abs=2e-5)
    assert found.in_span == pytest.approx(expected.in_span, abs=2e-5)
    assert found.eps == pytest.approx(expected.eps * scale**2, rel=1e-5)
