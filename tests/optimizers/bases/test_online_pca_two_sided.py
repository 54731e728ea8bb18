"""Online subspace descent with both sides tracked: its reference, its closed form, its limit cases, its failures."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from subopt.optimizers import METHODS, Composed
from subopt.optimizers.bases.decompositions import canonical_signs, two_sided_bases
from subopt.optimizers.bases.online_pca import orthonormalised
from subopt.optimizers.updates.elementwise import MOMENTS

from ...pairwise import pairwise

_spec = importlib.util.spec_from_file_location(
    "reference_updates", Path(__file__).parents[2] / "reference" / "updates.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

NAME = "osd-two-sided"
LR, DECAY = 0.01, 0.1
SHAPES = {"wide": (6, 10), "tall": (10, 6), "square": (7, 7)}
# Rounding only; float32 moments lose 1e-7 a step, and no entry that Lion takes the sign of is near zero.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def noise(shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def gradients(shape, dtype, steps=20):
    """A drifting low-rank part and noise; the first is diagonal.

    The bases are fitted to the first gradient, so that P^T G Q is diagonal up to rounding noise: Lion takes the sign
    of that noise, and Adam divides it by itself. A diagonal gradient's singular vectors are unit vectors, and the zeros
    exact.
    """
    first = torch.zeros(shape, dtype=dtype)
    first.diagonal().copy_(torch.linspace(3, 1, min(shape)))
    yield first
    left, right = noise((shape[0], 2), 3), noise((2, shape[1]), 4)
    for step in range(1, steps):
        left = left + 0.2 * noise(left.shape, 100 + step)
        yield (left @ right + 0.3 * noise(shape, 200 + step)).to(dtype)


def run(start, sequence, lr=LR, weight_decay=DECAY, **options):
    parameter = torch.nn.Parameter(start.clone())
    optimizer = Composed([parameter], lr, weight_decay=weight_decay, **options)
    for gradient in sequence:
        parameter.grad = gradient.clone()
        optimizer.step()
        yield parameter.detach().clone(), optimizer.state[parameter]


def last(start, sequence, **options):
    return list(run(start, sequence, **options))[-1]


def short_side_first(matrix):
    array = matrix.detach().double().numpy()
    return array.T if array.shape[0] > array.shape[1] else array


@pytest.mark.parametrize(
    ("moments", "basis_optimizer", "shape", "dtype"),
    pairwise(
        ["adam", "lion", "adafactor", "hfac", "momentum", "sgd"],
        ["adam", "sgd"],
        SHAPES.values(),
        TOLERANCE,
    ),
    ids=str,
)
def test_it_is_the_paper_s_over_20_steps(moments, basis_optimizer, shape, dtype):
    options = METHODS[NAME].resolve({
        "moments": moments,
        "basis_optimizer": basis_optimizer,
        "rank": 3,
    })
    rule = reference.MOMENTS[moments](options["eps"])
    sequence = list(gradients(shape, dtype))
    W = short_side_first(noise(shape, 1, dtype)).copy()
    trajectory = run(noise(shape, 1, dtype), sequence, **options)
    for t, ((parameter, state), gradient) in enumerate(
        zip(trajectory, sequence, strict=True), start=1
    ):
        G = short_side_first(gradient)
        if t == 1:
            U, _, Vt = np.linalg.svd(G)
            P, Q = (np.abs(basis[:, :3]) for basis in (U, Vt.T))  # unit vectors of either sign
            left = reference.OnlinePca(P, basis_optimizer)
            right = reference.OnlinePca(Q, basis_optimizer)
        step = left.P @ rule.step(left.P.T @ G @ right.P) @ right.P.T
        W = W - LR * (step + DECAY * W)
        if t > 1:
            left.follow(G, LR, DECAY)
            right.follow(G.T, LR, DECAY)
        for actual, expected in (
            (short_side_first(parameter), W),
            (state["basis_left"].double().numpy(), left.P),
            (state["basis_right"].double().numpy(), right.P),
        ):
            limit = TOLERANCE[dtype] * np.abs(expected).max()
            np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)


def test_the_first_bases_are_both_sides_leading_singular_vectors():
    G = noise((6, 10), 0)
    _, state = last(torch.zeros(6, 10, dtype=torch.float64), [G], **METHODS[NAME].resolve())
    U, _, Vt = np.linalg.svd(G.numpy())
    for basis, vectors in ((state["basis_left"], U), (state["basis_right"], Vt.T)):
        r = basis.shape[1]
        assert r == 2  # a quarter of the short side
        overlap = np.abs((vectors[:, :r] * basis.numpy()).sum(0))
        np.testing.assert_allclose(overlap, np.ones(r), atol=1e-12)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_each_side_descends_eq_6_as_autograd_differentiates_it(shape, side):
    options = METHODS[NAME].resolve({"basis_optimizer": "sgd", "rank": 3})
    first, second = noise(shape, 0), noise(shape, 1)
    start = torch.zeros(shape, dtype=torch.float64)
    _, before = last(start, [first], **options)
    _, after = last(start, [first, second], **options)
    P = before[f"basis_{side}"].clone().requires_grad_()
    G = second if (shape[0] <= shape[1]) == (side == "left") else second.mT
    Gn = G / G.norm()
    excess = P.mT @ P - torch.eye(3, dtype=torch.float64)
    loss = (P @ P.mT @ Gn - Gn).square().sum() + options["ortho_weight"] * excess.square().sum()
    (slope,) = torch.autograd.grad(loss, P)
    moved = P.detach() - 5 * LR * (slope + DECAY * P.detach())
    torch.testing.assert_close(after[f"basis_{side}"], moved, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("moments", [name for name in MOMENTS if name != "lion"])
def test_frozen_bases_are_those_of_one_decomposition_for_good(moments, shape):
    # eps keeps the rounding noise of the first projected gradient from deciding anything.
    shared = {"moments": moments, "rank": 3, "eps": 1e-6}
    sequence = [noise(shape, seed) for seed in range(8)]
    start = noise(shape, 99)
    frozen = METHODS[NAME].fixed | {"basis_lr_ratio": 0.0} | shared
    fitted = {"basis": "two-sided", "period": 1000, "early_refresh": False} | shared
    left, _ = last(start, sequence, **frozen)
    right, _ = last(start, sequence, **fitted)
    torch.testing.assert_close(left, right, rtol=0, atol=1e-9)


def test_at_full_rank_on_a_square_matrix_gradient_descent_is_gradient_descent():
    sequence = [noise((7, 7), seed) for seed in range(8)]
    start = noise((7, 7), 99)
    options = METHODS[NAME].resolve({"rank": 1.0, "moments": "sgd", "basis_lr_ratio": 0.0})
    rotated, _ = last(start, sequence, **options)
    plain, _ = last(start, sequence, moments="sgd")
    torch.testing.assert_close(rotated, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("basis_optimizer", ["adam", "sgd"])
def test_transposing_a_square_problem_transposes_everything(basis_optimizer):
    sequence = [noise((7, 7), seed) for seed in range(8)]
    start = noise((7, 7), 99)
    options = METHODS[NAME].resolve({"rank": 3, "basis_optimizer": basis_optimizer, "eps": 1e-6})
    straight, state = last(start, sequence, **options)
    turned, turned_state = last(start.mT, [G.mT for G in sequence], **options)
    torch.testing.assert_close(turned.mT, straight, rtol=0, atol=1e-9)
    for name, other in (("basis_left", "basis_right"), ("basis_right", "basis_left")):
        torch.testing.assert_close(turned_state[other], state[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("basis_optimizer", "ratio"), [("adam", 5.0), ("sgd", 200.0)])
def test_both_bases_follow_moving_subspaces_and_stay_nearly_orthonormal(basis_optimizer, ratio):
    generator = torch.Generator().manual_seed(0)

    def drifted(basis, size):
        return orthonormalised(basis + size * torch.randn(basis.shape, generator=generator))

    left, right = drifted(torch.zeros(16, 3), 1), drifted(torch.zeros(24, 3), 1)
    parameter = torch.nn.Parameter(torch.zeros(16, 24))
    given = {"rank": 3, "basis_optimizer": basis_optimizer, "basis_lr_ratio": ratio}
    optimizer = Composed([parameter], 1e-3, **METHODS[NAME].resolve(given))
    for step in range(400):
        left, right = drifted(left, 0.01), drifted(right, 0.01)
        parameter.grad = left @ torch.randn(3, 3, generator=generator) @ right.mT
        if step == 0:
            first = two_sided_bases(parameter.grad, 3)
        optimizer.step()
    G, state = parameter.grad, optimizer.state[parameter]

    def kept(P, Q):
        inside = orthonormalised(P.float()).mT @ G @ orthonormalised(Q.float())
        return float(inside.square().sum() / G.square().sum())

    assert kept(state["basis_left"], state["basis_right"]) > 0.9 > 0.7 > kept(*first)
    assert optimizer.diagnostics()["max_orthonormality_error"] < 0.5


def test_diagnostics_and_retraction_look_at_both_bases():
    sequence = [noise((6, 10), seed, torch.float32) for seed in range(6)]
    parameter = torch.nn.Parameter(torch.zeros(6, 10))
    options = METHODS[NAME].resolve({"rank": 3, "retract_every": 3})
    optimizer = Composed([parameter], 1e-2, **options)
    for gradient in sequence:
        parameter.grad = gradient
        optimizer.step()
    assert optimizer.diagnostics()["max_orthonormality_error"] < 1e-5
    for name in ("basis_left", "basis_right"):
        state = optimizer.state[parameter]
        state[name].mul_(2)  # P^T P - I = 3 I
        assert optimizer.diagnostics()["max_orthonormality_error"] == pytest.approx(3 * 3**0.5)
        state[name].div_(2)


def test_zero_gradients_leave_both_bases_and_their_moments_alone():
    zeros, start = torch.zeros(6, 10), torch.ones(6, 10)
    sequence = [noise((6, 10), seed, torch.float32) for seed in range(2)]
    options = METHODS[NAME].resolve({"rank": 2})
    _, before = last(start, sequence, **options)
    _, after = last(start, [*sequence, zeros, zeros], **options)
    for name in ("basis_left", "basis_right"):
        assert torch.equal(after[name], before[name])
    assert int(after["fitted_at"]) == 1


@pytest.mark.parametrize("name", ["osd", NAME])
def test_a_failed_first_decomposition_is_counted_and_tried_again(name, monkeypatch):
    def fail(*_args, **_kwargs):
        raise torch.linalg.LinAlgError("did not converge")

    parameter = torch.nn.Parameter(torch.ones(6, 10))
    optimizer = Composed([parameter], 1e-2, **METHODS[name].resolve({"rank": 2}))
    parameter.grad = noise((6, 10), 0, torch.float32)
    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "eigh", fail)
        patch.setattr(torch.linalg, "svd", fail)
        with pytest.warns(UserWarning, match="a basis was kept"):
            optimizer.step()
    state = optimizer.state[parameter]
    assert torch.equal(state["basis_left"], torch.eye(6, 2))
    assert (int(state["kept_bases"]), int(state["fitted_at"])) == (1, 0)
    optimizer.step()
    expected = canonical_signs(two_sided_bases(parameter.grad, 2)[0]).float()
    torch.testing.assert_close(state["basis_left"], expected, rtol=0, atol=1e-5)
    assert (int(state["kept_bases"]), int(state["fitted_at"])) == (1, 2)


class _Shapes(TorchDispatchMode):
    """Records the shape of everything that is computed."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.seen.add(tuple(result.shape))
        return result


