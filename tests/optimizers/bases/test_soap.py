"""SOAP: against a reference written from its paper, its limit cases, its power step, and each choice of its own."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from subopt.errors import OptionError
from subopt.optimizers import METHODS, Composed
from subopt.optimizers.bases.covariance import refit
from subopt.optimizers.bases.decompositions import canonical_signs, gram_basis
from subopt.optimizers.updates.elementwise import MOMENTS

from ...pairwise import pairwise


def _load(name):
    path = Path(__file__).parents[2] / "reference" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"reference_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference, updates = _load("soap"), _load("updates")

LR, DECAY, STEPS, PERIOD = 0.01, 0.1, 20, 4
SHAPES = {"wide": (6, 10), "tall": (10, 6), "square": (7, 7), "conv": (5, 3, 2, 2)}
# Exact to rounding in float64; in float32 the rounding of C P is amplified by C's condition number.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
CHOICES = [
    {},
    {"use_current_gradient": True},
    {"skip_first": False},
    {"use_current_gradient": True, "skip_first": False},
    {"solver": "exact"},
    {"solver": "exact", "second_moment_on_refresh": "keep"},
    {"second_moment_on_refresh": "keep"},
    {"second_moment_on_refresh": "rotate"},
    {"on_refresh": "keep", "second_moment_on_refresh": None},
    {"on_refresh": "reset"},
    {"on_refresh": "reset", "skip_first": False, "use_current_gradient": True},
    {"covariance_beta": 0.5},
    {"max_dim": 8},
    {"max_dim": 5, "skip_first": False},
    {"period": 2},
    {"scale": 0.5, "betas": (0.9, 0.99)},
]


def short_first(matrix):
    array = matrix.detach().double().numpy()
    array = array.reshape(len(array), -1)
    return array.T if array.shape[0] > array.shape[1] else array


def gradients(shape, dtype=torch.float64, steps=STEPS, seed=3):
    """A fixed sequence with structure: rows and columns of different energies, which drift."""
    generator = torch.Generator().manual_seed(seed)
    rows = 2.0 ** -torch.arange(shape[0], dtype=torch.float64)
    for _ in range(steps):
        rows = rows * torch.exp(0.1 * torch.randn(shape[0], generator=generator))
        G = torch.randn(shape, generator=generator, dtype=torch.float64)
        yield ((rows + 0.1).reshape(-1, *[1] * (len(shape) - 1)) * G).to(dtype)


def start(shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    value = torch.randn(shape, generator=generator, dtype=torch.float64)
    return torch.nn.Parameter(value.to(dtype))


def run(parameter, sequence, options, **rest):
    """Step over a sequence of gradients; yield the state after each step."""
    optimizer = Composed([parameter], LR, **rest, **options)
    for gradient in sequence:
        parameter.grad = gradient
        optimizer.step()
        yield optimizer.state[parameter]


class FromUpdates:
    """Moments of the other papers' references, which rotate both powers or neither."""

    def __init__(self, moments):
        self.moments = moments

    def step(self, G):
        return self.moments.step(G)

    def carry(self, on_refresh, second, rotations, permutations):
        assert (on_refresh, second) == ("rotate", "rotate")
        R, S = rotations
        if isinstance(self.moments, (updates.Lion, updates.Momentum)):
            self.moments.M = R @ self.moments.M @ S.T
        elif not isinstance(self.moments, updates.Sgd):
            self.moments.rotate(R, S)


def reference_for(parameter, state, resolved, moments):
    """The reference, given the first bases of the code under test after its first step."""
    bases = [
        state[name].double().numpy().copy() if name in state else None
        for name in ("basis_left", "basis_right")
    ]
    return reference.Soap(
        short_first(parameter).shape,
        bases,
        moments,
        covariance_beta=resolved["covariance_beta"] or resolved["betas"][1],
        period=resolved["period"],
        early_refresh=resolved["early_refresh"],
        use_current_gradient=resolved["use_current_gradient"],
        skip_first=resolved["skip_first"],
        solver=resolved["solver"],
        on_refresh=resolved["on_refresh"],
        second=resolved["second_moment_on_refresh"],
    )


