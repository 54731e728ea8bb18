"""Subspace life against float64 singular value decompositions of every recorded gradient, and against known answers."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from subopt.optimizers import create
from subopt.optimizers.bases.decompositions import canonical_signs
from subopt.profilers.subspaces import follow as subspaces
from subopt.profilers.subspaces import layer as subspace_life
from subopt.profilers.subspaces import schedule as subspace_plan
from subopt.profilers.subspaces.curves import random_variance, supported_period
from subopt.profilers.subspaces.layer import FollowedLayer
from subopt.profilers.subspaces.schedule import Size, schedule
from subopt.profilers.timing.stopwatch import Stopwatch

_spec = importlib.util.spec_from_file_location(
    "reference_updates", Path(__file__).parents[2] / "reference" / "updates.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

LR = 1e-3
PLENTY = 2**30


class Scripted:
    """A model whose gradients are prescribed: name -> one gradient per step, None for none."""

    def __init__(self, gradients):
        self.gradients = gradients
        self.model = nn.Module()
        for name, series in gradients.items():
            like = next(G for G in series if G is not None)
            self.model.register_parameter(name, nn.Parameter(torch.zeros_like(like)))
        self.index = 0

    def step(self):
        for name, parameter in self.model.named_parameters():
            G = self.gradients[name][self.index]
            parameter.grad = None if G is None else G.clone()
        self.index += 1

    def follow(self, ranks, optimizer=None, cap_bytes=PLENTY, on_step=lambda done, total: None):
        steps = len(next(iter(self.gradients.values())))
        return subspaces.follow_subspaces(
            self.model,
            ranks,
            self.step,
            optimizer or adamw(self.model),
            steps=steps,
            cap_bytes=cap_bytes,
            watch=Stopwatch(),
            on_step=on_step,
        )


def adamw(model, lr=LR):
    return create("adamw", model, lr=lr, fallback="same")


def drifting(shape, steps=20, seed=0, noise=0.2):
    """Gradients whose strong directions turn slowly, under noise; singular values well apart."""
    generator = torch.Generator().manual_seed(seed)
    m, n = shape[0], math.prod(shape[1:])
    k = min(m, n)
    U = torch.linalg.qr(torch.randn(m, k, generator=generator))[0]
    turn = torch.matrix_exp(0.05 * _skew(torch.randn(m, m, generator=generator)))
    V = torch.linalg.qr(torch.randn(n, k, generator=generator))[0]
    sizes = 2.0 ** -torch.arange(k)
    series = []
    for _ in range(steps):
        G = (U * sizes) @ V.T + noise * sizes.min() * torch.randn(m, n, generator=generator)
        series.append((G * torch.rand((), generator=generator).add(0.5)).reshape(shape))
        U = turn @ U
    return series


def _skew(A):
    return A - A.T


def wide(G):
    A = G.double().flatten(1).numpy()
    return A if A.shape[0] <= A.shape[1] else A.T


def kept(P, G):
    return float(np.sum((P.T @ G) ** 2) / np.sum(G**2))


def left(A, rank=None):
    return np.linalg.svd(A)[0][:, :rank]


def averages(series, beta):
    """Bias-corrected exponential averages, from the definition: one weighted sum for every step."""
    for t in range(len(series)):
        weights = [beta ** (t - s) for s in range(t + 1)]
        yield sum(w * A for w, A in zip(weights, series, strict=False)) / sum(weights)


def bases(series, source, rank):
    if source == "covariance":
        return [left(C, rank) for C in averages([A @ A.T for A in series], 0.95)]
    return [left(A, rank) for A in (series if source == "gradient" else averages(series, 0.9))]


def tracked(series, start, rank, lags):
    P = canonical_signs(torch.from_numpy(left(series[start], rank).copy())).numpy()
    pca, found = reference.OnlinePca(P, "adam"), []
    for lag in range(1, lags[-1] + 1):
        G = series[start + lag]
        if lag in lags:
            found.append(kept(np.linalg.qr(pca.P)[0], G))
        pca.follow(G, LR, 0.0)
    return found


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (6, 2, 2, 2), (7, 7)], ids=str)
def test_every_number_is_the_one_of_recorded_gradients(shape):
    gradients, rank = drifting(shape), 2
    run = Scripted({"W": gradients}).follow({"W": rank})
    series = [wide(G) for G in gradients]
    m, lags, starts = len(series[0]), [1, 2, 5, 10], [4, 9]
    assert list(run.lives["W"]) == ["gradient", "momentum", "covariance"]
    for source, life in run.lives["W"].items():
        for r in (rank, *(max(1, m // d) for d in (16, 8, 4, 2))):
            fitted = bases(series, source, r)
            expected = [np.mean([kept(fitted[s], series[s + d]) for s in starts]) for d in lags]
            found = life.at_rank[str(r)] if r != rank else life.frozen
            # Bases are held, and gradients multiplied, in float32.
            assert found == pytest.approx(expected, abs=2e-6)
        assert (life.lag, life.rank, life.fits) == (lags, rank, 2)
        assert life.chance == pytest.approx(rank / m)
        own = [kept(left(series[s + 1], rank), series[s + 1]) for s in starts]
        assert life.own == pytest.approx(np.mean(own), abs=2e-6)
        assert (life.tracked is None) == (source != "gradient")
    followed = np.mean([tracked(series, s, rank, lags) for s in starts], axis=0)
    # Adam divides by the root of squared slopes of 1e-4, and float32 keeps 7 digits of them.
    assert run.lives["W"]["gradient"].tracked == pytest.approx(followed, abs=2e-5)
    assert run.missing == []


def test_stale_bases_are_those_of_gradients_so_many_steps_before_the_end():
    gradients = drifting((6, 9))
    stale = Scripted({"W": gradients}).follow({"W": 2}).stale["W"]
    assert sorted(stale) == [1, 10]
    for lag, P in stale.items():
        assert (P.dtype, P.shape, P.device.type) == (torch.float32, (6, 6), "cpu")
        overlap = np.abs(left(wide(gradients[20 - lag])).T @ P.double().numpy())
        np.testing.assert_allclose(overlap, np.eye(6), atol=2e-5)


def test_an_optimizer_without_momentum_gets_an_average_of_the_same_decay():
    gradients = {"W": drifting((6, 9)), "V": drifting((9, 5), seed=1)}
    runs = []
    for optimizer in (adamw, lambda model: torch.optim.SGD(model.parameters(), lr=LR)):
        scripted = Scripted(gradients)
        runs.append(scripted.follow({"W": 2, "V": 2}, optimizer(scripted.model)))
    for name in gradients:
        ours, theirs = (run.lives[name]["momentum"].frozen for run in runs)
        assert theirs == pytest.approx(ours, abs=2e-6)


@pytest.mark.parametrize("optimizer", [adamw, lambda model: torch.optim.AdamW(model.parameters())])
def test_an_optimizers_own_momentum_is_read_whatever_its_shape(optimizer, monkeypatch):
    gradients = {"W": drifting((6, 9)), "V": drifting((9, 2, 2, 2)), "C": drifting((4, 2, 3))}
    scripted, sizes = Scripted(gradients), []

    def followed(size, when):
        sizes.append(size)
        return FollowedLayer(size, when)

    monkeypatch.setattr(subspaces, "FollowedLayer", followed)
    scripted.follow(dict.fromkeys(gradients, 2), optimizer(scripted.model))
    assert sizes == [Size(6, 9, 2, False), Size(8, 9, 2, False), Size(4, 6, 2, False)]


def test_it_trains_as_a_plain_loop_does_and_tells_its_progress():
    torch.manual_seed(0)
    batches = torch.randn(6, 8, 5)
    weights, calls, watch = [], [], Stopwatch()
    for follows in (True, False):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        optimizer, stream = adamw(model, lr=0.01), iter(batches)

        def step(model=model, stream=stream):
            model.zero_grad(set_to_none=True)
            model(next(stream)).square().mean().backward()

        if follows:
            run = subspaces.follow_subspaces(
                model,
                {"0.weight": 2, "2.weight": 1},
                step,
                optimizer,
                steps=6,
                cap_bytes=PLENTY,
                watch=watch,
                on_step=lambda *call: calls.append(call),
            )
        else:
            for _ in batches:
                step()
                optimizer.step()
        weights.append([p.detach().clone() for p in model.parameters()])
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert calls == [(done, 6) for done in range(7)]
    assert set(watch.seconds) == {"subspaces"}
    assert set(run.lives) == {"0.weight", "2.weight"}


def test_a_fixed_subspace_keeps_the_same_share_at_every_age():
    generator = torch.Generator().manual_seed(0)
    U = torch.linalg.qr(torch.randn(12, 12, generator=generator))[0]

    def gradient():
        rows = torch.linalg.qr(torch.randn(20, 6, generator=generator))[0].T
        return U[:, :3] @ rows[:3] + 0.5 * U[:, 3:6] @ rows[3:]

    life = Scripted({"W": [gradient() for _ in range(20)]}).follow({"W": 3}).lives["W"]
    for source in ("gradient", "covariance"):
        assert life[source].frozen == pytest.approx([0.8] * 4, abs=1e-5)
        assert life[source].at_rank["6"] == pytest.approx([1.0] * 4, abs=1e-5)
        assert (life[source].period, life[source].is_noise) == (None, False)
        assert life[source].own == pytest.approx(0.8, abs=1e-5)


@pytest.mark.parametrize("angle", [0.01, 0.03, 0.06, 0.2])
def test_a_rotating_subspace_keeps_the_squared_cosine(angle):
    row = torch.randn(9, generator=torch.Generator().manual_seed(0))
    directions = [torch.tensor([math.cos(angle * t), math.sin(angle * t)]) for t in range(40)]
    gradients = [torch.outer(nn.functional.pad(u, (0, 4)), row) for u in directions]
    life = Scripted({"W": gradients}).follow({"W": 1}).lives["W"]["gradient"]
    assert life.lag == [1, 2, 5, 10, 20]
    assert life.frozen == pytest.approx([math.cos(angle * d) ** 2 for d in life.lag], abs=1e-6)
    means = np.cumsum(np.cos(angle * np.arange(1, 21)) ** 2) / np.arange(1, 21)
    supported = int((means >= 0.9 * means[0]).sum())
    # A cosine lies above its curve interpolated between lags: up to a seventh of the age between 10 and 20.
    assert life.period is None if supported == 20 else supported * 6 / 7 <= life.period <= supported


def test_online_pca_turns_with_a_subspace_that_a_frozen_basis_loses():
    row = torch.randn(9, generator=torch.Generator().manual_seed(0))
    angles = [0.03 * t for t in range(60)]
    gradients = [torch.outer(torch.tensor([math.cos(a), math.sin(a), 0.0]), row) for a in angles]
    scripted = Scripted({"W": gradients})
    life = scripted.follow({"W": 1}, adamw(scripted.model, lr=4e-3)).lives["W"]["gradient"]
    # Adam's steps of at most 0.01 a coordinate cannot quite keep up with 0.03 a step.
    assert life.tracked[-1] > 0.85 > 0.75 > life.frozen[-1]


def test_pure_noise_keeps_what_chance_does_and_is_called_noise():
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(32, 48, generator=generator) for _ in range(50)]
    signal = torch.outer(torch.ones(32), torch.ones(48))
    weak = [G + 0.25 * signal for G in noise]
    run = Scripted({"noise": noise, "weak": weak}).follow({"noise": 8, "weak": 8})
    # Of independent Gaussians the kept share is Beta distributed: variance 2 p (1 - p) / (mn + 2).
    deviation = math.sqrt(2 * 0.25 * 0.75 / (32 * 48 + 2))
    for life in run.lives["noise"].values():
        assert life.is_noise
        # Means of 4 fits at 6 lags: 24 values within 3.5 deviations fail in one seed of 100.
        assert life.frozen == pytest.approx([0.25] * len(life.lag), abs=3.5 * deviation / 2)
    assert not any(life.is_noise for life in run.lives["weak"].values())


@pytest.mark.parametrize("n", [8, 100])
def test_random_variance_is_that_of_random_subspaces(n):
    generator = torch.Generator().manual_seed(0)
    G = torch.randn(6, n, generator=generator) * torch.tensor([4.0, 2, 1, 1, 0.5, 0.5])[:, None]
    G /= G.norm()
    energy = torch.linalg.svdvals(G.double()) ** 2
    draws = torch.linalg.qr(torch.randn(20_000, 6, 2, generator=generator))[0]
    found = (draws.mT @ G).square().sum((1, 2)).var()
    expected = random_variance(6, 2, float(energy.square().sum()))
    # The variance of a variance of 20,000 draws: 1 % and, for tails unlike a Gaussian's, twice that.
    assert float(found) == pytest.approx(expected, rel=0.04)


def test_random_variance_vanishes_where_there_is_no_choice():
    assert random_variance(1, 1, 1.0) == 0
    assert random_variance(5, 5, 0.7) == 0
    assert random_variance(5, 2, 1 / 5) == 0


@pytest.mark.parametrize(
    ("lags", "curve", "period"),
    [
        ([1], [0.5], None),
        ([1, 2, 5], [0.5, 0.5, 0.5], None),
        ([1, 2, 5], [0.5, 0.0, 0.0], 1),
        ([1, 2, 5], [1.0, 0.8, 0.0], 2),  # (1 + .8) / 2 meets the share exactly
        # Interpolated at 3 and 4 along the logarithm: .8 - .8 log(1.5) / log(2.5) = .446.
        ([1, 2, 5], [1.0, 0.9, 0.9], None),
        ([2, 5], [0.5, 0.1], None),
        ([1, 2], [0.0, 0.0], None),
        ([], [], None),
    ],
)
def test_the_period_is_the_longest_whose_mean_stays_near_the_first(lags, curve, period):
    assert supported_period(lags, curve) == period


def test_the_period_between_lags_is_interpolated_along_the_logarithm():
    lags, curve = [1, 10, 100], [1.0, 0.8, 0.2]
    values = np.interp(np.log(np.arange(1, 101)), np.log(lags), curve)
    means = np.cumsum(values) / np.arange(1, 101)
    assert supported_period(lags, curve) == int((means >= 0.9).sum())


@pytest.mark.parametrize("steps", [2, 3, 5, 9, 10, 20, 37, 100, 250])
def test_every_fit_is_judged_at_every_lag_within_the_run(steps):
    when = schedule(steps)
    assert when.lags[0] == 1
    assert max(when.starts) + max(when.lags) <= steps - 1
    assert len(set(when.starts)) == len(when.starts) >= 1
    assert min(when.starts) >= 0
    assert set(when.stale.values()) == {lag for lag in (1, 10, 100) if lag <= steps}
    assert all(step + lag == steps for step, lag in when.stale.items())


def test_lags_and_fits_of_the_two_usual_lengths():
    assert (schedule(20).lags, schedule(20).starts) == ((1, 2, 5, 10), (4, 9))
    assert schedule(100).lags == (1, 2, 5, 10, 20, 50)
    assert len(schedule(100).starts) == 4


def tensors_in(value, seen):
    """Every tensor's storage that an object of ours reaches, once."""
    if isinstance(value, torch.Tensor):
        seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    elif isinstance(value, dict):
        for item in value.values():
            tensors_in(item, seen)
    elif isinstance(value, (list, tuple)):
        for item in value:
            tensors_in(item, seen)
    elif type(value).__module__.startswith("subopt."):
        tensors_in(vars(value), seen)


