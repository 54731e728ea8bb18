"""Shared basis: against a reference that forms every matrix, in its limits, and when things go wrong."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subopt.errors import OptionError
from subopt.optimizers import METHODS, Composed
from subopt.optimizers.preconditioners import shared_basis
from subopt.optimizers.state.storage_tracker import StorageTracker

_spec = importlib.util.spec_from_file_location(
    "reference_shared_basis", Path(__file__).parents[2] / "reference" / "shared_basis.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
BARE = {"graft": "none", "betas": (0.0, 0.999)}


def normal(*size, generator):
    return torch.randn(size, generator=generator, dtype=torch.float64)


def gradients(shape, steps=16, seed=3, noise=0.3):
    """A fixed sequence with structure: a drifting low-rank part and noise."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        normal(shape[0], 3, generator=generator),
        normal(3, shape[1], generator=generator),
    )
    for _ in range(steps):
        left = left + 0.2 * normal(*left.shape, generator=generator)
        yield left @ right + noise * normal(*shape, generator=generator)


def run(sequence, dtype=torch.float64, lr=0.01, **options):
    """Train a parameter of zeros on gradients; return it and its state."""
    sequence = list(sequence)
    parameter = torch.nn.Parameter(torch.zeros(sequence[0].shape, dtype=dtype))
    resolved = METHODS["shared-basis"].resolve(options)
    optimizer = Composed([parameter], lr, **resolved)
    for gradient in sequence:
        parameter.grad = gradient.to(dtype)
        optimizer.step()
    return parameter.detach(), optimizer.state[parameter]


def held(state):
    """What the state says sum_t g_i g_i^T is, for every i: at least B R_i B^T, at most that and rho_i I."""
    B, R = state["shared_basis"].double(), state["coefficients"].double()
    return B @ R @ B.mT, state["escaped"].double()


@pytest.mark.parametrize("ridge", ["relative", "absolute"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("shape", "k"), [((9, 12), 4), ((9, 12), 2), ((12, 6), 5), ((8, 5), 5)], ids=str
)
def test_directions_are_the_references(shape, k, dtype, ridge):
    # Eigenvalues are of order 10: an eps of 1e-6 would be what float32 rounds of them.
    eps = 1e-6 if dtype == torch.float64 else 1e-2
    oracle, W = reference.SharedBasis(shape, k, eps, ridge=ridge), np.zeros(shape)
    for G in gradients(shape):
        W = W - 0.01 * oracle.step(G.to(dtype).double().numpy())
    parameter, state = run(gradients(shape), dtype, rank=k, eps=eps, ridge=ridge, **BARE)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(parameter.double(), W, rtol=0, atol=tolerance * np.abs(W).max())
    largest = np.abs(oracle.R).max()
    np.testing.assert_allclose(
        held(state)[0],
        [oracle.B @ R @ oracle.B.T for R in oracle.R],
        rtol=0,
        atol=tolerance * largest,
    )
    np.testing.assert_allclose(state["escaped"], oracle.rho, rtol=0, atol=tolerance * largest)


def test_momentum_averages_the_directions():
    oracle, M, W = reference.SharedBasis((9, 12), 4, eps=1e-6), np.zeros((9, 12)), np.zeros((9, 12))
    for t, G in enumerate(gradients((9, 12)), start=1):
        M = 0.9 * M + 0.1 * oracle.step(G.numpy())
        W = W - 0.01 * M / (1 - 0.9**t)
    parameter, _ = run(gradients((9, 12)), rank=4, eps=1e-6, graft="none", ridge="absolute")
    np.testing.assert_allclose(parameter, W, rtol=0, atol=1e-9 * np.abs(W).max())


def test_grafting_changes_the_length_alone():
    sequence = list(gradients((9, 12), steps=5))
    ends = {}
    for graft in ("none", "rmsprop-normalized"):
        options = {"rank": 4, "betas": (0.0, 0.999), "graft": graft}
        before, _ = run(sequence[:-1], **options)
        after, _ = run(sequence, **options)
        ends[graft] = after - before
    plain, grafted = ends.values()
    torch.testing.assert_close(
        plain / plain.norm(), grafted / grafted.norm(), rtol=1e-9, atol=1e-12
    )
    assert METHODS["shared-basis"].defaults["graft"] == "rmsprop-normalized"


@pytest.mark.parametrize("shape", [(6, 5), (3, 6), (2, 9), (20, 4)], ids=str)
@pytest.mark.parametrize("rank", [None, 32])
def test_a_full_basis_gives_the_exact_inverse_root_at_every_step(shape, rank):
    """Also with fewer neurons than inputs, where the basis starts without a gradient in every direction."""
    m, d = shape
    C, W = 1e-6 * torch.eye(d, dtype=torch.float64).repeat(m, 1, 1), torch.zeros(shape).double()
    sequence = list(gradients(shape, steps=12))
    for steps, G in enumerate(sequence, start=1):
        C = C + G[:, :, None] * G[:, None, :]
        values, vectors = torch.linalg.eigh(C)
        root = vectors @ (values.rsqrt()[:, :, None] * vectors.mT)
        W = W - 0.01 * (root @ G[:, :, None])[:, :, 0]
        parameter, state = run(sequence[:steps], rank=rank, eps=1e-6, ridge="absolute", **BARE)
        torch.testing.assert_close(parameter, W, rtol=0, atol=1e-9)
    low, rho = held(state)
    total = low + rho[:, None, None] * torch.eye(d) + 1e-6 * torch.eye(d)
    torch.testing.assert_close(total, C, rtol=1e-9, atol=1e-9)


def test_the_image_is_that_of_the_matrix_formed_explicitly():
    generator = torch.Generator().manual_seed(0)
    B = torch.linalg.qr(normal(12, 4, generator=generator))[0]
    R = normal(7, 4, 4, generator=generator)
    R, G = R @ R.mT, normal(7, 12, generator=generator)
    M = B @ R @ B.mT + G[:, :, None] * G[:, None, :]
    expected = (M @ M.mT).sum(0) @ B
    for unit in (1.0, 8.0):
        image = shared_basis.subspace_image(B, R, G / unit, torch.tensor(unit).double())
        torch.testing.assert_close(image * unit**4, expected, rtol=1e-12, atol=1e-9)


def found_by_power_iteration(seed, k, noise):
    """Return the norms that the last of six steps found, as shares of the spectral norms."""
    sequence = list(gradients((10, 12), steps=6, seed=seed, noise=noise))
    low, rho = held(run(sequence[:-1], rank=k, **BARE)[1])
    G = sequence[-1]
    after, new_rho = held(run(sequence, rank=k, **BARE)[1])
    E = low + G[:, :, None] * G[:, None, :] - after
    return (new_rho - rho) / torch.linalg.matrix_norm(E, 2)


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.01, 1.0))
def test_power_iteration_never_exceeds_the_norm(seed, k, noise):
    assert (found_by_power_iteration(seed, k, noise) <= 1 + 1e-9).all()


