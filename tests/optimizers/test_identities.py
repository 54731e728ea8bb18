"""Identities that must hold: torch's AdamW, identity bases, full rank, the closed form, changes of basis."""

import pytest
import torch

from subopt.optimizers import METHODS, Composed
from subopt.optimizers.bases.online_pca import orthonormalised, pca_gradient
from subopt.optimizers.state.layout import transport
from subopt.optimizers.updates.elementwise import MOMENTS


def run(parameters, make, steps=12, seed=0):
    """Step an optimizer on a fixed sequence of gradients and return the parameters."""
    copies = [torch.nn.Parameter(parameter.clone()) for parameter in parameters]
    optimizer = make(copies)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for copy in copies:
            copy.grad = torch.randn(copy.shape, generator=generator, dtype=torch.float64).to(
                copy.dtype
            )
        optimizer.step()
    return copies


def starts(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    shapes = [(6, 10), (10, 6), (7, 7), (1, 5), (5,), (), (4, 3, 2, 2)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_is_torchs_adamw_over_50_steps(dtype, weight_decay):
    options = METHODS["adamw"].resolve()
    ours = run(starts(dtype), lambda p: Composed(p, 1e-2, weight_decay=weight_decay, **options), 50)
    torchs = run(starts(dtype), lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=weight_decay), 50)
    for mine, theirs in zip(ours, torchs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_full_rank_galore_at_scale_one_is_adadiag_in_keep_mode():
    schedule = {"period": 4, "on_refresh": "keep", "source": "gradient"}
    galore = METHODS["galore"].resolve({"rank": 1.0, "scale": 1.0, **schedule})
    adadiag = METHODS["adadiag"].resolve(schedule)
    for left, right in zip(
        run(starts(), lambda p: Composed(p, 1e-2, **galore)),
        run(starts(), lambda p: Composed(p, 1e-2, **adadiag)),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("basis", ["one-sided", "two-sided"])
@pytest.mark.parametrize("moments", MOMENTS)
def test_identity_bases_give_the_unrotated_parent(basis, moments, monkeypatch):
    def eye(shape):
        return torch.eye(shape, dtype=torch.float64)

    monkeypatch.setattr("subopt.optimizers.bases.periodic.left_basis", lambda G, rank: eye(len(G)))
    monkeypatch.setattr(
        "subopt.optimizers.bases.periodic.two_sided_bases",
        lambda G, rank: (eye(len(G)), eye(G.shape[1])),
    )
    rotated = run(starts(), lambda p: Composed(p, 1e-2, basis=basis, moments=moments, period=3))
    plain = run(starts(), lambda p: Composed(p, 1e-2, moments=moments))
    for left, right in zip(rotated, plain, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


def test_every_elementwise_step_commutes_with_the_sign_of_a_basis_vector(monkeypatch):
    from subopt.optimizers.bases import decompositions

    def flipped(G, rank=None):
        return -decompositions.left_basis(G, rank)

    options = METHODS["adadiag"].resolve({"period": 3})
    plain = run(starts(), lambda p: Composed(p, 1e-2, **options))
    monkeypatch.setattr("subopt.optimizers.bases.periodic.left_basis", flipped)
    monkeypatch.setattr("subopt.optimizers.bases.periodic.canonical_signs", lambda P: P)
    for left, right in zip(
        plain, run(starts(), lambda p: Composed(p, 1e-2, **options)), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("orthonormal", [True, False])
@pytest.mark.parametrize(("m", "n", "r"), [(8, 12, 3), (8, 8, 8), (5, 30, 1)])
def test_closed_form_of_online_pca_is_autograds(m, n, r, orthonormal):
    generator = torch.Generator().manual_seed(2)
    G = torch.randn(m, n, generator=generator, dtype=torch.float64)
    P = torch.randn(m, r, generator=generator, dtype=torch.float64)
    P = (orthonormalised(P) if orthonormal else P).requires_grad_()
    Gn = G / G.norm()
    excess = P.mT @ P - torch.eye(r, dtype=torch.float64)
    loss = (P @ P.mT @ Gn - Gn).square().sum() + 0.1 * excess.square().sum()
    (expected,) = torch.autograd.grad(loss, P)
    torch.testing.assert_close(pca_gradient(P.detach(), G, 0.1), expected, rtol=0, atol=1e-10)


def test_transport_rotates_first_moments_and_squares_the_map_for_second_ones():
    generator = torch.Generator().manual_seed(4)
    R, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))
    S, _ = torch.linalg.qr(torch.randn(7, 7, generator=generator, dtype=torch.float64))
    M = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    V = torch.rand(5, 7, generator=generator, dtype=torch.float64)
    moments = {"exp_avg": M.clone(), "exp_avg_sq": V.clone()}
    layout = MOMENTS["adam"].slots((5, 7), {})
    transport(moments, layout, {"row": R, "column": S})
    torch.testing.assert_close(moments["exp_avg"], R @ M @ S.mT)
    variances = torch.einsum("ia,jb,ab->ij", R**2, S**2, V)
    torch.testing.assert_close(moments["exp_avg_sq"], variances)
    torch.testing.assert_close(moments["exp_avg_sq"].sum(), V.sum())


def test_transport_by_an_order_is_the_rotation_by_its_permutation_matrix():
    rows, columns = torch.tensor([2, 0, 1]), torch.tensor([1, 3, 0, 2])
    moments = {"exp_avg": torch.randn(3, 4), "exp_avg_sq": torch.rand(3, 4)}
    layout = MOMENTS["adam"].slots((3, 4), {})
    by_order, by_matrix = ({k: v.clone() for k, v in moments.items()} for _ in range(2))
    transport(by_order, layout, {"row": rows, "column": columns})
    transport(by_matrix, layout, {"row": torch.eye(3)[rows], "column": torch.eye(4)[columns]})
    torch.testing.assert_close(by_order, by_matrix, rtol=0, atol=0)
    assert torch.equal(by_order["exp_avg"], moments["exp_avg"][rows][:, columns])


def test_rotation_makes_adadiag_with_a_changing_basis_lose_no_first_moment():
    """With `rotate`, P M is the plain average of gradients whatever the bases were."""
    options = METHODS["adadiag"].resolve({"period": 3, "on_refresh": "rotate"})
    parameter = torch.nn.Parameter(torch.zeros(6, 10, dtype=torch.float64))
    optimizer = Composed([parameter], 1e-2, **options)
    generator = torch.Generator().manual_seed(0)
    plain = torch.zeros(6, 10, dtype=torch.float64)
    for _ in range(10):
        parameter.grad = torch.randn(6, 10, generator=generator, dtype=torch.float64)
        plain = 0.9 * plain + 0.1 * parameter.grad
        optimizer.step()
    state = optimizer.state[parameter]
    lifted = state["basis_left"] @ state["exp_avg"]
    torch.testing.assert_close(lifted * (1 - 0.9**10), plain, rtol=0, atol=1e-12)