@pytest.mark.parametrize("has_momentum", [True, False])
@pytest.mark.parametrize("cap_bytes", [120_000, 60_000, 14_000, 3_000])
def test_what_is_held_stays_within_the_cap(cap_bytes, has_momentum, monkeypatch):
    gradients = {f"W{i}": drifting((16, 24), steps=40, seed=i) for i in range(6)}
    gradients |= {f"V{i}": drifting((12, 8), steps=40, seed=i) for i in range(2)}
    scripted, held, layers = Scripted(gradients), [], []

    def followed(*arguments):
        layers.append(FollowedLayer(*arguments))
        return layers[-1]

    def on_step(done, total):
        seen = {}
        tensors_in(layers, seen)
        held.append(sum(seen.values()))

    monkeypatch.setattr(subspaces, "FollowedLayer", followed)
    optimizer = None if has_momentum else torch.optim.SGD(scripted.model.parameters(), lr=LR)
    run = scripted.follow(dict.fromkeys(gradients, 4), optimizer, cap_bytes, on_step)
    assert max(held) <= cap_bytes
    fits = {life["gradient"].fits for life in run.lives.values()}
    if cap_bytes == 120_000:
        assert (len(run.lives), fits, run.missing) == (8, {4}, [])
        # All bases are live at once here, and the average of covariances is gone by then.
        assert max(held) > 60_000
    elif cap_bytes == 3_000:
        assert (run.lives, run.stale) == ({}, {})
        assert run.missing[0].startswith("subspace life of 8 of 8 layers:")
    elif len(run.lives) < 8:
        assert fits == {1}
        assert {name[0] for name in run.lives} == {"W", "V"}  # some of each shape
        (line,) = run.missing
        assert line.startswith(f"subspace life of {8 - len(run.lives)} of 8 layers:")
    else:
        assert fits <= {1, 2, 3}
        assert run.missing == []


