"""Sketchy: against a reference that forms every matrix, against Shampoo, its bound, and when things go wrong."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subopt.optimizers import METHODS, Composed
from subopt.optimizers.preconditioners import matrix_roots, sketchy
from subopt.optimizers.state.storage_tracker import StorageTracker

from ...pairwise import pairwise

_spec = importlib.util.spec_from_file_location(
    "reference_sketchy", Path(__file__).parents[2] / "reference" / "sketchy.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
BARE = {"graft": "none", "betas": (0.0, 0.9), "period": 1}


def normal(*size, generator):
    return torch.randn(size, generator=generator, dtype=torch.float64)


def gradients(shape, steps=16, seed=3, noise=0.3):
    """A fixed sequence with structure: a drifting low-rank part and noise."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        normal(shape[0], 2, generator=generator),
        normal(2, shape[1], generator=generator),
    )
    for _ in range(steps):
        left = left + 0.2 * normal(*left.shape, generator=generator)
        yield left @ right + noise * normal(*shape, generator=generator)


def run(sequence, dtype=torch.float64, lr=0.01, update="sketchy", **options):
    """Train a parameter of zeros on gradients; return it and its state."""
    sequence = list(sequence)
    parameter = torch.nn.Parameter(torch.zeros(sequence[0].shape, dtype=dtype))
    optimizer = Composed([parameter], lr, update=update, **options)
    for gradient in sequence:
        parameter.grad = gradient.to(dtype)
        optimizer.step()
    return parameter.detach(), optimizer.state[parameter]


def sketch(state, side):
    """The low-rank part and what escaped it, of a matrix in one block."""
    U, s, rho = (state[f"{part}_{side}_whole_whole"] for part in ("sketch", "energies", "escaped"))
    return ((U * s[..., None, :]) @ U.mT)[0, 0], rho[0, 0]


VARIANTS = [
    {"rank": 3},
    {"rank": 1, "period": 3},
    {"rank": 2, "block_size": 5},
    {"rank": 3, "block_size": 4, "period": 2, "betas": (0.9, 0.9)},
    {"rank": 4, "accumulation": "sum", "betas": (0.0, 0.9)},
    {"rank": 64},
]
SHAPES = [(6, 10), (11, 4), (7, 7), (20, 3)]


@pytest.mark.parametrize(
    ("options", "shape", "dtype"), pairwise(VARIANTS, SHAPES, TOLERANCE), ids=str
)
def test_trajectories_are_the_references(options, shape, dtype):
    chosen = {
        "betas": (0.9, 0.999), "eps": 1e-2, "block_size": 512, "period": 1,
        "accumulation": "ema", **options,
    }  # fmt: skip
    oracle, W = reference.Sketchy(shape, **chosen), np.zeros(shape)
    for G in gradients(shape):
        W = W - 0.01 * oracle.step(G.to(dtype).double().numpy())
    parameter, _ = run(gradients(shape), dtype, graft="none", **chosen)
    np.testing.assert_allclose(
        parameter.double(), W, rtol=0, atol=TOLERANCE[dtype] * np.abs(W).max()
    )


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (2, 9)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"graft": "none", "betas": (0.0, 0.9), "eps": 1e-4},
        {"block_size": 4, "rank": 4},
        {"accumulation": "sum", "rank": None, "start_step": 5},
    ],
    ids=str,
)
def test_a_rank_of_the_longer_side_is_shampoo(options, shape):
    options = {"rank": 10, "period": 1, **options}
    ours, state = run(gradients(shape), **options)
    del options["rank"]
    shampoos, _ = run(gradients(shape), update="shampoo", **options)
    torch.testing.assert_close(ours, shampoos, rtol=0, atol=1e-9 * shampoos.abs().max().item())
    assert all(not value.any() for name, value in state.items() if name.startswith("escaped"))


def test_gradients_of_low_rank_are_shampoos_too():
    generator = torch.Generator().manual_seed(1)
    left, right = normal(8, 2, generator=generator), normal(2, 12, generator=generator)
    sequence = [left @ normal(2, 2, generator=generator) @ right for _ in range(8)]
    options = {"eps": 1e-3, **BARE}
    ours, state = run(sequence, rank=2, **options)
    shampoos, _ = run(sequence, update="shampoo", **options)
    torch.testing.assert_close(ours, shampoos, rtol=0, atol=1e-9)
    assert sketch(state, "left")[1] < 1e-12 * sketch(state, "left")[0].abs().max()


