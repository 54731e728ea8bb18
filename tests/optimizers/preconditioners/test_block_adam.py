"""Block Adam: against a reference written block by block, in its limits, its symmetries, and when things go wrong."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from subopt.optimizers import METHODS, Composed
from subopt.optimizers.preconditioners import block_adam, matrix_roots
from subopt.optimizers.preconditioners.block_adam import block_side
from subopt.optimizers.state.storage_tracker import StorageTracker

from ...pairwise import pairwise

_spec = importlib.util.spec_from_file_location(
    "reference_block_adam", Path(__file__).parents[2] / "reference" / "block_adam.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


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
    optimizer = Composed([parameter], lr, update="block-adam", **options)
    for gradient in sequence:
        parameter.grad = gradient.to(dtype)
        optimizer.step()
    return parameter.detach(), optimizer.state[parameter]


# An eps that rounding does not reach: V of b weights has no more than rank t at step t < b, in float32 to 1e-7.
@pytest.mark.parametrize(
    ("block_size", "betas", "shape", "precision"),
    pairwise(
        [1, 3, 8, 512],
        [(0.9, 0.999), (0.0, 0.9)],
        [(6, 10), (10, 6), (7, 7), (2, 9)],
        [(torch.float64, 1e-6), (torch.float32, 1e-2)],
    ),
    ids=str,
)
def test_trajectories_are_the_references(block_size, betas, shape, precision):
    dtype, eps = precision
    b = max(b for b in range(1, block_size + 1) if shape[1] % b == 0)
    oracle, W = reference.BlockAdam(shape, b, betas=betas, eps=eps), np.zeros(shape)
    for G in gradients(shape):
        W = W - 0.01 * oracle.step(G.to(dtype).double().numpy())
    parameter, _ = run(gradients(shape), dtype, betas=betas, eps=eps, block_size=block_size)
    np.testing.assert_allclose(
        parameter.double().numpy(), W, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize(
    ("n", "block_size", "b"),
    [(784, 8, 8), (784, 10, 8), (1000, 10, 10), (30, 8, 6), (7, 8, 7), (17, 8, 1), (2, 1, 1)],
)
def test_a_block_is_the_largest_divisor_that_is_allowed(n, block_size, b):
    assert block_side(n, block_size) == b


@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_blocks_of_one_are_adam_with_eps_inside_the_root(eps):
    ours, _ = run(gradients((4, 5)), block_size=1, eps=eps)
    W, M, V = (torch.zeros(4, 5, dtype=torch.float64) for _ in range(3))
    for t, G in enumerate(gradients((4, 5)), start=1):
        M = 0.9 * M + 0.1 * G
        V = 0.999 * V + 0.001 * G**2
        W = W - 0.01 * (M / (1 - 0.9**t)) / (V / (1 - 0.999**t) + eps).sqrt()
    torch.testing.assert_close(ours, W, rtol=1e-12, atol=1e-12)


def test_blocks_of_one_without_eps_are_torchs_adam():
    ours, _ = run(gradients((4, 5)), block_size=1, eps=0.0)
    parameter = torch.nn.Parameter(torch.zeros(4, 5, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], 0.01, eps=0.0)
    for G in gradients((4, 5)):
        parameter.grad = G
        optimizer.step()
    torch.testing.assert_close(ours, parameter.detach(), rtol=1e-12, atol=1e-12)


# V has rank 1 then: rounding u of g outside its range is divided by the square root of eigenvalues of at least u |g|^2.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-3)], ids=str
)
def test_the_first_step_is_a_unit_vector_for_every_block(dtype, tolerance):
    (G,) = gradients((6, 10), steps=1)
    step, _ = run([G], dtype, lr=1.0, block_size=5)
    blocks = G.reshape(-1, 5)
    expected = -(blocks / blocks.norm(dim=1, keepdim=True)).reshape(6, 10)
    torch.testing.assert_close(step.double(), expected, rtol=tolerance, atol=tolerance)


def test_blocks_and_neurons_know_nothing_of_each_other():
    sequence = list(gradients((4, 6)))
    whole, _ = run(sequence, block_size=3)
    for start in (0, 3):
        columns = slice(start, start + 3)
        alone, _ = run([G[1:3, columns] for G in sequence], block_size=3)
        torch.testing.assert_close(whole[1:3, columns], alone, rtol=1e-9, atol=1e-9)


def test_gradients_rotated_inside_blocks_take_rotated_steps():
    sequence = list(gradients((3, 8)))
    Q, S = (torch.linalg.qr(G)[0] for G in gradients((4, 4), steps=2, seed=8))
    rotation = torch.block_diag(Q, S)
    plain, _ = run(sequence, block_size=4, eps=1e-6)
    rotated, _ = run([G @ rotation for G in sequence], block_size=4, eps=1e-6)
    torch.testing.assert_close(rotated, plain @ rotation, rtol=1e-9, atol=1e-9)


def test_the_scale_of_the_loss_drops_out_but_for_eps():
    plain, _ = run(gradients((6, 8)), block_size=4, eps=1e-8)
    scaled, _ = run([1e3 * G for G in gradients((6, 8))], block_size=4, eps=1e-2)
    torch.testing.assert_close(plain, scaled, rtol=1e-9, atol=1e-9)


def test_convolutions_are_cut_along_inputs_and_kernel():
    sequence = list(gradients((6, 12)))
    matrix, _ = run(sequence, block_size=4)
    convolution, _ = run([G.reshape(6, 3, 2, 2) for G in sequence], block_size=4)
    assert torch.equal(convolution.reshape(6, 12), matrix)


@pytest.mark.parametrize("eps", [0.0, 1e-16])
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-20, 1e17])
def test_gradients_of_any_size_stay_finite(size, eps):
    sequence = [size * G for G in gradients((6, 10))]
    parameter, state = run(sequence, torch.float32, lr=1.0, block_size=5, eps=eps)
    assert torch.isfinite(parameter).all()
    assert int(state["kept_bases"]) == 0
    # No average of 16 steps leaves a block longer than the sum of Cauchy-Schwarz bounds: 7.3 each for these betas.
    assert parameter.reshape(-1, 5).norm(dim=1).max() < 16 * 7.3
    if size == 0:
        assert torch.equal(parameter, torch.zeros(6, 10))


def test_a_dead_weight_takes_no_step():
    sequence = list(gradients((4, 8)))
    for G in sequence:
        G[:, 3] = 0
    parameter, _ = run(sequence, torch.float32, block_size=4)
    assert parameter[:, 3].abs().max() < 1e-6
    assert parameter[:, 2].abs().min() > 1e-3


def test_blocks_whose_decomposition_fails_take_adams_step_and_are_counted(monkeypatch):
    def failing(*_):
        raise torch.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(block_adam, "spectrum", failing)
    with pytest.warns(UserWarning, match="took Adam's step"):
        parameter, state = run(gradients((4, 6), steps=3), block_size=3, eps=1e-4)
    assert int(state["kept_bases"]) == 3 * 8
    monkeypatch.undo()
    adam, _ = run(gradients((4, 6), steps=3), block_size=1, eps=1e-4)
    torch.testing.assert_close(parameter, adam, rtol=1e-12, atol=1e-12)


def test_chunks_change_nothing_but_the_memory_of_a_step(monkeypatch):
    def watched(limit):
        monkeypatch.setattr(matrix_roots, "CHUNK_BYTES", limit)
        parameter = torch.nn.Parameter(torch.zeros(64, 64))
        optimizer = Composed([parameter], 0.01, update="block-adam", block_size=8)
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
    # 512 blocks of 8 x 8 in float64 and their vectors, against four of them; copies of G and the step remain.
    assert all_bytes > 2 * 512 * 64 * 8
    assert chunk_bytes < 4 * 64 * 64 * 4


@pytest.mark.parametrize(
    ("shape", "block_size", "b"), [((6, 10), 8, 5), ((4, 7), 3, 1), ((6, 3, 2, 2), 4, 4)]
)
def test_state_is_b_numbers_a_weight_and_momentum(shape, block_size, b):
    method, mn = METHODS["block-adam"], int(np.prod(shape))
    options = {"block_size": block_size}
    assert method.state_bytes(shape, options=options, counters=False) == 4 * (mn * b + mn)
    half = {**options, "basis_dtype": "bf16"}
    assert method.state_bytes(shape, options=half, counters=False) == 2 * (mn * b + mn)


def test_momentum_has_the_blocks_precision_under_bfloat16_weights():
    _, state = run(gradients((6, 8)), torch.bfloat16)
    assert state["exp_avg"].dtype == state["exp_avg_outer"].dtype == torch.float32


def test_half_precision_blocks_stay_close_to_whole_ones():
    whole, _ = run(gradients((6, 8)), torch.float32, block_size=4, eps=1e-2)
    half, state = run(gradients((6, 8)), torch.float32, block_size=4, eps=1e-2, basis_dtype="bf16")
    assert state["exp_avg"].dtype == state["exp_avg_outer"].dtype == torch.bfloat16
    # V's decay of 0.999 is below bfloat16's rounding of 0.4 %, which moves a step by about half as much.
    assert (whole - half).norm() < 0.1 * whole.norm()


def test_work_is_a_decomposition_for_every_block_and_step():
    method = METHODS["block-adam"]
    blocks = 6 * 10 // 5
    work = blocks * (9 * 5**3 + 8 * 5**2) + 3 * 60
    assert method.step_flops((6, 10), {"block_size": 5}) == work
    assert method.bound_flops((6, 10), {"block_size": 5}) == work