@pytest.mark.parametrize("k", [2, 4, 6])
@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_power_iteration_seldom_misses_much(k, noise):
    """A statement of many draws, so it is made of a hundred that are always the same."""
    found = torch.cat([found_by_power_iteration(seed, k, noise) for seed in range(10)])
    assert found.median() > 0.9


def test_more_power_steps_find_the_norm_and_rho_bounds_what_escaped(monkeypatch):
    """sum g g^T <= B R B^T + rho I, because rho adds up norms of what the basis leaves out."""
    monkeypatch.setattr(shared_basis, "POWER_STEPS", 300)
    sequence = list(gradients((9, 12)))
    low, rho = held(run(sequence, rank=4, **BARE)[1])
    total = sum(G[:, :, None] * G[:, None, :] for G in sequence)
    missing = torch.linalg.eigvalsh(total - low)
    assert (missing.amax(1) <= rho * (1 + 1e-3)).all()
    assert (missing.amax(1) > 0.1 * rho).all()


def test_nothing_escapes_when_the_gradients_fit_the_basis():
    generator = torch.Generator().manual_seed(1)
    right = normal(3, 12, generator=generator)
    sequence = [normal(9, 3, generator=generator) @ right for _ in range(8)]
    _, state = run(sequence, rank=4, **BARE)
    total = sum(G[:, :, None] * G[:, None, :] for G in sequence)
    low, rho = held(state)
    torch.testing.assert_close(low, total, rtol=1e-9, atol=1e-9)
    assert rho.max() < 1e-9 * total.abs().max()


def test_rotated_inputs_take_rotated_steps():
    sequence = list(gradients((9, 8)))
    Q = torch.linalg.qr(next(gradients((8, 8), seed=8)))[0]
    options = {"rank": 3, "eps": 1e-6, **BARE}
    plain, _ = run(sequence, **options)
    rotated, _ = run([G @ Q for G in sequence], **options)
    torch.testing.assert_close(rotated, plain @ Q, rtol=0, atol=1e-9)


def test_convolutions_are_matrices_of_output_channels():
    sequence = list(gradients((6, 12)))
    matrix, _ = run(sequence, rank=4)
    convolution, state = run([G.reshape(6, 3, 2, 2) for G in sequence], rank=4)
    assert torch.equal(convolution.reshape(6, 12), matrix)
    assert state["coefficients"].shape == (6, 4, 4)