@settings(max_examples=25)
@given(
    st.integers(0, 10**6),
    st.integers(1, 8),
    st.integers(1, 12),
    st.sampled_from([(0.9, 0.1), (1.0, 1.0), (0.5, 2.0)]),
)
def test_what_escapes_bounds_what_is_missing(seed, rank, columns, weights):
    """0 <= C - U diag(s) U^T <= rho I, by both ways to the eigenvectors, whatever decays."""
    old, new = weights
    b = 8
    U, s = torch.zeros(b, min(rank, b)).double(), torch.zeros(min(rank, b)).double()
    C, rho = torch.zeros(b, b).double(), 0.0
    for X in gradients((b, columns), steps=6, seed=seed):
        U, s, escaped = sketchy.frequent_directions(U, s, X, old, new)
        C, rho = old * C + new * X @ X.mT, old * rho + escaped
        missing = torch.linalg.eigvalsh(C - (U * s) @ U.mT)
        slack = 1e-9 * torch.linalg.matrix_norm(C, 2)
        assert -slack <= missing[0]
        assert missing[-1] <= rho + slack
        assert (s >= 0).all()
    # The escaped mass decays with what it stands for: it is of the size of what is missing.
    if rank < b and columns >= b:
        assert missing[-1] > 0.2 * rho


@pytest.mark.parametrize("rank", [2, 5])
def test_both_ways_to_the_eigenvectors_are_one(rank):
    U, s = torch.zeros(2, 12, rank).double(), torch.zeros(2, rank).double()
    rho = torch.zeros(2).double()
    for G in gradients((24, 3), steps=6):
        X = G.reshape(2, 12, 3)
        C = 0.9 * (U * s[:, None, :]) @ U.mT + 0.1 * X @ X.mT
        values, vectors = torch.linalg.eigh(C)
        top = vectors[:, :, -rank:]
        kept = (values[:, -rank:] - values[:, -rank - 1, None]).clamp_min(0)
        U, s, rho = sketchy.frequent_directions(U, s, X, 0.9, 0.1)
        expected = (top * kept[:, None, :]) @ top.mT
        torch.testing.assert_close((U * s[:, None, :]) @ U.mT, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(rho, values[:, -rank - 1].clamp_min(0), rtol=0, atol=1e-12)
        gram = U.mT @ U
        is_kept = gram.diagonal(dim1=-2, dim2=-1) > 0.5
        torch.testing.assert_close(gram, torch.diag_embed(is_kept.double()), rtol=0, atol=1e-6)


def test_only_the_gradients_of_a_refresh_are_seen():
    sequence = list(gradients((6, 10), steps=9))
    _, state = run(sequence, rank=6, period=4, betas=(0.9, 0.99))
    b = 0.99**4
    first, second, third = (G @ G.mT for G in (sequence[0], sequence[4], sequence[8]))
    expected = (b**2 * first + b * second + third) / (1 + b + b**2)
    torch.testing.assert_close(sketch(state, "left")[0], expected, rtol=1e-9, atol=1e-9)
    assert int(state["refreshes"]) == 3


def test_sketches_grow_before_the_start_step_too():
    _, late = run(gradients((6, 10)), rank=3, period=2, start_step=100)
    _, early = run(gradients((6, 10)), rank=3, period=2)
    for name in (name for name in late if name.startswith(("sketch", "energies", "escaped"))):
        assert torch.equal(late[name], early[name])


def test_the_transpose_takes_the_transposed_steps():
    sequence = list(gradients((6, 9)))
    options = {"block_size": 4, "rank": 2, "period": 3, "start_step": 2}
    tall, _ = run([G.mT.contiguous() for G in sequence], **options)
    wide, _ = run(sequence, **options)
    torch.testing.assert_close(tall.mT, wide, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("accumulation", ["ema", "sum"])
def test_the_scale_of_the_loss_drops_out(accumulation):
    options = {"accumulation": accumulation, "rank": 2, "block_size": 4, "period": 2}
    plain, _ = run(gradients((6, 9)), **options)
    scaled, _ = run([1e6 * G for G in gradients((6, 9))], **options)
    torch.testing.assert_close(plain, scaled, rtol=1e-9, atol=1e-9)


def test_convolutions_are_matrices_of_output_channels():
    sequence = list(gradients((6, 12)))
    matrix, _ = run(sequence, rank=3, period=2)
    convolution, _ = run([G.reshape(6, 3, 2, 2) for G in sequence], rank=3, period=2)
    assert torch.equal(convolution.reshape(6, 12), matrix)


@pytest.mark.parametrize("graft", ["rmsprop-normalized", "none"])
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-20, 1e17])
def test_gradients_of_any_size_are_taken(size, graft):
    options = {"rank": 2, "graft": graft, "block_size": 7, "period": 2, "lr": 1.0}
    options["betas"] = (0.0, 0.9)
    sequence = [size * G for G in gradients((6, 10), steps=6)]
    parameter, state = run(sequence, torch.float32, **options)
    assert all(torch.isfinite(value).all() for value in (parameter, *state.values()))
    assert int(state["kept_bases"]) == 0
    if size == 0:
        assert torch.equal(parameter, torch.zeros(6, 10))
    elif graft != "none":
        plain, _ = run(gradients((6, 10), steps=6), torch.float32, **options)
        assert 0.3 < parameter.norm() / plain.norm() < 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_counts_as_zero(bad):
    sequence = list(gradients((6, 10), steps=4))
    with_bad, state = run([*sequence, torch.full((6, 10), bad)], rank=3, period=1)
    with_zero, _ = run([*sequence, torch.zeros(6, 10)], rank=3, period=1)
    assert torch.equal(with_bad, with_zero)
    assert int(state["nonfinite_gradients"]) == 1


