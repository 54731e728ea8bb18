"""Liang et al. 2024, section 4: whatever the projection does, H(W, S) never grows along the projected flow.

W' = -lift(step(S)), S' = the moments' own flow on project(G), and H a function of W and the projected moments S alone,
so that the motion of P (and Q) adds nothing to H'. The cross terms of H' cancel because lift is the adjoint of project,
for any P and Q: nothing here asks for orthonormal columns, for a schedule, or for P to have to do with G.

The flow is that of the package's own updates: S is an exponential average, so (S+ - S) / h is its velocity for every h.
A step of size h, which reads G at W, moves S and then moves W by the new S, differs from the flow at second order. For
a loss of curvature at most l along the step and K = ||P||^2 ||Q||^2 these terms can be bounded (`System.bound`):

- gradient descent and momentum: H falls in every step with h < 1 / (l K);
- Adam: the same with l / min(sqrt(V) + eps) for l, and a > b / 4 by a margin of order h;
- Lion: a step does not shrink with the gradient, so H may grow by its curvature term, a l ||h lift(sign N)||^2 / 2.

Nothing is left to a tolerance but rounding. Rates a and b: beta1 = 1 - a h and beta2 = 1 - b h; for Lion
beta2 = 1 - a h,"""

from dataclasses import dataclass
from functools import cache

import pytest
import torch

from subopt.optimizers import METHODS, Composed
from subopt.optimizers.bases.online_pca import OnlinePCA, orthonormalised
from subopt.optimizers.updates.elementwise import MOMENTS

from ..pairwise import pairwise

M, N, RANK = 5, 8, 3
A, B, MIX, EPS = 2.0, 1.0, 0.1, 0.1
# The bias corrections that the flow knows nothing of have died out by then.
LATE = 10**9
ROUNDING = 1e-13
# W' is read off a step of 1e-14, in which the largest squared gradients here, 1e5 times V, move V by 1e-9 of itself.
FLOW = 1e-6


