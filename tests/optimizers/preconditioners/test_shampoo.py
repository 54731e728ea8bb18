"""Shampoo: against a reference written block by block, in its limits, its symmetries, and when things go wrong."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from subopt.optimizers import METHODS, Composed
from subopt.optimizers.preconditioners import matrix_roots, shampoo
from subopt.optimizers.state.storage_tracker import StorageTracker

from ...pairwise import pairwise

_spec = importlib.util.spec_from_file_location(
    "reference_shampoo", Path(__file__).parents[2] / "reference" / "shampoo.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
SHAPES = [(6, 10), (10, 6), (7, 7), (2, 9)]
# Without a graft the roots come from the first gradient alone. A ridge of 1e-6 would then scale the directions that it
# lacks by what float32 rounds of its eigenvalues, 6 % of the ridge; 1e-2 keeps that below the tolerance.
VARIANTS = [
    {},
    {"block_size": 4},
    {"block_size": 3, "graft": "none", "eps": 1e-2},
    {"block_size": 1, "graft": "sgd"},
    {"accumulation": "sum", "graft": "rmsprop"},
    {"accumulation": "sum", "betas": (0.0, 0.999), "block_size": 5, "graft": "none", "eps": 1e-2},
    {"start_step": 1, "period": 1},
    {"start_step": 6, "period": 7, "eps": 0.1},
]


def gradients(shape, steps=16, seed=3):
    """A fixed sequence with structure: a drifting low-rank part and noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    left, right = normal(shape[0], 2), normal(2, shape[1])
    for _ in range(steps):
        left = left + 0.2 * normal(*left.shape)
        yield left @ right + 0.3 * normal(*shape)


def run(sequence, dtype=torch.float64, lr=0.01, **options):
    """Train a parameter of zeros on gradients; return it and its state."""
    sequence = list(sequence)
    parameter = torch.nn.Parameter(torch.zeros(sequence[0].shape, dtype=dtype))
    optimizer = Composed([parameter], lr, update="shampoo", **options)
    for gradient in sequence:
        parameter.grad = gradient.to(dtype)
        optimizer.step()
    return parameter.detach(), optimizer.state[parameter]


# Ungrafted, unaveraged steps with no ridge to speak of: what the algebra below is about.
BARE = {"graft": "none", "betas": (0.0, 0.9), "eps": 1e-12, "period": 1}


