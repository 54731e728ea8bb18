"""Signal, noise and the averages that a basis needs, against what they were made of."""

import pytest
import torch

from subopt.optimizers.bases.decompositions import left_basis
from subopt.profilers.gradients.noise import measure_noise

from .second_moment import gradients, inner_products


def measure(given, rank=2, first_basis=None):
    return measure_noise(given, inner_products(given), rank, first_basis)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_the_estimates_are_those_of_all_pairs(count):
    given = [G.double() for G in gradients(count)]
    pairs = [
        float((a * b).sum()) for i, a in enumerate(given) for j, b in enumerate(given) if i != j
    ]
    signal = sum(pairs) / len(pairs)
    energy = sum(float(G.square().sum()) for G in given) / count
    found = measure(given)
    assert found.signal_share == pytest.approx(signal / energy, rel=1e-10)
    if signal > 0:
        assert found.batches_needed == pytest.approx((energy - signal) / signal, rel=1e-10)
    else:
        assert found.batches_needed is None


def test_the_signal_share_is_unbiased():
    generator = torch.Generator().manual_seed(1)
    signal = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    share_of = float(signal.square().sum())
    noise_energy = 24 * 0.8**2
    signals = energies = 0.0
    for _ in range(400):
        given = [
            signal + 0.8 * torch.randn(4, 6, generator=generator, dtype=torch.float64)
            for _ in range(4)
        ]
        energy = sum(float(G.square().sum()) for G in given) / 4
        signals += measure(given).signal_share * energy
        energies += energy
    # Standard error of the mean of 400 draws of 4: below 2 %.
    assert signals / energies == pytest.approx(share_of / (share_of + noise_energy), rel=0.03)


def test_so_many_batches_make_half_of_the_energy_signal():
    generator = torch.Generator().manual_seed(2)
    signal = torch.randn(20, 30, generator=generator, dtype=torch.float64)
    given = [
        signal + 3 * torch.randn(20, 30, generator=generator, dtype=torch.float64)
        for _ in range(64)
    ]
    found = measure(given)
    # |E G|^2 / (|E G|^2 + tr Sigma / b) = 1/2 at b = tr Sigma / |E G|^2 = 600 * 9 / |E G|^2.
    assert found.batches_needed == pytest.approx(5400 / float(signal.square().sum()), rel=0.1)


@pytest.mark.parametrize("shape", [(4, 6), (5, 5), (1, 6)])
@pytest.mark.parametrize(("count", "sizes"), [(2, [1]), (5, [1, 2]), (8, [1, 2, 4])])
def test_kept_energy_is_that_of_the_held_out_mean(shape, count, sizes):
    given = [G.double() for G in gradients(count, *shape)]
    held_out = torch.stack(given[sizes[-1] :]).mean(0)
    found = measure(given, rank=2)
    assert list(found.captured) == [str(size) for size in sizes]
    for size in sizes:
        U = torch.linalg.svd(torch.stack(given[:size]).mean(0)).U[:, :2]
        expected = float((U.T @ held_out).square().sum() / held_out.square().sum())
        assert found.captured[str(size)] == pytest.approx(expected, rel=1e-8)


def test_a_known_first_basis_changes_nothing():
    given = [G.double() for G in gradients(4)]
    assert measure(given, 2, left_basis(given[0])) == measure(given, 2)


def test_identical_batches_are_all_signal():
    (G,) = gradients(1)
    found = measure([G.double()] * 4, rank=99)
    assert found.signal_share == pytest.approx(1)
    assert found.batches_needed == pytest.approx(0, abs=1e-12)
    assert found.captured == pytest.approx({"1": 1.0, "2": 1.0})


def test_orthogonal_and_opposed_batches_have_no_signal():
    first, second = torch.zeros(2, 2), torch.zeros(2, 2)
    first[0, 0] = second[1, 1] = 1.0
    found = measure([first, second], rank=1)
    assert found.signal_share == 0
    assert found.batches_needed is None
    assert found.captured == {"1": 0.0}
    opposed = measure([first, -first], rank=1)
    assert opposed.signal_share == pytest.approx(-1)
    assert opposed.batches_needed is None


def test_a_held_out_mean_of_zero_keeps_nothing():
    (G,) = gradients(1)
    assert measure([G, G, G, -G], rank=1).captured == {}


def test_averages_of_batches_that_cancel_still_have_a_basis():
    G, H = gradients(2)
    found = measure([G, -G, H, H], rank=1)
    assert 0 <= found.captured["2"] <= 1


def test_a_single_batch_says_nothing():
    assert measure(gradients(1)) is None