def noise(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Logistic:
    """L(W) = mean log(1 + exp(-<X_k, W>)): convex, and curved by at most the largest eigenvalue of mean X X^T / 4."""

    X = noise(40, M, N, seed=1) + 0.3
    curvature_limit = float(torch.linalg.eigvalsh(X.flatten(1).mT @ X.flatten(1) / 40).max() / 4)

    def loss(self, W):
        return torch.nn.functional.softplus(-torch.einsum("kij,ij->k", self.X, W)).mean()

    def curvature(self, before, after):
        del before, after
        return self.curvature_limit


class Quartic:
    """L(W) = c ||W^T W - T||^2 / 4 with T >= 0: not convex.

    <D, L''(W) D> / c = ||W^T D + D^T W||^2 / 2 + <W^T W - T, D^T D> <= 3 ||W||^2 ||D||^2, and the spectral norm of W
    on a segment is largest at one of its ends.
    """

    scale = 0.05
    T = (lambda Y: Y.mT @ Y / 4)(noise(3, N, seed=2))

    def loss(self, W):
        return self.scale * (W.mT @ W - self.T).square().sum() / 4

    def curvature(self, before, after):
        return 3 * self.scale * max(spectral_norm(before), spectral_norm(after)) ** 2


class Linear:
    """L(W) = <slope, W>: any gradient at will."""

    def __init__(self, slope):
        self.slope = slope

    def loss(self, W):
        return (self.slope * W).sum()


PROBLEMS = {"logistic": Logistic(), "quartic": Quartic()}


def spectral_norm(P):
    return float(torch.linalg.matrix_norm(P, 2))


def gradient(problem, W):
    W = W.clone().requires_grad_()
    return torch.autograd.grad(problem.loss(W), W)[0]


def rotating(rows, t, seed):
    skew = noise(rows, rows, seed=seed)
    return torch.linalg.matrix_exp(0.05 * t * (skew - skew.mT)) @ orthonormalised(
        noise(rows, RANK, seed=seed + 1)
    )


def redrawn(rows, t, seed):
    return orthonormalised(noise(rows, RANK, seed=seed + 1000 * t))


def slanted(rows, t, seed):
    """Neither orthonormal nor of constant length, and at times nearly singular."""
    swing = torch.sin(0.1 * t * torch.arange(1, RANK + 1, dtype=torch.float64))
    return (noise(rows, RANK, seed=seed) * swing + 0.3 * noise(rows, RANK, seed=seed + 1)) / 3


PATHS = {path.__name__: path for path in (rotating, redrawn, slanted)}


@cache
def bases(path, t, sides):
    both = {"basis_left": path(M, t, 10), "basis_right": path(N, t, 20)}
    return dict(list(both.items())[:sides])


def gain(state):
    """||P||^2 ||Q||^2."""
    result = 1.0
    for name in ("basis_left", "basis_right"):
        result *= spectral_norm(state[name]) ** 2 if name in state else 1.0
    return result


@dataclass(frozen=True)
class System:
    """One kind of moments as a flow: its decays, its start, its H, H' as the paper has it, and a bound for one step."""

    name: str
    a: float = A
    b: float = B

    def hyper(self, h):
        betas = (
            (1 - MIX, 1 - self.a * h) if self.name == "lion" else (1 - self.a * h, 1 - self.b * h)
        )
        eps = 0.0 if self.name == "adafactor" else EPS
        return {"betas": betas, "eps": eps, "clip_threshold": float("inf")}

    def start(self, G):
        """M = G/2 and V = G^2 where H has a pole at V = 0; M = 0 for the others."""
        if self.name == "adam":
            return {"exp_avg": G / 2, "exp_avg_sq": G**2}
        if self.name == "adafactor":
            return {"exp_avg": G / 2, "row_sq": (G**2).sum(1), "col_sq": (G**2).sum(0)}
        return {} if self.name == "sgd" else {"exp_avg": torch.zeros_like(G)}

    def energy(self, problem, W, S):
        """Examples 4.1 to 4.3; Lion's counts the loss a-fold, and its K is the l1 norm."""
        loss = problem.loss(W)
        if self.name == "sgd":
            return loss
        if self.name == "lion":
            return self.a * loss + S["exp_avg"].abs().sum()
        return loss + (S["exp_avg"] ** 2 / self.denominator(S)).sum() / (2 * self.a)

    def denominator(self, S):
        """What M is divided by in a step."""
        if self.name == "adam":
            return S["exp_avg_sq"].sqrt() + EPS
        if self.name == "adafactor":
            return (S["row_sq"][:, None] * S["col_sq"] / S["row_sq"].sum()).sqrt()
        return torch.ones_like(S["exp_avg"])

    def rate(self, G, S):
        """H' for the projected gradient G and moments S."""
        if self.name == "sgd":
            return -G.square().sum()
        moment = S["exp_avg"]
        if self.name == "momentum":
            return -moment.square().sum()
        if self.name == "lion":
            flipped = ((1 - MIX) * moment + MIX * G).sign() - moment.sign()
            return -self.a * ((G * flipped).sum() + moment.abs().sum())
        if self.name == "adafactor":
            jump = (G**2).sum() / S["row_sq"].sum()
            growth = ((G**2).sum(1) / S["row_sq"])[:, None] + (G**2).sum(0) / S["col_sq"] - jump - 1
            kinetic = moment**2 / self.denominator(S)
            return -(kinetic * (1 + self.b / (4 * self.a) * growth)).sum()
        root, ratio = S["exp_avg_sq"].sqrt(), self.b / (4 * self.a)
        damped = (1 - ratio * root / (root + EPS)) * moment**2 / (root + EPS)
        return -(damped + ratio * moment**2 * G**2 / (root * (root + EPS) ** 2)).sum()

    def bound(self, h, G, S, after, step, curvature, K):
        """The most by which one step of size h changes H, for G the projected gradient and K = ||P||^2 ||Q||^2.

        L(W - h s) <= L - h <G, step> + l h^2 ||s||^2 / 2 for s = lift(step), and ||s||^2 <= K ||step||^2.
        Momentum: with M+ = M + a h D, D = G - M, the change of ||M||^2 / 2a is h <M+, D> - a h^2 ||D||^2 / 2, and with
        -h <M+, G> it makes -h <M+, M> - a h^2 ||D||^2 / 2 = -h (1 - a h / 2) ||M||^2 - a h^2 ||G||^2 / 2. To this comes
        at most l K h^2 / 2 times ||M+||^2 <= (1 - a h) ||M||^2 + a h ||G||^2.
        Adam: the same weighted by 1 / (sqrt(V+) + eps), and the change of V. V+ >= (1 - b h) V, so that
        sqrt(V) - sqrt(V+) <= b h sqrt(V) / (1 + sqrt(1 - b h)), which is the `drift`, b / 4a for small h.
        Adafactor: likewise, with V+ >= q V for q = (1 - b h)^2 / (1 + b h (jump - 1)), jump = ||G||^2 / sum(r).
        Lion: without the curvature term an entry changes H by at most -a h |M| where sign(N) = sign(M), by -2 a h |G|
        or less where it is not: never up, as long as a h <= MIX.
        """
        ah, lKh = self.a * h, curvature * K * h
        if self.name == "sgd":
            return -h * (1 - lKh / 2) * G.square().sum()
        if self.name == "lion":
            return self.a * curvature * h**2 * step.square().sum() / 2
        weight, bh, drift = 1 / self.denominator(after), self.b * h, 0.0
        lKh = lKh * float(weight.max())
        if self.name == "adam":
            drift = self.b / (2 * self.a * (1 + (1 - bh) ** 0.5))
        elif self.name == "adafactor":
            jump = (G**2).sum() / S["row_sq"].sum()
            drift = (1 - (1 - bh) / (1 + bh * (jump - 1)) ** 0.5) / (2 * self.a * h)
        kinetic, driven = (weight * S["exp_avg"] ** 2).sum(), (weight * G**2).sum()
        damping = 1 - ah / 2 - drift - lKh * (1 - ah) / 2
        return -h * (damping * kinetic + ah / 2 * (1 - lKh) * driven)


SYSTEMS = {name: System(name) for name in ("sgd", "momentum", "adam", "lion")}


ADAFACTOR = System("adafactor")


def advanced(system, pca, basis, S, G, h):
    """One step by the package's own projection, updates and lift: the new state and the lifted step."""
    after, hyper = {name: value.clone() for name, value in S.items()}, system.hyper(h)
    projected = pca.project(basis, G)
    if system.name == "adafactor":
        # The papers' flow divides the averaged gradient. The package's Adafactor averages the divided one.
        MOMENTS["adafactor-nomom"].step(projected, after, LATE, hyper)
        M = MOMENTS["momentum"].step(projected, after, LATE, hyper)
        return after, pca.lift(basis, M / system.denominator(after))
    return after, pca.lift(basis, MOMENTS[system.name].step(projected, after, LATE, hyper))


def flow_rate(system, problem, pca, basis, W, S):
    """H' = <dH/dW, W'> + <dH/dS, S'> by autograd.

    S' is (S+ - S) / h whatever h, and W' the step that S itself makes, which is that of h = 0 but for rounding.
    """
    G, h = gradient(problem, W), 1e-2
    after, _ = advanced(system, pca, basis, S, G, h)
    _, step = advanced(system, pca, basis, S, G, 1e-14)
    W = W.clone().requires_grad_()
    S = {name: value.clone().requires_grad_() for name, value in S.items()}
    system.energy(problem, W, S).backward()
    rate = -(W.grad * step).sum()
    return rate + sum((S[n].grad * (after[n] - S[n].detach()) / h).sum() for n in S)


def arbitrary(system, pca, seed):
    """Some point of the phase space, and some P and Q."""
    basis = {"basis_left": noise(M, RANK, seed=seed), "basis_right": noise(N, RANK, seed=seed + 1)}
    W = noise(M, N, seed=seed + 2)
    X = pca.project(basis, W)
    S = {name: noise(*value.shape, seed=seed + 3) for name, value in system.start(X).items()}
    # Second moments are positive, and here not close to the pole of 1 / sqrt(V).
    return basis, W, {n: 0.1 + value**2 if "sq" in n else value for n, value in S.items()}


@pytest.mark.parametrize("sides", [1, 2])
def test_lift_is_the_adjoint_of_project_for_any_bases(sides):
    pca = OnlinePCA(sides)
    basis = {"basis_left": noise(M, RANK, seed=0), "basis_right": noise(N, RANK, seed=1)}
    G = noise(M, N, seed=2)
    X = noise(*pca.project(basis, G).shape, seed=3)
    torch.testing.assert_close((pca.lift(basis, X) * G).sum(), (X * pca.project(basis, G)).sum())


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_the_flow_dissipates_h_at_the_papers_rate_at_any_point_with_any_bases(
    system, problem, sides
):
    pca = OnlinePCA(sides)
    for seed in range(0, 200, 10):
        basis, W, S = arbitrary(system, pca, seed)
        expected = system.rate(pca.project(basis, gradient(problem, W)), S)
        assert expected < 0
        found = flow_rate(system, problem, pca, basis, W, S)
        torch.testing.assert_close(found, expected, rtol=FLOW, atol=FLOW)


@pytest.mark.parametrize("sides", [1, 2])
def test_adams_h_falls_up_to_the_papers_limit_of_a_and_not_beyond(sides):
    """a >= b / 4 is needed: where the gradient vanishes, V falls and M^2 / sqrt(V) rises faster than M is damped."""
    pca, problem = OnlinePCA(sides), PROBLEMS["logistic"]
    for seed in range(0, 200, 10):
        system = System("adam", a=1.0, b=4.0)
        assert flow_rate(system, problem, pca, *arbitrary(system, pca, seed)) < 0
    too_slow = System("adam", a=1.0, b=40.0)
    basis, W, S = arbitrary(too_slow, pca, 0)
    W, V = torch.zeros_like(W), torch.ones_like(S["exp_avg"])
    S = {"exp_avg": V.clone(), "exp_avg_sq": V}
    assert not gradient(PROBLEMS["quartic"], W).any()
    assert flow_rate(too_slow, PROBLEMS["quartic"], pca, basis, W, S) > 0


@pytest.mark.parametrize(
    ("system", "problem", "path", "sides", "h"),
    pairwise(SYSTEMS, PROBLEMS, PATHS, [1, 2], [1e-2, 2.5e-3]),
)
def test_h_falls_in_every_small_step_however_the_bases_move(system, problem, path, sides, h):
    system, problem, path = SYSTEMS[system], PROBLEMS[problem], PATHS[path]
    pca, W = OnlinePCA(sides), 0.5 * noise(M, N, seed=7)
    S = system.start(pca.project(bases(path, 0, sides), gradient(problem, W)))
    energies = [system.energy(problem, W, S)]
    for t in range(40):
        basis, G = bases(path, t, sides), gradient(problem, W)
        after, step = advanced(system, pca, basis, S, G, h)
        moved = W - h * step
        curvature = problem.curvature(W, moved)
        projected = pca.project(basis, G)
        bound = system.bound(h, projected, S, after, step, curvature, gain(basis))
        W, S = moved, after
        energies.append(system.energy(problem, W, S))
        assert energies[-1] - energies[-2] <= bound + ROUNDING * energies[0]
        assert bound < 0 or system.name == "lion"
    assert energies[-1] < energies[0]


@pytest.mark.parametrize("method", ["osd", "osd-two-sided"])
@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_h_falls_in_every_step_of_the_optimizer_as_online_pca_moves_its_bases(system, method):
    h, problem, pca = 1e-2, PROBLEMS["quartic"], OnlinePCA(2 if "two" in method else 1)
    hyper = {"betas": system.hyper(h)["betas"], "eps": EPS, "rank": RANK, "moments": system.name}
    parameter = torch.nn.Parameter(0.5 * noise(M, N, seed=7))
    optimizer = Composed([parameter], 0.0, **METHODS[method].resolve(hyper))

    def step():
        parameter.grad = gradient(problem, parameter.detach())
        optimizer.step()

    step()  # at learning rate 0: fits the bases
    optimizer.param_groups[0]["lr"] = h
    state = optimizer.state[parameter]
    state["step"].fill_(LATE)
    projected = pca.project(state, parameter.grad)
    for name, value in system.start(projected).items():
        state[name].copy_(value)

    def snapshot():
        held = {name: value.clone() for name, value in state.items()}
        return parameter.detach().clone(), held, system.energy(problem, parameter.detach(), held)

    W, before, energy = first = snapshot()
    for _ in range(40):
        step()
        moved, after, reached = snapshot()
        # The step was lifted by the bases before they moved.
        bound = system.bound(
            h, pca.project(before, parameter.grad), before, after,
            (W - moved) / h, problem.curvature(W, moved), gain(before),
        )  # fmt: skip
        assert reached - energy <= bound + ROUNDING * first[2]
        assert bound < 0 or system.name == "lion"
        W, before, energy = moved, after, reached
    assert energy < first[2]
    for name in ("basis_left", "basis_right")[: pca.sides]:
        assert (after[name] - first[1][name]).norm() > 0.02


@pytest.mark.parametrize("h", [1e-2, 2.5e-3])
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("path", [rotating, redrawn])
def test_adafactors_h_falls_along_a_trajectory_whose_gradients_do_not_jump(path, sides, h):
    system, problem, pca = ADAFACTOR, PROBLEMS["quartic"], OnlinePCA(sides)
    W = 0.5 * noise(M, N, seed=7)
    S = system.start(pca.project(bases(path, 0, sides), gradient(problem, W)))
    first = energy = system.energy(problem, W, S)
    for t in range(40):
        basis, G = bases(path, t, sides), gradient(problem, W)
        projected = pca.project(basis, G)
        assert projected.square().sum() / S["row_sq"].sum() < 4 * system.a / system.b - 1
        after, step = advanced(system, pca, basis, S, G, h)
        moved = W - h * step
        curvature = problem.curvature(W, moved)
        bound = system.bound(h, projected, S, after, step, curvature, gain(basis))
        reached = system.energy(problem, moved, after)
        assert reached - energy <= bound + ROUNDING * first
        assert bound < 0
        W, S, energy = moved, after, reached
    assert energy < first


@pytest.mark.parametrize("sides", [1, 2])
def test_adafactors_h_rises_where_the_gradient_jumps_in_other_rows_and_columns(sides):
    """No entry of G or V there moves, and still M^2 / sqrt(V) grows, because sum(r) does."""
    basis = {"basis_left": torch.eye(M, dtype=torch.float64)[:, :RANK]}
    basis["basis_right"] = torch.eye(N, dtype=torch.float64)[:, :RANK]
    pca = OnlinePCA(sides)
    G = torch.zeros(M, N, dtype=torch.float64)
    G[1, 1] = 100.0
    X = pca.project(basis, G)
    S = {
        "exp_avg": torch.zeros_like(X),
        "row_sq": torch.ones(X.shape[0]),
        "col_sq": torch.ones(X.shape[1]),
    }
    S["exp_avg"][0, 0] = 1.0
    assert ADAFACTOR.rate(X, S) > 0
    found = flow_rate(ADAFACTOR, Linear(G), pca, basis, torch.zeros_like(G), S)
    torch.testing.assert_close(found, ADAFACTOR.rate(X, S), rtol=FLOW, atol=FLOW)