@pytest.mark.parametrize(
    ("options", "shape", "dtype"), pairwise(VARIANTS, SHAPES, TOLERANCE), ids=str
)
def test_trajectories_are_the_references(options, shape, dtype):
    settings = {
        "betas": (0.9, 0.999), "eps": 1e-6, "block_size": 512, "period": 5, "start_step": 4,
        "graft": "rmsprop-normalized", "accumulation": "ema", **options,
    }  # fmt: skip
    oracle, W = reference.Shampoo(shape, **settings), np.zeros(shape)
    for G in gradients(shape):
        W = W - 0.01 * oracle.step(G.to(dtype).double().numpy())
    parameter, _ = run(gradients(shape), dtype, **settings)
    np.testing.assert_allclose(
        parameter.double().numpy(), W, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("block_size", [3, 512])
@pytest.mark.parametrize("graft", ["rmsprop", "sgd"])
def test_before_the_start_step_it_is_the_grafted_method(graft, block_size):
    ours, state = run(
        gradients((6, 10)), graft=graft, start_step=17, betas=(0.0, 0.99), block_size=block_size
    )
    parameter = torch.nn.Parameter(torch.zeros(6, 10, dtype=torch.float64))
    own = {"rmsprop": {"moments": "adam-nomom", "eps": 1e-10}, "sgd": {"moments": "sgd"}}[graft]
    optimizer = Composed([parameter], 0.01, betas=(0.0, 0.99), **own)
    for G in gradients((6, 10)):
        parameter.grad = G
        optimizer.step()
    torch.testing.assert_close(ours, parameter.detach(), rtol=1e-12, atol=1e-12)
    assert int(state["refreshes"]) == 0


@pytest.mark.parametrize("graft", ["rmsprop-normalized", "rmsprop", "sgd"])
def test_identity_preconditioners_give_the_gradients_direction_at_the_grafts_length(graft):
    options = {"graft": graft, "betas": (0.0, 0.99), "start_step": 3, "period": 1000}
    first, second, G = gradients((6, 10), steps=3)
    parameter = torch.nn.Parameter(torch.zeros(6, 10, dtype=torch.float64))
    optimizer = Composed([parameter], 1.0, update="shampoo", block_size=4, **options)
    for gradient in (first, second):
        parameter.grad = gradient
        optimizer.step()
    # The roots are still the identity; having been computed once, they stay for the period.
    optimizer.state[parameter]["refreshes"].fill_(1)
    before = parameter.detach().clone()
    parameter.grad = G
    optimizer.step()
    two, _ = run([first, second], lr=1.0, **options)
    three, _ = run([first, second, G], lr=1.0, **{**options, "start_step": 4})
    length = (three - two).norm()
    step = before - parameter.detach()
    torch.testing.assert_close(step, G / G.norm() * length, rtol=1e-12, atol=1e-12)


def test_one_by_one_blocks_are_rmsprop():
    ours, _ = run(gradients((4, 5)), block_size=1, **{**BARE, "eps": 0.0})
    W, V = torch.zeros(4, 5, dtype=torch.float64), 0
    for t, G in enumerate(gradients((4, 5)), start=1):
        V = 0.9 * V + 0.1 * G**2
        W = W - 0.01 * G / (V / (1 - 0.9**t)).sqrt()
    torch.testing.assert_close(ours, W, rtol=1e-12, atol=1e-12)


def test_one_by_one_blocks_that_add_up_are_adagrad():
    ours, _ = run(gradients((4, 5)), block_size=1, accumulation="sum", **{**BARE, "eps": 0.0})
    parameter = torch.nn.Parameter(torch.zeros(4, 5, dtype=torch.float64))
    optimizer = torch.optim.Adagrad([parameter], 0.01, eps=0.0)
    for G in gradients((4, 5)):
        parameter.grad = G
        optimizer.step()
    torch.testing.assert_close(ours, parameter.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("accumulation", ["ema", "sum"])
def test_the_first_step_is_the_gradients_orthogonal_factor(accumulation):
    (G,) = gradients((5, 8), steps=1)
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    step, _ = run([G], lr=1.0, accumulation=accumulation, **BARE)
    torch.testing.assert_close(-step, U @ Vh, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_block_as_large_as_the_matrix_is_no_block(shape):
    whole, state = run(gradients(shape), block_size=max(shape))
    larger, other = run(gradients(shape), block_size=4096)
    assert torch.equal(whole, larger)
    assert state.keys() == other.keys()


def test_blocks_are_optimizers_of_their_own():
    sequence = list(gradients((7, 8)))
    whole, _ = run(sequence, block_size=3, **BARE)
    for rows in (slice(0, 3), slice(3, 6), slice(6, 7)):
        for columns in (slice(0, 3), slice(3, 6), slice(6, 8)):
            part = [G[rows, columns] for G in sequence]
            if 1 in part[0].shape:  # vectors have no preconditioner: two rows alike behave as one
                part = [torch.cat([G, torch.zeros_like(G)]) for G in part]
            alone, _ = run(part, **BARE)
            alone = alone[: rows.stop - rows.start]
            torch.testing.assert_close(whole[rows, columns], alone, rtol=1e-9, atol=1e-9)


def test_the_transpose_takes_the_transposed_steps():
    sequence = list(gradients((6, 9)))
    options = {"block_size": 4, "period": 3, "start_step": 2}
    tall, _ = run([G.mT.contiguous() for G in sequence], **options)
    wide, _ = run(sequence, **options)
    torch.testing.assert_close(tall.mT, wide, rtol=1e-9, atol=1e-9)


def test_rotated_gradients_take_rotated_steps():
    sequence = list(gradients((5, 5)))
    Q, S = (torch.linalg.qr(G)[0] for G in gradients((5, 5), steps=2, seed=8))
    plain, _ = run(sequence, **{**BARE, "eps": 1e-6})
    rotated, _ = run([Q @ G @ S for G in sequence], **{**BARE, "eps": 1e-6})
    torch.testing.assert_close(rotated, Q @ plain @ S, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("graft", ["none", "rmsprop-normalized"])
@pytest.mark.parametrize("accumulation", ["ema", "sum"])
def test_the_scale_of_the_loss_drops_out(accumulation, graft):
    options = {"accumulation": accumulation, "graft": graft, "block_size": 4, "period": 2}
    plain, _ = run(gradients((6, 9)), **options)
    scaled, _ = run([1e6 * G for G in gradients((6, 9))], **options)
    torch.testing.assert_close(plain, scaled, rtol=1e-9, atol=1e-9)


def test_convolutions_are_matrices_of_output_channels():
    sequence = list(gradients((6, 12)))
    matrix, _ = run(sequence, block_size=5, period=2)
    convolution, _ = run([G.reshape(6, 3, 2, 2) for G in sequence], block_size=5, period=2)
    assert torch.equal(convolution.reshape(6, 12), matrix)


def test_roots_are_computed_at_the_start_step_and_then_every_period():
    parameter = torch.nn.Parameter(torch.zeros(4, 6, dtype=torch.float64))
    optimizer = Composed([parameter], 0.01, update="shampoo", start_step=4, period=5)
    before, changed = torch.eye(4, dtype=torch.float64), []
    for t, G in enumerate(gradients((4, 6)), start=1):
        parameter.grad = G
        optimizer.step()
        root = optimizer.state[parameter]["root_left_whole_whole"][0, 0].clone()
        if not torch.equal(before, root):
            changed.append(t)
        before = root
    assert changed == [4, 6, 11, 16]
    assert int(optimizer.state[parameter]["refreshes"]) == 4


def test_statistics_follow_every_gradient_before_the_start_step_too():
    sequence = list(gradients((4, 6)))
    _, state = run(sequence, start_step=100)
    weights = [0.999 ** (16 - s) for s in range(1, 17)]
    expected = sum(w * G @ G.mT for w, G in zip(weights, sequence, strict=True)) / sum(weights)
    covariance = state["covariance_left_whole_whole"][0, 0]
    torch.testing.assert_close(covariance, expected, rtol=1e-12, atol=1e-12)


def failing(*_):
    raise torch.linalg.LinAlgError("no convergence")


def test_a_decomposition_that_fails_keeps_the_old_roots(monkeypatch):
    parameter = torch.nn.Parameter(torch.zeros(6, 10))
    optimizer = Composed([parameter], 0.01, update="shampoo", period=2, block_size=6)
    sequence = gradients((6, 10), steps=4)
    for G in (next(sequence), next(sequence)):
        parameter.grad = G.float()
        optimizer.step()
    state = optimizer.state[parameter]
    roots = {name: value.clone() for name, value in state.items() if name.startswith("root")}
    monkeypatch.setattr(shampoo, "inverse_root", failing)
    parameter.grad = next(sequence).float()
    with pytest.warns(UserWarning, match="4 preconditioners were kept"):
        optimizer.step()
    assert all(torch.equal(state[name], value) for name, value in roots.items())
    assert (int(state["kept_bases"]), int(state["refreshes"])) == (4, 1)
    assert torch.isfinite(parameter).all()


def test_a_first_decomposition_that_fails_is_tried_again_at_the_next_step(monkeypatch):
    parameter = torch.nn.Parameter(torch.zeros(6, 10))
    optimizer = Composed([parameter], 1.0, update="shampoo", graft="sgd", betas=(0.0, 0.9))
    first, second = (G.float() for G in gradients((6, 10), steps=2))
    parameter.grad = first
    with monkeypatch.context() as patch:
        patch.setattr(shampoo, "inverse_root", failing)
        with pytest.warns(UserWarning, match="2 preconditioners were kept"):
            optimizer.step()
    torch.testing.assert_close(-parameter.detach(), first)
    parameter.grad = second
    optimizer.step()
    assert int(optimizer.state[parameter]["refreshes"]) == 1


def test_statistics_that_overflow_leave_the_roots_alone():
    parameter = torch.nn.Parameter(torch.zeros(4, 6))
    optimizer = Composed([parameter], 0.01, update="shampoo", accumulation="sum", period=1)
    parameter.grad = torch.randn(4, 6)
    optimizer.step()
    state = optimizer.state[parameter]
    roots = state["root_left_whole_whole"].clone()
    state["covariance_left_whole_whole"][0, 0, 0, 0] = float("inf")
    with pytest.warns(UserWarning, match="1 preconditioners were kept"):
        optimizer.step()
    assert torch.equal(state["root_left_whole_whole"], roots)
    assert (int(state["kept_bases"]), int(state["refreshes"])) == (1, 2)
    assert torch.isfinite(parameter).all()


@pytest.mark.parametrize("graft", ["rmsprop-normalized", "none"])
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-20, 1e17])
def test_gradients_of_any_size_give_steps_of_ordinary_size(size, graft):
    options = {"graft": graft, "block_size": 4, "period": 2, "lr": 1.0, "betas": (0.0, 0.9)}
    sequence = [size * G for G in gradients((6, 10), steps=6)]
    parameter, state = run(sequence, torch.float32, **options)
    assert torch.isfinite(parameter).all()
    assert int(state["kept_bases"]) == 0
    if size == 0:
        assert torch.equal(parameter, torch.zeros(6, 10))
    elif graft != "none":
        plain, _ = run(gradients((6, 10), steps=6), torch.float32, **options)
        assert 0.3 < parameter.norm() / plain.norm() < 3


def test_a_dead_row_takes_no_step_and_spoils_nothing():
    sequence = list(gradients((6, 10)))
    for G in sequence:
        G[2] = 0
    parameter, _ = run(sequence, period=2, block_size=3)
    # A ridge of 1e-6 leaves the dead row at rounding, (1e-6)^(-1/4) = 32 times what eigenvectors leave there.
    assert parameter[2].abs().max() < 1e-12
    assert parameter[[0, 1, 3, 4, 5]].abs().min() > 1e-4


def test_chunks_of_a_refresh_change_nothing_but_its_memory(monkeypatch):
    def watched(limit):
        monkeypatch.setattr(matrix_roots, "CHUNK_BYTES", limit)
        parameter = torch.nn.Parameter(torch.zeros(64, 64))
        optimizer = Composed([parameter], 0.01, update="shampoo", block_size=8, period=1)
        peaks = []
        for G in gradients((64, 64), steps=2):
            parameter.grad = G.float()
            with StorageTracker() as tracker:
                held = [parameter, parameter.grad, *optimizer.state[parameter].values()]
                tracker.file(held, "held")
                optimizer.step()
            peaks.append(tracker.peak_bytes[tracker.category])
        return parameter.detach(), peaks[-1]

    whole, all_bytes = watched(2**30)
    chunked, chunk_bytes = watched(4 * 8 * 8 * 8)
    assert torch.equal(whole, chunked)
    # 64 blocks of 8 x 8 in float64, thrice and more, against four of them; a few copies of G remain.
    assert all_bytes > 3 * 64 * 64 * 8
    assert chunk_bytes < 6 * 64 * 64 * 4


@pytest.mark.parametrize("shape", [(6, 10), (7, 7), (12, 5), (5, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("block_size", [1, 3, 4, 512])
def test_state_is_two_matrices_a_side_and_block_twice(shape, block_size):
    m, n = shape[0], int(np.prod(shape[1:]))
    squares = sum(
        (b - a) ** 2 + (d - c) ** 2
        for a, b in reference.cuts(m, block_size)
        for c, d in reference.cuts(n, block_size)
    )
    method = METHODS["shampoo"]
    options = {"block_size": block_size}
    assert method.state_bytes(shape, options=options, counters=False) == 4 * (
        2 * squares + 2 * m * n
    )
    bare = {**options, "graft": "none", "betas": (0.0, 0.9)}
    assert method.state_bytes(shape, options=bare, counters=False) == 4 * 2 * squares


def test_work_adds_up_over_blocks():
    method = METHODS["shampoo"]
    options = {"graft": "none", "betas": (0.0, 0.999), "period": 10}
    whole = method.step_flops((6, 10), options)
    assert whole == 4 * 60 * 16 + 3 * 136 + 11 * (6**3 + 10**3) / 10
    split = method.step_flops((6, 10), {**options, "block_size": 5})
    four = 4 * 25 * 10 + 3 * 50 + 11 * 250 / 10
    two = 4 * 5 * 6 + 3 * 26 + 11 * 126 / 10
    assert split == pytest.approx(2 * four + 2 * two)
    bound = method.bound_flops((6, 10), options)
    assert bound == 4 * 60 * 16 + 3 * 136 + 11 * (6**3 + 10**3)


def test_inverse_roots_invert_and_leave_zero_matrices_alone():
    C = torch.stack([G @ G.mT for G in gradients((5, 8), steps=3)])
    root = matrix_roots.inverse_root(C, 4, 0.0)
    identity = torch.eye(5, dtype=torch.float64).expand(3, 5, 5)
    torch.testing.assert_close(
        torch.linalg.matrix_power(root, 4) @ C, identity, rtol=1e-9, atol=1e-9
    )
    assert torch.equal(
        matrix_roots.inverse_root(torch.zeros(2, 3, 3), 2, 1e-6)[1].float(), torch.eye(3)
    )


def test_inverse_roots_never_trust_eigenvalues_below_rounding():
    g = torch.tensor([[1.0, 2.0, 2.0]])
    root = matrix_roots.inverse_root(g.mT @ g, 2, 0.0)
    assert torch.linalg.matrix_norm(root, 2) <= (9 * torch.finfo(torch.float32).eps) ** -0.5 * 1.01