@pytest.mark.parametrize("graft", ["none", "rmsprop-normalized"])
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6])
def test_the_scale_of_the_gradients_drops_out(scale, graft):
    options = {"rank": 4, "graft": graft, "betas": (0.0, 0.999)}
    plain, _ = run(gradients((9, 12)), **options)
    scaled, _ = run([scale * G for G in gradients((9, 12))], **options)
    torch.testing.assert_close(scaled, plain, rtol=1e-9, atol=0)


def test_the_papers_eps_is_far_from_that_for_small_gradients():
    small = [1e-12 * G for G in gradients((9, 12))]
    relative, _ = run(small, rank=4, **BARE)
    absolute, _ = run(small, rank=4, ridge="absolute", **BARE)
    assert (absolute - relative).norm() > 0.5 * relative.norm()


def test_rounding_is_never_scaled_to_whole_units():
    """A first step is -g / |g|, whatever rounding leaves in the directions that R does not have."""
    (G,) = gradients((8, 5), steps=1)
    step, _ = run([G], torch.float32, lr=1.0, rank=5, eps=0.0, **BARE)
    exact = -G / G.norm(dim=1, keepdim=True)
    torch.testing.assert_close(step.double(), exact, rtol=0, atol=1e-3)


def test_the_basis_stays_orthonormal_and_the_coefficients_positive_and_singular():
    _, state = run(gradients((20, 16), steps=60, noise=2.0), torch.float32, rank=5)
    B = state["shared_basis"]
    torch.testing.assert_close(B.mT @ B, torch.eye(5), rtol=0, atol=1e-5)
    values = torch.linalg.eigvalsh(state["coefficients"].double())
    assert (values[:, 0].abs() <= 1e-6 * values[:, -1]).all()
    assert (values[:, 1] > 1e-3 * values[:, -1]).all()


@pytest.mark.parametrize(
    ("rank", "d", "k"), [(32, 100, 32), (32, 10, 10), (0.1, 10, 2), (None, 7, 7), (2, 2, 2)]
)
def test_ranks_are_capped_at_the_inputs_and_never_below_two(rank, d, k):
    assert shared_basis.basis_size(d, rank) == k


def test_rank_one_is_refused():
    with pytest.raises(OptionError, match="Invalid rank: 1"):
        METHODS["shared-basis"].resolve({"rank": 1})


@pytest.mark.parametrize("graft", ["rmsprop-normalized", "none"])
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-20, 1e-8, 1e8, 1e17])
def test_gradients_of_any_size_are_taken(size, graft):
    options = {"rank": 4, "graft": graft, "betas": (0.0, 0.9), "lr": 1.0}
    parameter, state = run([size * G for G in gradients((9, 12))], torch.float32, **options)
    assert all(torch.isfinite(value).all() for value in (parameter, *state.values()))
    if size == 0:
        assert torch.equal(parameter, torch.zeros(9, 12))
        assert (int(state["kept_bases"]), int(state["refreshes"])) == (16, 0)
        return
    assert parameter.abs().max() > 0
    if graft != "none":
        plain, _ = run(gradients((9, 12)), torch.float32, **options)
        assert 0.3 < parameter.norm() / plain.norm() < 3
    elif size >= 1:
        plain, _ = run(gradients((9, 12)), torch.float32, eps=1e-30, **options)
        torch.testing.assert_close(parameter, plain, rtol=0, atol=1e-3)


def test_sums_that_leave_the_range_of_float32_stay_at_its_edge():
    # 12 (5e17)^2 a step, 300 times: 9e38.
    sequence = [5e17 * torch.sign(G) for G in gradients((40, 12), steps=300)]
    parameter, state = run(sequence, torch.float32, rank=4, lr=1.0)
    assert int(state["nonfinite_gradients"]) == 0
    assert all(torch.isfinite(value).all() for value in (parameter, *state.values()))
    assert state["coefficients"].max() == torch.finfo(torch.float32).max / 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_a_gradient_that_is_not_finite_or_zero_changes_no_statistics(bad):
    sequence = list(gradients((9, 12), steps=4))
    _, before = run(sequence, rank=4, **BARE)
    _, after = run([*sequence, torch.full((9, 12), bad)], rank=4, **BARE)
    for name in ("shared_basis", "coefficients", "escaped"):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-12)
    assert int(after["nonfinite_gradients"]) == (bad != 0)


