"""Every method against the float64 NumPy reference written from its paper, over 20 steps and two refreshes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from subopt.optimizers import METHODS, Composed
from subopt.optimizers.bases.decompositions import canonical_signs, left_basis

from ..pairwise import pairwise

_spec = importlib.util.spec_from_file_location(
    "reference_updates", Path(__file__).parents[1] / "reference" / "updates.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

LR, DECAY, STEPS, PERIOD = 0.01, 0.1, 20, 8
SHAPES = {"wide": (6, 10), "tall": (10, 6), "square": (7, 7)}
# The reference is exact to rounding; float32 moments lose 1e-7 a step and signs of Lion never flip on these gradients.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}

# What has no reference here has one in a test file of its own.
PERIODIC = [
    name
    for name, method in METHODS.items()
    if method.fixed.get("moments", method.defaults.get("moments")) in reference.MOMENTS
    and method.fixed.get("basis") in {"identity", "one-sided", "two-sided"}
    and {**method.defaults, **method.fixed}.get("source", "gradient") == "gradient"
]
VARIANTS = [(name, {}) for name in PERIODIC]
VARIANTS += [("galore", {"moments": m}) for m in ("lion", "adafactor", "hfac", "momentum", "sgd")]
VARIANTS += [
    (name, options)
    for name in ("adadiag", "adadiag++", "adafacdiag", "adafacdiag++", "hfacdiag")
    for options in ({"on_refresh": "rotate"}, {"on_refresh": "reset"}, {"source": "covariance"})
]
OSD = [
    ("osd", {"moments": moments, "basis_optimizer": optimizer})
    for moments in ("adam", "lion", "adafactor", "momentum", "sgd")
    for optimizer in ("adam", "sgd")
]


def gradients(shape, dtype):
    """A fixed sequence with structure: a drifting low-rank part and noise."""
    generator = torch.Generator().manual_seed(3)
    left = torch.randn(shape[0], 2, generator=generator, dtype=torch.float64)
    right = torch.randn(2, shape[1], generator=generator, dtype=torch.float64)
    for _ in range(STEPS):
        left = left + 0.2 * torch.randn(left.shape, generator=generator, dtype=torch.float64)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        yield (left @ right + 0.3 * noise).to(dtype)


def optimizer_for(name, options, shape, dtype):
    method = METHODS[name]
    if method.fixed["basis"] in {"one-sided", "two-sided"}:
        options = {"period": PERIOD, "early_refresh": False, **options}
    if method.fixed["basis"] == "two-sided":
        # Fitted on the gradient it projects, P^T G Q is diagonal: all else is rounding noise, which the usual
        # eps would scale to whole units. An eps above that noise makes the step a function of the gradient.
        options = {**options, "eps": 1e-2 if dtype == torch.float32 else 1e-8}
    start = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parameter = torch.nn.Parameter(start.to(dtype))
    resolved = method.resolve(options)
    return parameter, resolved, Composed([parameter], lr=LR, weight_decay=DECAY, **resolved)


def short_side_first(matrix):
    array = matrix.detach().double().numpy()
    return array.T if array.shape[0] > array.shape[1] else array


def assert_close(actual, expected, dtype):
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=TOLERANCE[dtype] * np.abs(expected).max()
    )


@pytest.mark.parametrize(
    ("method", "shape", "dtype"), pairwise(VARIANTS, SHAPES, TOLERANCE), ids=str
)
def test_periodic_and_identity_bases(method, shape, dtype):
    (name, options), shape = method, SHAPES[shape]
    parameter, resolved, optimizer = optimizer_for(name, options, shape, dtype)
    moments = reference.MOMENTS[resolved["moments"]](resolved["eps"])
    W = short_side_first(parameter).copy()
    m, n = W.shape
    P_old = Q_old = None
    for gradient in gradients(shape, dtype):
        parameter.grad = gradient
        optimizer.step()
        state = optimizer.state[parameter]
        P = state["basis_left"].double().numpy().copy() if "basis_left" in state else np.eye(m)
        Q = state["basis_right"].double().numpy().copy() if "basis_right" in state else np.eye(n)
        if P_old is not None and not (np.array_equal(P, P_old) and np.array_equal(Q, Q_old)):
            if resolved["on_refresh"] == "rotate":
                moments.rotate(P.T @ P_old, Q.T @ Q_old)
            elif resolved["on_refresh"] == "reset":
                moments.reset()
        P_old, Q_old = P, Q
        projected = P.T @ short_side_first(gradient) @ Q
        if resolved["basis"] != "identity":
            projected = reference.without_rounding(projected, torch.finfo(dtype).eps)
        step = P @ moments.step(projected) @ Q.T
        W = W - LR * (resolved.get("scale", 1.0) * step + DECAY * W)
        assert_close(short_side_first(parameter), W, dtype)
    if "refreshes" in state:
        assert int(state["refreshes"]) == 3


@pytest.mark.parametrize(("method", "shape", "dtype"), pairwise(OSD, SHAPES, TOLERANCE), ids=str)
def test_online_subspace_descent(method, shape, dtype):
    (name, options), shape = method, SHAPES[shape]
    parameter, resolved, optimizer = optimizer_for(name, options, shape, dtype)
    moments = reference.MOMENTS[resolved["moments"]](resolved["eps"])
    W = short_side_first(parameter).copy()
    pca = None
    for t, gradient in enumerate(gradients(shape, dtype), start=1):
        G = short_side_first(gradient)
        if pca is None:
            rank = max(1, round(resolved["rank"] * W.shape[0]))
            start = canonical_signs(left_basis(torch.from_numpy(G.copy()), rank)).to(dtype)
            pca = reference.OnlinePca(start.double().numpy(), resolved["basis_optimizer"])
        parameter.grad = gradient
        optimizer.step()
        step = pca.P @ moments.step(pca.P.T @ G)
        W = W - LR * (resolved.get("scale", 1.0) * step + DECAY * W)
        if t > 1:
            pca.follow(G, LR, DECAY)
        assert_close(short_side_first(parameter), W, dtype)
        assert_close(optimizer.state[parameter]["basis_left"].double().numpy(), pca.P, dtype)


# Weight of the gradient at step 6 in the average that the step follows.
@pytest.mark.parametrize(
    ("moments", "weight"),
    [("adam", 1 - reference.beta_hat(0.9, 6)), ("lion", 0.1), ("momentum", 0.1)],
)
def test_momentum_source_decomposes_the_average_that_this_step_follows(moments, weight):
    options = {"source": "momentum", "rank": 2, "period": 5, "moments": moments}
    parameter, _, optimizer = optimizer_for("galore", options, (6, 10), torch.float64)
    for t, gradient in enumerate(gradients((6, 10), torch.float64), start=1):
        parameter.grad = gradient
        state = optimizer.state[parameter]
        if t == 6:
            lifted = state["basis_left"].numpy() @ state["exp_avg"].numpy()
            expected = np.linalg.svd((1 - weight) * lifted + weight * gradient.numpy())[0][:, :2]
            optimizer.step()
            P = state["basis_left"].numpy()
            np.testing.assert_allclose(P @ P.T, expected @ expected.T, atol=1e-9)
            break
        optimizer.step()
    assert t == 6
