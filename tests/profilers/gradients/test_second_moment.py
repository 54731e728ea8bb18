"""The gradients of a layer, held and measured together: the same numbers as each measure alone."""

import pytest
import torch

from subopt.profilers.gradients.blocks import measure_blocks
from subopt.profilers.gradients.noise import measure_noise
from subopt.profilers.gradients.second_moment import AccumulatedGradients
from subopt.profilers.timing.stopwatch import Stopwatch

from .second_moment import gradients, inner_products, measure_diagonality, wide

QUANTITIES = {
    "diagonality",
    "off-diagonal histograms",
    "update agreement",
    "blocks",
    "gradient noise",
}


def measure(given, rank=2, **options):
    held = AccumulatedGradients(rank, watch=Stopwatch(), **options)
    for G in given:
        held.add(G)
    return held.result()


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 20)])
def test_every_measure_is_the_one_taken_alone(shape):
    given = [G.double() for G in gradients(6, *shape)]
    P = torch.linalg.qr(torch.randn(min(shape), min(shape), dtype=torch.float64))[0]
    found = measure(given, stale={5: P})
    alone = measure_diagonality(given, 2, stale={5: P})
    for basis in ("raw", "one_sided", "two_sided", "covariance", "low_rank"):
        ratio = getattr(alone, basis).ratio
        assert getattr(found.diagonality, basis).ratio == pytest.approx(ratio, rel=1e-10)
    assert found.diagonality.stale["5"].ratio == pytest.approx(alone.stale["5"].ratio, rel=1e-10)
    assert found.diagonality.white_noise == pytest.approx(alone.white_noise, rel=1e-10)
    assert found.blocks == measure_blocks(given)  # by the rows as given, whichever side is short
    matrices = [wide(G) for G in given]
    noise = measure_noise(matrices, inner_products(matrices), 2)
    assert found.noise.signal_share == pytest.approx(noise.signal_share, rel=1e-10)
    assert found.noise.captured == pytest.approx(noise.captured, rel=1e-10)
    bases = ["raw", "one_sided", "two_sided", "covariance"]
    assert list(found.off_diagonal.absolute) == list(found.agreement.cosine) == bases


def test_without_bases_of_the_long_side():
    found = measure(gradients(4), two_sided=False)
    assert found.diagonality.two_sided is None
    assert found.diagonality.covariance is None
    assert list(found.agreement.cosine) == ["raw", "one_sided"]
    assert list(found.off_diagonal.scale_free) == ["raw", "one_sided"]


def test_gradients_are_copied_and_those_that_say_nothing_left_out():
    given = gradients(4)
    held = AccumulatedGradients(2, watch=Stopwatch())
    for G in [torch.zeros(4, 6), given[0], torch.full((4, 6), torch.nan), *given[1:]]:
        buffer = G.clone()
        held.add(buffer)
        buffer.fill_(0)
    assert held.result() == measure(given)


def test_nothing_to_measure_and_letting_go():
    held = AccumulatedGradients(2, watch=Stopwatch())
    assert held.result() is None
    held.add(torch.zeros(2, 2))
    assert held.result() is None
    held.add(torch.eye(2))
    assert held.result() is not None
    assert held.result() is None


def test_a_single_gradient_has_no_held_out_ones():
    found = measure(gradients(1))
    assert found.agreement is None
    assert found.noise is None
    assert found.diagonality.one_sided.in_sample
    assert sum(found.off_diagonal.absolute["raw"]) == found.off_diagonal.pairs


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 30), (30, 2)])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_any_shape_count_and_precision_is_measured(shape, count, dtype):
    found = measure(gradients(count, *shape, dtype=dtype), rank=3)
    assert 0 < found.diagonality.raw.ratio <= 1 + 1e-6
    assert (found.off_diagonal is None) == (shape == (1, 1))
    assert (found.agreement is None) == (count == 1)
    if found.agreement is not None:
        assert all(-1 - 1e-6 <= x <= 1 + 1e-6 for x in found.agreement.cosine.values())


@pytest.mark.parametrize("scale", [1e-18, 1e-30, 1e15, 1e30])
def test_gradients_far_from_one_are_measured(scale):
    given = gradients(6, 5, 12)
    found, expected = measure([G * scale for G in given]), measure(given)
    assert found.diagonality.two_sided.ratio == pytest.approx(
        expected.diagonality.two_sided.ratio, rel=1e-4
    )
    assert found.blocks.shared == pytest.approx(expected.blocks.shared, rel=1e-4)
    assert found.agreement.cosine == pytest.approx(expected.agreement.cosine, abs=1e-4)
    assert found.noise.captured == pytest.approx(expected.noise.captured, rel=1e-4)


def test_half_precision_is_measured_in_single_precision():
    given = gradients(5, dtype=torch.bfloat16)
    assert measure(given) == measure([G.float() for G in given])


def test_rank_one_and_repeated_gradients_are_measured():
    G = torch.outer(torch.arange(1.0, 6), torch.arange(1.0, 10))
    found = measure([G] * 5)
    assert found.diagonality.two_sided.ratio == pytest.approx(1, abs=1e-5)
    assert found.agreement.share_outside == pytest.approx(0, abs=1e-6)
    assert found.agreement.in_span["two_sided"] == pytest.approx(1, abs=1e-6)
    assert found.blocks.own["8"] == 1
    assert found.noise.batches_needed == pytest.approx(0, abs=1e-6)


def test_the_time_of_every_quantity_is_told():
    watch = Stopwatch()
    held = AccumulatedGradients(2, watch=watch)
    for G in gradients(4):
        held.add(G)
    held.result()
    assert set(watch.seconds) == QUANTITIES
    assert all(seconds > 0 for seconds in watch.seconds.values())