def test_the_plan_counts_what_is_live_together():
    # Fits at 4 and 9 live until 14 and 19: all that is held at once is both, with the averages, at 9.
    size = Size(64, 100, 16, own_average=True)
    fit = 3 * 64 * 32 + 3 * 64 * 16 + 2
    assert size.held_bytes(schedule(20)) == 4 * (2 * fit + 64 * 64 + 64 * 100)
    # A single fit at 4 lives until 9; the first of two stale bases is there from the start.
    single = Size(64, 100, 1, own_average=False)
    fit = 3 * 64 * 32 + 3 * 64 * 1 + 2
    assert single.held_bytes(schedule(10)) == 4 * (fit + 64 * 64 + 64 * 64)


def test_layers_that_are_too_wide_to_decompose_are_left_out(monkeypatch):
    monkeypatch.setattr(subspace_plan, "WIDEST", 8)
    run = Scripted({"W": drifting((9, 12)), "V": drifting((8, 12))}).follow({"W": 2, "V": 2})
    assert set(run.lives) == {"V"}
    assert run.missing == ["subspace life of 1 of 2 layers: their short side is longer than 8"]


def test_gradients_that_say_nothing_are_neither_judged_nor_fitted():
    good = drifting((6, 9))
    bad = list(good)
    bad[2] = torch.full_like(good[2], torch.nan)
    bad[5] = torch.zeros_like(good[5])
    bad[9] = torch.full_like(good[9], torch.inf)
    bad[14] = None
    scripted = Scripted({"W": bad})
    # Plain SGD with the non-finite steps left out by hand would do; its weights are not looked at.
    life = scripted.follow({"W": 2}, torch.optim.SGD(scripted.model.parameters(), lr=0.0)).lives
    # Fits at 4 and 9, of which 9 has no gradient; of 4's judgements those at 5 and 14 are missing.
    assert life == {}
    bad[5] = good[5]
    scripted = Scripted({"W": bad})
    life = scripted.follow({"W": 2}, torch.optim.SGD(scripted.model.parameters(), lr=0.0)).lives
    found = life["W"]["gradient"]
    assert (found.lag, found.fits) == ([1, 2], 1)
    P = left(wide(good[4]), 2)
    expected = [kept(P, wide(good[4 + d])) for d in found.lag]
    assert found.frozen == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    "gradient",
    [
        torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 7)),
        torch.ones(1, 6),
        torch.ones(6, 1),
        torch.full((4, 6), 1e-30) * torch.eye(4, 6),
        torch.eye(4, 6, dtype=torch.bfloat16),
        torch.eye(4, 6, dtype=torch.float64),
    ],
    ids=["rank one", "row", "column", "tiny", "bf16", "fp64"],
)
def test_odd_gradients_are_measured(gradient):
    m = min(gradient.shape)
    life = Scripted({"W": [gradient] * 6}).follow({"W": 100}).lives["W"]
    assert set(life) == {"gradient", "momentum", "covariance"}
    for found in life.values():
        assert found.frozen == pytest.approx([1.0] * len(found.lag), abs=1e-5)
        assert (found.rank, found.chance, found.is_noise) == (m, 1.0, False)