def failing(*_):
    raise torch.linalg.LinAlgError("no convergence")


@pytest.mark.parametrize("how", ["raises", "overflows"])
def test_a_decomposition_that_fails_keeps_the_old_sketches(how, monkeypatch):
    parameter = torch.nn.Parameter(torch.zeros(6, 10))
    optimizer = Composed([parameter], 0.01, update="sketchy", rank=3, period=1, block_size=6)
    sequence = gradients((6, 10), steps=3)
    for G in (next(sequence), next(sequence)):
        parameter.grad = G.float()
        optimizer.step()
    state = optimizer.state[parameter]
    names = [name for name in state if name.startswith(("sketch", "energies", "escaped"))]
    if how == "overflows":
        for name in names:
            if name.startswith("escaped"):
                state[name].fill_(torch.inf)
    before = {name: state[name].clone() for name in names}
    parameter.grad = next(sequence).float()
    with monkeypatch.context() as patch:
        if how == "raises":
            patch.setattr(torch.linalg, "eigh", failing)
        with pytest.warns(UserWarning, match="4 sketches were kept"):
            optimizer.step()
    assert all(torch.equal(state[name], before[name]) for name in names)
    assert (int(state["kept_bases"]), int(state["refreshes"])) == (4, 2)


def test_a_first_decomposition_that_fails_is_tried_again_at_the_next_step(monkeypatch):
    parameter = torch.nn.Parameter(torch.zeros(6, 10))
    optimizer = Composed([parameter], 1.0, update="sketchy", graft="sgd", betas=(0.0, 0.9))
    first, second = (G.float() for G in gradients((6, 10), steps=2))
    parameter.grad = first
    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "eigh", failing)
        with pytest.warns(UserWarning, match="2 sketches were kept"):
            optimizer.step()
    torch.testing.assert_close(-parameter.detach(), first)
    parameter.grad = second
    optimizer.step()
    assert int(optimizer.state[parameter]["refreshes"]) == 1


def test_a_dead_row_takes_no_step_and_spoils_nothing():
    sequence = list(gradients((6, 10)))
    for G in sequence:
        G[2] = 0
    parameter, _ = run(sequence, rank=2, period=1)
    assert parameter[2].abs().max() < 1e-12
    assert parameter[[0, 1, 3, 4, 5]].abs().min() > 1e-4


def test_chunks_of_a_refresh_change_nothing_but_its_memory(monkeypatch):
    def watched(limit):
        monkeypatch.setattr(matrix_roots, "CHUNK_BYTES", limit)
        parameter = torch.nn.Parameter(torch.zeros(64, 64))
        optimizer = Composed([parameter], 0.01, update="sketchy", rank=4, block_size=8, period=1)
        for G in gradients((64, 64), steps=2):
            parameter.grad = G.float()
            with StorageTracker() as tracker:
                held = [parameter, parameter.grad, *optimizer.state[parameter].values()]
                tracker.file(held, "held")
                optimizer.step()
        return parameter.detach(), tracker.peak_bytes[tracker.category]

    whole, all_bytes = watched(2**30)
    chunked, chunk_bytes = watched(4 * 8 * 12 * 12)
    assert torch.equal(whole, chunked)
    # Beside the copies of G that a step makes anyway, all blocks in float64 with their products, or only four.
    assert all_bytes > 11 * 64 * 64 * 4
    assert chunk_bytes < 6 * 64 * 64 * 4


@pytest.mark.parametrize("shape", [(6, 10), (7, 7), (12, 5), (5, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("block_size", [1, 4, 512])
@pytest.mark.parametrize("rank", [1, 3, 512])
def test_state_is_a_thin_matrix_a_vector_and_a_number_a_side_and_block(shape, block_size, rank):
    m, n = shape[0], int(np.prod(shape[1:]))
    own = sum(
        (side + 1) * min(rank, side) + 1
        for a, b in reference.cuts(m, block_size)
        for c, d in reference.cuts(n, block_size)
        for side in (b - a, d - c)
    )
    method, options = METHODS["sketchy"], {"block_size": block_size, "rank": rank}
    assert method.state_bytes(shape, options=options, counters=False) == 4 * (own + 2 * m * n)
    bare = {**options, **BARE}
    assert method.state_bytes(shape, options=bare, counters=False) == 4 * own


def test_work_takes_the_shorter_way_to_the_eigenvectors():
    method, options = METHODS["sketchy"], {**BARE, "rank": 3, "period": 10}
    step = 2 * (4 * 40 * 10 * 3 + 2 * 40 * 10)
    left = 2 * 40 * 13**2 + 9 * 13**3 + 2 * 40 * 13 * 3
    right = 2 * 10 * 10 * (3 + 40) + 9 * 10**3
    assert method.step_flops((40, 10), options) == step + (left + right) / 10
    assert method.bound_flops((40, 10), options) == step + left + right
