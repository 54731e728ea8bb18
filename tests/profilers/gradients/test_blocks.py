"""Block structure against the mn x mn matrix cut into its blocks."""

import pytest
import torch

from subopt.profilers.gradients import blocks as module
from subopt.profilers.gradients.blocks import measure_blocks, row_grams, shared_basis

from .second_moment import gradients, second_moment


def cut(given):
    """The diagonal blocks of C by output neuron, d_in wide, by input neuron, d_out wide, and ||C||_F^2."""
    rows, columns = given[0].shape
    C = second_moment(given).reshape(rows, columns, rows, columns)
    by_output = torch.stack([C[i, :, i, :] for i in range(rows)])
    by_input = torch.stack([C[:, j, :, j] for j in range(columns)])
    return by_output, by_input, float(C.square().sum())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (1, 5), (5, 1)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_shares_are_those_of_the_blocks(shape, count, dtype, tolerance):
    given = gradients(count, *shape, dtype=dtype)
    by_output, by_input, whole = cut(given)
    found = measure_blocks(given)
    assert found.by_output == pytest.approx(float(by_output.square().sum()) / whole, rel=tolerance)
    assert found.by_input == pytest.approx(float(by_input.square().sum()) / whole, rel=tolerance)
    assert found.shared == found.own == {}  # k = 8 is no fewer than d_in


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("count", [2, 12])
def test_what_bases_keep_is_what_they_keep_of_the_blocks(count, dtype, tolerance):
    given = gradients(count, 5, 18, dtype=dtype)
    by_output, _, _ = cut(given)
    whole = float(by_output.square().sum())
    total = sum(block @ block for block in by_output)
    vectors = torch.linalg.eigh(total).eigenvectors.flip(-1)
    found = measure_blocks(given)
    assert list(found.shared) == list(found.own) == ["8", "16"]
    for k in (8, 16):
        B = vectors[:, :k]
        kept = sum(float((B.T @ block @ B).square().sum()) for block in by_output)
        assert found.shared[str(k)] == pytest.approx(kept / whole, rel=tolerance)
        own = sum(float(torch.linalg.eigvalsh(block)[-k:].square().sum()) for block in by_output)
        assert found.own[str(k)] == pytest.approx(own / whole, rel=tolerance)
        assert found.shared[str(k)] <= found.own[str(k)] + tolerance


def test_no_random_basis_leaves_less_of_the_blocks_outside():
    given = [G.double() for G in gradients(12, 5, 18)]
    by_output, _, _ = cut(given)
    generator = torch.Generator().manual_seed(1)

    def left_over(B):
        return sum(float((block - B @ B.T @ block).square().sum()) for block in by_output)

    best = left_over(shared_basis(given, row_grams(given), 4))
    for _ in range(50):
        random = torch.randn(18, 4, generator=generator, dtype=torch.float64)
        assert best < left_over(torch.linalg.qr(random)[0])


def test_blocks_of_a_common_span_are_kept_whole():
    generator = torch.Generator().manual_seed(2)
    V = torch.linalg.qr(torch.randn(20, 8, generator=generator, dtype=torch.float64))[0]
    given = [torch.randn(6, 8, generator=generator, dtype=torch.float64) @ V.T for _ in range(10)]
    found = measure_blocks(given)
    assert found.shared == pytest.approx({"8": 1.0, "16": 1.0})
    assert found.own["8"] == pytest.approx(1)


def test_independent_output_neurons_make_a_block_diagonal_matrix():
    # One output neuron per gradient.
    given = []
    for i in range(4):
        G = torch.zeros(4, 6, dtype=torch.float64)
        G[i] = torch.arange(1.0, 7) * (i + 1)
        given.append(G)
    found = measure_blocks(given)
    assert found.by_output == pytest.approx(1)
    assert found.by_input < 0.5
    turned = measure_blocks([G.T for G in given])
    assert turned.by_input == pytest.approx(1)
    assert turned.by_output == pytest.approx(found.by_input)


def test_white_noise_is_what_gaussian_gradients_give():
    generator = torch.Generator().manual_seed(3)
    count, rows, columns = 5, 4, 7
    whole = output = by_input = 0.0
    for _ in range(400):
        given = [
            torch.randn(rows, columns, generator=generator, dtype=torch.float64)
            for _ in range(count)
        ]
        grams = row_grams(given)
        whole += float(grams.sum(0).square().sum())
        output += float(grams.square().sum())
        by_input += float(row_grams([G.T for G in given]).square().sum())
    found = measure_blocks(given)
    assert output / whole == pytest.approx(found.by_output_noise, rel=0.02)
    assert by_input / whole == pytest.approx(found.by_input_noise, rel=0.02)


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_iteration_comes_within_its_stated_error_of_the_eigenvectors(monkeypatch, decay):
    generator = torch.Generator().manual_seed(4)
    V = torch.linalg.qr(torch.randn(300, 300, generator=generator))[0]
    scales = torch.arange(1.0, 301) ** -decay
    given = [torch.randn(64, 300, generator=generator) * scales @ V.T for _ in range(4)]
    exact = measure_blocks(given)
    monkeypatch.setattr(module, "_EIGH_MAX_WIDTH", 1)
    found = measure_blocks(given)
    for k, share in exact.shared.items():
        assert found.shared[k] == pytest.approx(share, abs=2e-4)


def test_chunks_add_up(monkeypatch):
    given = [G.double() for G in gradients(5, 9, 12)]
    whole = measure_blocks(given)
    monkeypatch.setattr(module, "_CHUNK", 5 * 12 * 2)
    pieces = measure_blocks(given)
    assert pieces.by_output == pytest.approx(whole.by_output, rel=1e-12)
    assert pieces.by_input == pytest.approx(whole.by_input, rel=1e-12)
    assert pieces.shared == pytest.approx(whole.shared, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1e9])
def test_the_scale_of_the_gradients_does_not_matter(scale):
    given = gradients(5, 5, 18)
    expected, found = measure_blocks(given), measure_blocks([G * scale for G in given])
    for name in ("by_output", "by_input", "shared", "own"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-5)