def test_leading_zero_gradients_only_delay_the_start():
    sequence = list(gradients((9, 12), steps=4))
    plain, _ = run(sequence, rank=4, **BARE)
    late, state = run([torch.zeros(9, 12), *sequence], rank=4, **BARE)
    assert torch.equal(late, plain)
    assert (int(state["kept_bases"]), int(state["refreshes"])) == (1, 4)


def test_a_dead_row_takes_no_step_and_spoils_nothing():
    sequence = list(gradients((9, 12)))
    for G in sequence:
        G[2] = 0
    parameter, state = run(sequence, torch.float32, rank=4)
    assert torch.equal(parameter[2], torch.zeros(12))
    assert parameter[[0, 1, 3, 4, 5, 6, 7, 8]].abs().min() > 1e-5
    assert state["escaped"][2] < 1e-6


def test_a_decomposition_that_fails_keeps_the_mass_and_takes_no_step(monkeypatch):
    def failing(*_):
        raise torch.linalg.LinAlgError("no convergence")

    parameter = torch.nn.Parameter(torch.zeros(9, 12, dtype=torch.float64))
    options = METHODS["shared-basis"].resolve({"rank": 4, **BARE})
    optimizer = Composed([parameter], 0.01, **options)
    *first, last = gradients((9, 12), steps=4)
    for G in first:
        parameter.grad = G
        optimizer.step()
    state, before = optimizer.state[parameter], parameter.detach().clone()
    low, rho = held(state)
    parameter.grad = last
    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "eigh", failing)
        optimizer.step()
    assert torch.equal(parameter.detach(), before)
    assert int(state["kept_bases"]) == 1
    B, now = state["shared_basis"], held(state)
    M = low + last[:, :, None] * last[:, None, :]
    torch.testing.assert_close(now[0], B @ B.mT @ M @ B @ B.mT, rtol=1e-9, atol=1e-9)
    assert torch.equal(now[1], rho)
    optimizer.step()
    assert not torch.equal(parameter.detach(), before)
    assert int(state["kept_bases"]) == 1


def transient_bytes(shape, **options):
    parameter = torch.nn.Parameter(torch.zeros(shape))
    optimizer = Composed([parameter], 0.01, **METHODS["shared-basis"].resolve(options))
    for _ in range(2):
        parameter.grad = torch.randn(shape)
        with StorageTracker() as tracker:
            tracker.file([parameter, parameter.grad, *optimizer.state[parameter].values()], "held")
            optimizer.step()
    return tracker.peak_bytes[tracker.category]


def test_chunks_change_nothing_but_the_memory(monkeypatch):
    sequence = list(gradients((33, 12)))
    whole, _ = run(sequence, rank=4)
    all_bytes = transient_bytes((200, 40), rank=16)
    monkeypatch.setattr(shared_basis, "CHUNK_NUMBERS", 5 * 16 * 16)
    chunk_bytes = transient_bytes((200, 40), rank=16)
    monkeypatch.setattr(shared_basis, "CHUNK_NUMBERS", 5 * 4 * 4)
    chunked, _ = run(sequence, rank=4)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-12)
    assert all_bytes > 4 * 200 * 16 * 16 * 3
    # Two copies of G and one of the step, five of m x k, four of d x k, and a dozen temporaries of five neurons.
    assert chunk_bytes < 4 * (3 * 200 * 40 + 5 * 200 * 16 + 4 * 40 * 16 + 12 * 5 * 16 * 16)


@pytest.mark.parametrize("shape", [(9, 12), (12, 9), (5, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("k", [2, 4])
def test_state_is_a_basis_and_a_small_matrix_and_a_number_per_neuron(shape, k):
    m, d = shape[0], int(np.prod(shape[1:]))
    method, own = METHODS["shared-basis"], d * k + m * k * k + m
    bare = {"rank": k, **BARE}
    assert method.state_bytes(shape, options=bare, counters=False) == 4 * own
    full = {"rank": k}
    assert method.state_bytes(shape, options=full, counters=False) == 4 * (own + 2 * m * d)


def test_work_grows_with_the_neurons_and_their_inputs():
    method, options = METHODS["shared-basis"], {"rank": 8, **BARE}

    def flops(m, d):
        return method.step_flops((m, d), options)

    per_pair = flops(200, 300) - flops(200, 200) - flops(100, 300) + flops(100, 200)
    assert per_pair == 12 * 100 * 100 * 8
    assert flops(200, 300) == method.bound_flops((200, 300), options)
    per_neuron = (flops(200, 300) - flops(100, 300)) / 100 - 12 * 300 * 8
    assert per_neuron == 17 * 8**3 + (12 + 8 * shared_basis.POWER_STEPS) * 8**2