def follow_reference(name, options, shape, dtype, make_moments):
    """Compare parameters and bases with the reference at every step; return the last state."""
    options = {"period": PERIOD, "early_refresh": False, **options}
    resolved = METHODS[name].resolve(options)
    parameter, slow = start(shape, dtype), None
    W = short_first(parameter).copy()
    sequence = list(gradients(shape, dtype))
    states = run(parameter, sequence, resolved, weight_decay=DECAY)
    frozen = {**resolved, "period": 10**6, "early_refresh": False}
    first_basis = run(start(shape, dtype), sequence, frozen)
    for gradient, state in zip(sequence, states, strict=True):
        if slow is None:
            slow = reference_for(parameter, next(first_basis), resolved, make_moments(resolved))
        step = slow.step(short_first(gradient))
        if step is not None:
            W = W - LR * (resolved["scale"] * step + DECAY * W)
        atol = TOLERANCE[dtype]
        np.testing.assert_allclose(short_first(parameter), W, rtol=0, atol=atol * np.abs(W).max())
        for side, held in (("left", slow.left), ("right", slow.right)):
            assert held.is_active == (f"basis_{side}" in state)
            if held.is_active and dtype == torch.float64:
                basis = state[f"basis_{side}"].numpy()
                overlaps = np.abs(np.sum(basis * held.Q, axis=0))
                np.testing.assert_allclose(overlaps, 1, rtol=0, atol=1e-9)
    return state


def paper_adam(resolved):
    return reference.Adam(resolved["betas"], resolved["eps"])


@pytest.mark.parametrize(
    ("name", "options", "shape"), pairwise(["soap", "soap-one-sided"], CHOICES, SHAPES), ids=str
)
def test_every_choice_is_the_references(name, options, shape):
    shape = SHAPES[shape]
    state = follow_reference(name, options, shape, torch.float64, paper_adam)
    if "refreshes" in state:
        assert int(state["refreshes"]) >= 5
        assert int(state["kept_bases"]) == 0


@pytest.mark.parametrize("use_current_gradient", [True, False])
@pytest.mark.parametrize("skip_first", [True, False])
def test_early_refreshes_are_the_references(skip_first, use_current_gradient):
    # On a square matrix: the covariance of a wide gradient or two has a null space, which is anybody's.
    options = {"early_refresh": True, "period": 12, "skip_first": skip_first}
    options["use_current_gradient"] = use_current_gradient
    state = follow_reference("soap", options, (7, 7), torch.float64, paper_adam)
    assert int(state["refreshes"]) == 5  # for steps 1, 2, 4, 8 and 13


@pytest.mark.parametrize("shape", [(6, 10), (7, 7)], ids=str)
@pytest.mark.parametrize("name", ["soap", "soap-one-sided"])
def test_in_float32(name, shape):
    follow_reference(name, {"eps": 1e-3}, shape, torch.float32, paper_adam)


@pytest.mark.parametrize("moments", ["adafactor", "hfac", "lion", "momentum", "sgd"])
@pytest.mark.parametrize("name", ["soap", "soap-one-sided"])
def test_the_basis_takes_any_moments(name, moments):
    options = {"moments": moments, "second_moment_on_refresh": "rotate"}
    follow_reference(
        name,
        options,
        (6, 10),
        torch.float64,
        lambda resolved: FromUpdates(updates.MOMENTS[moments](resolved["eps"])),
    )


@pytest.mark.parametrize("name", ["soap", "soap-one-sided"])
def test_with_frozen_bases_it_is_adadiag_from_the_second_gradient_on(name, monkeypatch):
    """The first gradient only starts the bases; handed those, AdaDiag's t = 1 is SOAP's second gradient."""
    sequence = list(gradients((6, 10)))
    soap = METHODS[name].resolve({"period": 10**6, "early_refresh": False})
    mine = start((6, 10))
    for state in run(mine, sequence, soap, weight_decay=DECAY):
        bases = [state[key].clone() for key in ("basis_left", "basis_right") if key in state]
    monkeypatch.setattr("subopt.optimizers.bases.periodic.two_sided_bases", lambda G, rank: bases)
    monkeypatch.setattr("subopt.optimizers.bases.periodic.left_basis", lambda G, rank: bases[0])
    parent = "adadiag++" if name == "soap" else "adadiag"
    theirs, options = start((6, 10)), METHODS[parent].resolve({"betas": (0.95, 0.95)})
    list(run(theirs, sequence[1:], options, weight_decay=DECAY))
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_frozen_full_rank_covariances_freeze_the_bases():
    """A power step on the very covariance whose eigenvectors the basis has is no step, however often it is taken."""
    sequence = [next(gradients((7, 7)))] * 10
    parameter = start((7, 7))
    for state in run(parameter, sequence, METHODS["soap"].resolve({"period": 1})):
        left, right = state["basis_left"].clone(), state["basis_right"].clone()
        if int(state["step"]) == 1:
            first = left, right
    assert int(state["refreshes"]) == 10
    torch.testing.assert_close((left, right), first, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["soap", "soap-one-sided"])