def test_runs_too_short_to_judge_anything_say_so():
    run = Scripted({"W": drifting((6, 9), steps=1)}).follow({"W": 2})
    assert run.lives == {}
    assert list(run.stale["W"]) == [1]
    assert run.missing == ["subspace life: it takes at least 2 steps"]
    run = Scripted({"W": drifting((6, 9), steps=2)}).follow({"W": 2})
    assert run.lives["W"]["gradient"].lag == [1]


def test_a_decomposition_that_fails_costs_only_what_needed_it(monkeypatch):
    def failing(*_):
        raise torch.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(subspace_life, "left_basis", failing)
    run = Scripted({"W": drifting((6, 9))}).follow({"W": 2})
    assert set(run.lives["W"]) == {"covariance"}
    assert run.lives["W"]["covariance"].fits == 2
    assert run.stale == {}


def test_a_spectrum_that_float32_does_not_find_is_solved_for_in_float64(monkeypatch):
    gradients = drifting((6, 9))
    expected = Scripted({"W": gradients}).follow({"W": 2}).lives["W"]["gradient"].own
    solve = torch.linalg.eigvalsh

    def eigvalsh(matrix):
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("no convergence")
        return solve(matrix)

    monkeypatch.setattr(torch.linalg, "eigvalsh", eigvalsh)
    life = Scripted({"W": gradients}).follow({"W": 2}).lives["W"]["gradient"]
    assert life.own == pytest.approx(expected, rel=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_numbers_and_holds_its_bases_on_the_cpu():
    gradients = drifting((6, 9))
    on_cpu = Scripted({"W": gradients}).follow({"W": 2})
    on_gpu = Scripted({"W": [G.cuda() for G in gradients]}).follow({"W": 2})
    for source, life in on_cpu.lives["W"].items():
        found = on_gpu.lives["W"][source]
        assert found.frozen == pytest.approx(life.frozen, abs=1e-5)
        assert found.own == pytest.approx(life.own, abs=1e-5)
    expected = on_cpu.lives["W"]["gradient"].tracked
    assert on_gpu.lives["W"]["gradient"].tracked == pytest.approx(expected, abs=1e-4)
    assert all(P.device.type == "cpu" for P in on_gpu.stale["W"].values())