@pytest.mark.parametrize("name", ["osd", NAME])
def test_an_ordinary_step_forms_nothing_m_by_m_or_n_by_n(name):
    parameter = torch.nn.Parameter(torch.ones(12, 20))
    optimizer = Composed([parameter], 1e-2, **METHODS[name].resolve({"rank": 3}))
    for seed in range(2):
        parameter.grad = noise((12, 20), seed, torch.float32)
        with _Shapes() as shapes:
            optimizer.step()
    assert (12, 3) in shapes.seen
    assert shapes.seen.isdisjoint({(12, 12), (20, 20)})


@pytest.mark.parametrize(("name", "sides"), [("osd", 1), (NAME, 2)])
def test_predicted_flops_are_those_of_the_products_it_runs(name, sides):
    m, n, r = 12, 20, 3
    parameter = torch.nn.Parameter(torch.ones(m, n))
    optimizer = Composed([parameter], 1e-2, **METHODS[name].resolve({"rank": r}))
    for seed in range(2):
        parameter.grad = noise((m, n), seed, torch.float32)
        with FlopCounterMode(display=False) as counter:
            optimizer.step()
    elementwise = 10 * r * (r if sides == 2 else n) + 12 * r * (m + (n if sides == 2 else 0))
    predicted = METHODS[name].step_flops((m, n), {"rank": r})
    assert counter.get_total_flops() == predicted - elementwise