def test_with_every_side_above_max_dim_it_is_adam(name):
    options = METHODS[name].resolve({"max_dim": 5})
    mine, adam = start((10, 6)), start((10, 6))
    *_, state = run(mine, gradients((10, 6)), options)
    list(run(adam, gradients((10, 6)), METHODS["adamw"].resolve({"betas": (0.95, 0.95)})))
    assert torch.equal(mine, adam)
    assert set(state) == {"step", "nonfinite_gradients", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize(
    ("name", "max_dim", "elements"),
    [
        ("soap", None, 2 * 16 * 40 + 2 * 16**2 + 2 * 40**2),
        ("soap", 39, 2 * 16 * 40 + 2 * 16**2),
        ("soap", 15, 2 * 16 * 40),
        ("soap-one-sided", 40, 2 * 16 * 40 + 2 * 16**2),
        ("soap-one-sided", 15, 2 * 16 * 40),
    ],
)
def test_state_leaves_out_what_is_left_alone(name, max_dim, elements):
    method, options = METHODS[name], {"max_dim": max_dim}
    for shape in [(16, 40), (40, 16)]:
        assert method.state_bytes(shape, options=options, counters=False) == 4 * elements
    cheaper = method.step_flops((16, 40), options)
    assert cheaper <= method.step_flops((16, 40), {"max_dim": None})
    assert (cheaper == METHODS["adamw"].step_flops((16, 40))) == (elements == 2 * 16 * 40)


def test_flops_are_four_products_two_covariances_and_a_power_step_every_period():
    m, n = 16, 40
    products = 4 * (m * m * n + m * n * n) + 2 * (m * m * n + m * n * n)
    power = sum(2 * s**3 + 4 * s**3 - 4 * s**3 / 3 for s in (m, n))
    rotation = sum(2 * s**3 for s in (m, n)) + 2 * (m * m * n + m * n * n)
    ordinary = products + 10 * m * n
    for period in (1, 10):
        expected = ordinary + (power + rotation) / period
        assert METHODS["soap"].step_flops((m, n), {"period": period}) == pytest.approx(expected)
    kept = METHODS["soap"].step_flops((m, n), {"on_refresh": "keep"})
    assert kept == pytest.approx(ordinary + power / 10)


@pytest.mark.parametrize("solver", ["power", "exact"])
def test_refitting_stays_orthonormal_and_reaches_the_eigenvectors(solver):
    generator = torch.Generator().manual_seed(0)
    Q, _ = torch.linalg.qr(torch.randn(12, 12, generator=generator))
    C = Q @ torch.diag(2.0 ** -torch.arange(12)) @ Q.mT
    P, _ = torch.linalg.qr(torch.randn(12, 12, generator=generator))
    for _ in range(60 if solver == "power" else 1):
        P = refit(C, P, solver).basis.float()
        torch.testing.assert_close(P.mT @ P, torch.eye(12), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        canonical_signs(P), canonical_signs(gram_basis(C)).to(P.dtype), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("C", [torch.zeros(5, 5), torch.diag(torch.tensor([1.0, 0, 0, 0, 0]))])
def test_a_power_step_on_a_deficient_covariance_is_still_orthonormal(C):
    P, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))
    basis, _ = refit(C, P, "power")
    torch.testing.assert_close(basis.mT @ basis, torch.eye(5), rtol=0, atol=1e-5)


def test_the_order_ranks_the_old_vectors_by_their_energy():
    C = torch.diag(torch.tensor([3.0, 1.0, 2.0]))
    for solver in ("power", "exact"):
        basis, order = refit(C, torch.eye(3), solver)
        assert order.tolist() == [0, 2, 1]
        torch.testing.assert_close(basis.abs().float(), torch.eye(3)[:, order])


