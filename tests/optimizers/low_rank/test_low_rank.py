"""The pure functions of dynamical low-rank training."""

import pytest
import torch

from subopt.errors import OptionError
from subopt.optimizers.low_rank.convert import break_even_rank, largest_rank, starting_rank
from subopt.optimizers.low_rank.integrator import (
    INTEGRATORS,
    LowRankOptions,
    augmented,
    augmented_moments,
    carried,
    galerkin_start,
    kept_rank,
    orth,
    truncated,
    unified_momentum,
)

YES = torch.tensor(True)
RANKS = {"rank": 0.5, "max_rank": None, "rank_mode": "adaptive"}


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def factors(m=9, n=7, q=3):
    return orth(random(m, q)), random(q, q, seed=1), orth(random(n, q, seed=2))


def test_orth_spans_its_columns_and_leaves_an_orthonormal_basis_alone():
    A = random(9, 4)
    Q = orth(A)
    torch.testing.assert_close(Q.mT @ Q, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(Q @ (Q.mT @ A), A)
    torch.testing.assert_close(orth(Q), Q)


@pytest.mark.parametrize("step", [random(9, 3, seed=5), torch.zeros(9, 3).double()], ids=str)
def test_an_augmented_basis_begins_with_the_old_one_and_holds_the_step(step):
    U, _, _ = factors()
    Ua = augmented(U, step)
    assert Ua.shape == (9, 6)
    torch.testing.assert_close(Ua.mT @ Ua, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(Ua[:, :3], U)
    torch.testing.assert_close(Ua @ (Ua.mT @ step), step)


def test_an_augmented_basis_is_never_wider_than_it_is_tall():
    U = orth(random(5, 3))
    assert augmented(U, random(5, 3, seed=3)).shape == (5, 5)


def test_the_galerkin_start_in_augmented_bases_is_the_same_matrix():
    U, S, V = factors()
    Ua, Va = augmented(U, random(9, 3, seed=3)), augmented(V, random(7, 3, seed=4))
    S0, M, N = galerkin_start((U, S, V), Ua, Va)
    torch.testing.assert_close(Ua @ S0 @ Va.mT, U @ S @ V.mT)
    torch.testing.assert_close(M, Ua.mT @ U)
    torch.testing.assert_close(N, Va.mT @ V)


def kept(values, tau, truncation="relative", limit=100):
    return int(kept_rank(torch.tensor(values, dtype=torch.float64), tau, truncation, limit))


def test_the_cut_tail_is_the_longest_whose_norm_is_at_most_theta():
    sigma = [4.0, 2.0, 0.4, 0.3]  # the last two together: 0.5
    assert kept(sigma, 0.5, "absolute") == 2
    assert kept(sigma, 0.499, "absolute") == 3
    assert kept(sigma, 0.29, "absolute") == 4
    norm = sum(value**2 for value in sigma) ** 0.5
    assert kept(sigma, 0.5001 / norm) == 2
    assert kept(sigma, 0.4999 / norm) == 3


def test_at_least_one_direction_stays_and_at_most_the_limit():
    assert kept([1.0, 0.9], 50.0) == 1
    assert kept([1.0, 0.9], 50.0, "absolute") == 1
    assert kept([1.0] * 8, 0.0, limit=5) == 5


def test_a_flat_spectrum_keeps_all_its_directions():
    assert kept([1.0] * 8, 0.1) == 8
    assert kept([1.0] * 8, 0.36) == 7  # one of eight weighs 0.3536 of the norm


def test_zeros_and_their_rounding_are_cut_at_tau_zero_and_small_matrices_are_not():
    assert kept([3.0, 1.0, 1e-16, 0.0], 0.0) == 2
    assert kept([3e-30, 1e-30], 0.0) == 2
    sigma = torch.tensor([3e-30, 1e-30])
    assert int(kept_rank(sigma, 0.0, "relative", 9)) == 2  # squares underflow float32
    assert int(kept_rank(torch.zeros(3), 0.1, "relative", 9)) == 1


def test_truncation_error_is_at_most_theta_and_an_unusable_step_gives_nothing():
    S = random(6, 8)
    P, sigma, Q = truncated(S, 0.3, "relative", 6, YES)
    assert P.shape[1] < 6
    error = torch.linalg.matrix_norm(S - P @ torch.diag(sigma) @ Q.mT)
    assert error <= 0.3 * torch.linalg.matrix_norm(S)
    assert truncated(S, 0.3, "relative", 6, ~YES) is None


@pytest.mark.parametrize(
    ("weight", "torch_options"), [(0.0, {}), (1.0, {"nesterov": True})], ids=str
)
def test_unified_momentum_is_torchs_under_a_schedule(weight, torch_options):
    state, W = {"exp_avg": torch.zeros(4, 3).double()}, random(4, 3)
    other = torch.nn.Parameter(W.clone())
    optimizer = torch.optim.SGD([other], lr=1.0, momentum=0.9, **torch_options)
    hyper = {"betas": (0.9, 0.999), "nesterov_weight": weight}
    for t in range(1, 9):
        lr = optimizer.param_groups[0]["lr"] = 0.1 / t
        G = random(4, 3, seed=t)
        W = W - lr * unified_momentum(G, state, t, hyper)
        other.grad = G.clone()
        optimizer.step()
    torch.testing.assert_close(W, other.detach(), rtol=1e-12, atol=1e-12)


def test_unified_momentum_between_the_two_and_at_its_largest_weight():
    state, G = {"exp_avg": torch.full((1,), 2.0)}, torch.tensor([3.0])
    step = unified_momentum(G, state, 1, {"betas": (0.5, 0), "nesterov_weight": 2.0})
    # X = 0.5 * 2 + 3 = 4; 1 - 2 + 2 * 0.5 = 0: at 1 / (1 - mu) only the gradient is left
    assert state["exp_avg"].item() == 4.0
    assert step.item() == 6.0
    with pytest.raises(OptionError, match=r"Invalid nesterov_weight: 2\.5.* at most 1 / "):
        LowRankOptions(betas=(0.5, 0.9), nesterov_weight=2.5)


def test_moments_are_carried_by_the_map_and_its_square():
    layout = INTEGRATORS["adam"].slots((0, 0), {})
    moments = {"exp_avg": random(3, 4), "exp_avg_sq": random(3, 4, seed=1).square()}
    R, C = random(2, 3, seed=2), random(5, 4, seed=3)
    moved = carried(moments, layout, R, C)
    torch.testing.assert_close(moved["exp_avg"], R @ moments["exp_avg"] @ C.mT)
    torch.testing.assert_close(
        moved["exp_avg_sq"], R.square() @ moments["exp_avg_sq"] @ C.square().mT
    )
    assert (moved["exp_avg_sq"] >= 0).all()
    only = carried(moments, layout, None, C)
    torch.testing.assert_close(only["exp_avg"], moments["exp_avg"] @ C.mT)
    assert carried({}, {}, R, C) == {}


def test_augmented_moments_are_the_lifted_gradient_in_the_tangent_space():
    """With moments of one gradient G they are Ua^T (G P_V - P_U G P_V + P_U G) Va: equation 3.6."""
    U, _, V = factors()
    Ua, Va = augmented(U, random(9, 3, seed=3)), augmented(V, random(7, 3, seed=4))
    G = random(9, 7, seed=6)
    moments = {
        "U": {"exp_avg": G @ V},
        "V": {"exp_avg": G.mT @ U},
        "S": {"exp_avg": U.mT @ G @ V},
    }
    layout = INTEGRATORS["momentum"].slots((0, 0), {})
    X = augmented_moments(moments, layout, Ua, Va)["exp_avg"]
    P_U, P_V = U @ U.mT, V @ V.mT
    torch.testing.assert_close(X, Ua.mT @ (G @ P_V - P_U @ G @ P_V + P_U @ G) @ Va)


def test_augmented_second_moments_are_not_negative():
    U, _, V = factors()
    Ua, Va = augmented(U, random(9, 3, seed=3)), augmented(V, random(7, 3, seed=4))
    sizes = {"U": (9, 3), "S": (3, 3), "V": (7, 3)}
    moments = {
        name: {key: random(*size).square() for key in ("exp_avg", "exp_avg_sq")}
        for name, size in sizes.items()
    }
    X = augmented_moments(moments, INTEGRATORS["adam"].slots((0, 0), {}), Ua, Va)
    assert (X["exp_avg_sq"] >= 0).all()
    torch.testing.assert_close(X["exp_avg_sq"][:3, :3], moments["S"]["exp_avg_sq"])
    assert (X["exp_avg_sq"][:3, 3:] > 0).all()
    assert (X["exp_avg_sq"][3:, 3:] == 0).all()


@pytest.mark.parametrize(("m", "n"), [(2, 2), (2, 3), (10, 784), (64, 64), (768, 3072)])
def test_the_break_even_rank_is_the_last_that_is_no_larger_than_dense(m, n):
    q = break_even_rank(m, n)
    assert q == 1 or q * (m + n) + q * q <= m * n
    assert (q + 1) * (m + n) + (q + 1) ** 2 > m * n


def test_ranks_follow_their_options():
    shape = (64, 16, 2, 2)  # 64 x 64: break-even at 26
    assert starting_rank(shape, RANKS | {"rank": 8}) == 8
    assert starting_rank(shape, RANKS | {"rank": 0.25}) == 16
    assert starting_rank(shape, RANKS | {"rank": 0.9}) == 26
    assert starting_rank(shape, RANKS | {"rank": 64}) == 26
    for full in (1.0, None):
        assert starting_rank(shape, RANKS | {"rank": full}) == 64
    assert starting_rank(shape, RANKS | {"max_rank": 10}) == 10
    assert starting_rank(shape, RANKS | {"rank": 0.9, "max_rank": 1.0}) == 58
    assert largest_rank(shape, RANKS | {"rank": 8}) == 26
    assert largest_rank(shape, RANKS | {"rank": 8, "max_rank": 12}) == 12
    assert largest_rank(shape, RANKS | {"rank": 8, "rank_mode": "fixed"}) == 8