def test_permuting_second_moments_keeps_them_with_their_vectors():
    """Two directions swap ranks; their second moments swap with them under `permute` and stay under `keep`."""
    big, small = torch.zeros(2, 2), torch.zeros(2, 2)
    big[0, 0], big[1, 1] = 1.0, 0.5
    small[0, 0], small[1, 1] = 0.1, 2.0
    held = {}
    for fate in ("keep", "permute", "rotate"):
        options = {"period": 2, "second_moment_on_refresh": fate, "covariance_beta": 0.1}
        parameter = torch.nn.Parameter(torch.zeros(2, 2))
        for state in run(parameter, [big, small, small], METHODS["soap"].resolve(options)):
            if int(state["refreshes"]) < 2:
                before = state["exp_avg_sq"].clone()
        held[fate] = state["exp_avg_sq"]
        assert int(state["refreshes"]) == 2
    torch.testing.assert_close(held["permute"], held["keep"].flip(0, 1))
    torch.testing.assert_close(held["rotate"], held["permute"])
    assert before[1, 1] > before[0, 0]


def test_bias_correction_of_the_covariances_changes_no_basis(monkeypatch):
    """One factor on all of C: neither its eigenvectors nor the QR of C P know it."""
    results = []
    for debiased in (None, lambda beta, t: beta):
        if debiased is not None:
            monkeypatch.setattr("subopt.optimizers.bases.covariance.debiased", debiased)
        parameter = start((6, 10))
        list(run(parameter, gradients((6, 10)), METHODS["soap"].resolve({"period": 3})))
        results.append(parameter)
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)


def test_the_first_gradient_moves_nothing_if_skipped():
    parameter = start((6, 10))
    before, sequence = parameter.detach().clone(), list(gradients((6, 10), steps=2))
    states = run(parameter, sequence, METHODS["soap"].resolve(), weight_decay=DECAY)
    state = next(states)
    assert torch.equal(parameter, before)
    assert not state["exp_avg"].any()
    assert int(state["refreshes"]) == 1
    next(states)
    assert not torch.equal(parameter, before)
    projected = state["basis_left"].mT @ sequence[1] @ state["basis_right"]
    torch.testing.assert_close(state["exp_avg"], projected)


def test_a_late_first_gradient_is_the_one_that_is_skipped():
    zeros = torch.zeros(6, 10, dtype=torch.float64)
    sequence = [zeros, *gradients((6, 10), steps=2)]
    parameter = start((6, 10))
    before = parameter.detach().clone()
    for state in run(parameter, sequence, METHODS["soap"].resolve({"early_refresh": False})):
        if int(state["step"]) < 3:
            assert torch.equal(parameter, before)
    assert not torch.equal(parameter, before)
    assert (int(state["kept_bases"]), int(state["refreshes"]), int(state["restart"])) == (1, 1, 2)


def test_the_first_step_of_a_basis_that_saw_its_gradient_is_diagonal():
    """What `skip_first` avoids: off the diagonal the projected gradient is rounding noise, scaled to whole units."""
    sequence = list(gradients((6, 10), steps=1))
    for state in run(start((6, 10)), sequence, METHODS["soap"].resolve({"skip_first": False})):
        projected = state["exp_avg"].abs()
    assert projected[:, 6:].max() < 1e-12 < projected.diagonal().min()


@pytest.mark.parametrize("moments", MOMENTS)
def test_a_zero_gradient_at_a_refresh_keeps_the_basis(moments):
    sequence = [*gradients((6, 10), steps=2), torch.zeros(6, 10, dtype=torch.float64)]
    options = METHODS["soap"].resolve({"period": 2, "moments": moments})
    for state in run(start((6, 10)), sequence, options):
        assert int(state["refreshes"]) == 1
    assert int(state["kept_bases"]) == 1


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"solver": "power"}, "solver power needs a basis of averaged covariances"),
        ({"use_current_gradient": False}, "use_current_gradient false needs"),
        ({"second_moment_on_refresh": "permute"}, "second_moment_on_refresh permute needs"),
    ],
)
def test_choices_that_only_averaged_covariances_have_are_refused_elsewhere(options, pattern):
    with pytest.raises(OptionError, match=pattern):
        Composed([start((6, 10))], basis="two-sided", **options)


def test_other_moments_bring_their_own_betas():
    assert METHODS["soap"].resolve()["betas"] == (0.95, 0.95)
    assert METHODS["soap"].resolve({"moments": "lion"})["betas"] == (0.9, 0.99)
    assert METHODS["soap"].resolve({"moments": "lion", "betas": (0.8, 0.9)})["betas"] == (0.8, 0.9)
