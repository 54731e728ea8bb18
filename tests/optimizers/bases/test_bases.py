"""Bases by themselves: orthonormal, diagonalising, holding the energy they should, and never failing a run."""

import pytest
import torch

from subopt.optimizers import METHODS, Composed
from subopt.optimizers.bases.decompositions import (
    canonical_signs,
    gram_basis,
    left_basis,
    matched_signs,
    two_sided_bases,
)
from subopt.optimizers.bases.online_pca import orthonormalised
from subopt.optimizers.composition import update_for
from subopt.optimizers.updates.basis import is_refresh_due, resolve_rank

REFRESHING = [
    name
    for name, method in METHODS.items()
    if "refreshes" in method.capabilities and method.fixed.get("basis", "identity") != "identity"
]


def gradient(m=8, n=13, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    decay = torch.diag(0.5 ** torch.arange(m, dtype=torch.float64))
    return (decay @ torch.randn(m, n, generator=generator, dtype=torch.float64)).to(dtype)


def assert_orthonormal(P, atol=1e-12):
    torch.testing.assert_close(P.mT @ P, torch.eye(P.shape[1], dtype=P.dtype), rtol=0, atol=atol)


@pytest.mark.parametrize("rank", [None, 1, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_left_basis_is_orthonormal_and_holds_the_top_energy(rank, dtype):
    G = gradient(dtype=dtype)
    P = left_basis(G, rank)
    assert P.shape == (8, rank or 8)
    assert_orthonormal(P)
    energies = torch.linalg.svdvals(G.double()) ** 2
    captured = (P.mT @ G.double()).square().sum(1)
    torch.testing.assert_close(captured, energies[: P.shape[1]], rtol=1e-9, atol=1e-12)


def test_one_sided_basis_diagonalises_the_row_covariance():
    G = gradient()
    rotated = left_basis(G).mT @ G @ G.mT @ left_basis(G)
    torch.testing.assert_close(rotated, torch.diag(rotated.diagonal()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [None, 3])
def test_two_sided_bases_diagonalise_the_gradient(rank):
    G = gradient()
    P, Q = two_sided_bases(G, rank)
    assert (P.shape, Q.shape) == (((8, 8), (13, 13)) if rank is None else ((8, 3), (13, 3)))
    assert_orthonormal(P)
    assert_orthonormal(Q)
    rotated = P.mT @ G @ Q
    k = P.shape[1]
    diagonal = torch.zeros_like(rotated)
    diagonal[range(k), range(k)] = torch.linalg.svdvals(G)[:k]
    torch.testing.assert_close(rotated, diagonal, rtol=0, atol=1e-12)


@pytest.mark.parametrize("degenerate", [torch.zeros(4, 6), torch.ones(4, 6), torch.eye(4, 6)])
def test_rank_deficient_gradients_still_give_a_basis(degenerate):
    assert_orthonormal(left_basis(degenerate))
    P, Q = two_sided_bases(degenerate)
    assert_orthonormal(P)
    assert_orthonormal(Q)


def test_truncated_bases_hold_no_larger_matrix_alive():
    for basis in (left_basis(gradient(), 2), *two_sided_bases(gradient(), 2)):
        assert basis.untyped_storage().nbytes() == basis.numel() * basis.element_size()


def test_signs_are_canonical_first_and_continuous_later():
    P = left_basis(gradient())
    flipped = P * torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1], dtype=P.dtype)
    torch.testing.assert_close(canonical_signs(flipped), canonical_signs(P))
    assert (canonical_signs(P).gather(0, P.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(matched_signs(flipped, P), P)


def test_schedule_refreshes_at_one_then_every_period_and_early_at_powers_of_two():
    late = [t for t in range(1, 26) if is_refresh_due(t, 10, early=False)]
    early = [t for t in range(1, 26) if is_refresh_due(t, 10, early=True)]
    assert late == [1, 11, 21]
    assert early == [1, 2, 4, 8, 11, 21]


@pytest.mark.parametrize(
    ("rank", "expected"), [(None, None), (0.25, 3), (1.0, 12), (5, 5), (99, 12)]
)
def test_rank_is_a_share_or_a_count_and_never_above_the_short_side(rank, expected):
    assert resolve_rank(rank, 12) == expected


def _step(name, gradients, **options):
    parameter = torch.nn.Parameter(torch.ones(6, 10))
    optimizer = Composed([parameter], 1e-2, **METHODS[name].resolve(options))
    for G in gradients:
        parameter.grad = G
        optimizer.step()
    return parameter, optimizer.state[parameter], optimizer


# 1e20 is finite, but its square is not: it would leave infinite second moments behind.
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e20, -1e20])
@pytest.mark.parametrize("name", METHODS)
def test_a_nonfinite_gradient_is_counted_and_poisons_nothing(name, bad):
    broken = torch.randn(6, 10)
    broken[2, 3] = bad
    parameter, state, optimizer = _step(
        name, [broken, torch.randn(6, 10), broken, torch.randn(6, 10)]
    )
    assert torch.isfinite(parameter).all()
    assert all(torch.isfinite(value).all() for value in state.values())
    assert int(state["nonfinite_gradients"]) == 2
    assert optimizer.diagnostics()["nonfinite_gradients"] == 2
    assert not torch.equal(parameter, torch.ones(6, 10))


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
@pytest.mark.parametrize("name", METHODS)
def test_a_nonfinite_gradient_moves_as_a_zero_one_does(name, shape):
    def stepped(third):
        gradients = [gradient(*shape, seed=seed, dtype=torch.float32) for seed in range(4)]
        gradients[2] = third
        parameter = torch.nn.Parameter(torch.ones(shape))
        optimizer = Composed([parameter], 1e-2, **METHODS[name].resolve({}))
        for G in gradients:
            parameter.grad = G
            optimizer.step()
        return parameter, optimizer.state[parameter]

    broken = torch.ones(shape)
    broken[1, 2] = float("nan")
    moved, state = stepped(broken)
    expected, expected_state = stepped(torch.zeros(shape))
    assert int(state.pop("nonfinite_gradients")) == 1
    assert int(expected_state.pop("nonfinite_gradients")) == 0
    assert torch.equal(moved, expected)
    for key, value in expected_state.items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("rotations", ["full", "reduced"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("shape", [(96, 160), (160, 96), (16, 16), (96, 8, 4, 5)])
def test_a_projection_is_not_finite_where_the_gradient_is_not(shape, bad, rotations):
    """Also where the basis has exact zeros: a kernel that left those out would let the gradient through."""
    parameter = torch.nn.Parameter(torch.ones(shape))
    options = {"rank": 4, "early_refresh": False, "rotations": rotations}
    optimizer = Composed([parameter], 1e-2, **METHODS["galore"].resolve(options))
    first = torch.zeros(shape)
    for k in range(4):
        first.view(shape[0], -1)[k, k] = 4.0 - k
    parameter.grad = first
    optimizer.step()
    state = optimizer.state[parameter]
    assert (state["basis_left"] == 0).sum() > state["basis_left"].numel() // 2
    parameter.grad = torch.ones(shape)
    parameter.grad.view(shape[0], -1)[-1, -1] = bad  # where the basis has nothing
    optimizer.step()
    assert int(state["nonfinite_gradients"]) == 1
    assert torch.isfinite(parameter).all()
    assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize("t", range(1, 8))
def test_galore_sees_a_gradient_only_when_it_fits_a_basis(t):
    resolved = METHODS["galore"].resolve({"period": 6, "early_refresh": False})
    update, options = update_for(resolved, (6, 10))
    state = {"refreshes": torch.tensor(min(t - 1, 1))}
    assert update.basis.sees_gradient(state, t, options) == (t in {1, 7})


def test_a_basis_that_could_not_be_fitted_is_fitted_at_the_next_step():
    nan = torch.full((6, 10), float("nan"))
    _, state, _ = _step("adadiag", [nan, gradient(6, 10, dtype=torch.float32)], early_refresh=False)
    assert (int(state["kept_bases"]), int(state["refreshes"])) == (1, 1)
    assert not torch.equal(state["basis_left"], torch.eye(6))


@pytest.mark.parametrize("name", METHODS)
def test_zero_and_tiny_gradients_give_finite_steps(name):
    tiny, tinier = torch.full((6, 10), 1e-20), torch.full((6, 10), 1e-25)
    lonely = torch.zeros(6, 10)
    lonely[0, 0] = 1.0
    for gradients in (
        [torch.zeros(6, 10)] * 3,
        [tiny] * 3,
        [tinier] * 3,
        [lonely, torch.zeros(6, 10), lonely],
    ):
        parameter, state, _ = _step(name, gradients)
        assert torch.isfinite(parameter).all()
        assert all(torch.isfinite(value).all() for value in state.values())


def test_a_zero_gradient_leaves_an_online_pca_basis_alone():
    first = gradient(6, 10, dtype=torch.float32)
    _, before, _ = _step("osd", [first], rank=2)
    _, after, _ = _step("osd", [first, torch.zeros(6, 10), torch.zeros(6, 10)], rank=2)
    torch.testing.assert_close(after["basis_left"], before["basis_left"], rtol=0, atol=0)


def _fail(*_args, **_kwargs):
    raise torch.linalg.LinAlgError("did not converge")


def test_eigh_and_svd_stand_in_for_each_other(monkeypatch):
    G = gradient()
    P, Q = two_sided_bases(G)
    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "svd", _fail)
        P_eigh, Q_eigh = two_sided_bases(G)
    torch.testing.assert_close(canonical_signs(P_eigh), canonical_signs(P), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        Q_eigh[:, :8] @ Q_eigh[:, :8].mT, Q[:, :8] @ Q[:, :8].mT, atol=1e-9, rtol=0
    )
    expected = left_basis(G)
    monkeypatch.setattr(torch.linalg, "eigh", _fail)
    torch.testing.assert_close(
        canonical_signs(left_basis(G)), canonical_signs(expected), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("name", REFRESHING)
def test_a_failed_decomposition_keeps_the_old_basis_and_warns(name, monkeypatch):
    first, second = gradient(6, 10, 1, torch.float32), gradient(6, 10, 2, torch.float32)
    options = {"period": 1, "early_refresh": False}
    parameter, state, optimizer = _step(name, [first], **options)
    before = state["basis_left"].clone()
    for solver in ("eigh", "svd", "qr", "householder_product"):
        monkeypatch.setattr(torch.linalg, solver, _fail)
    parameter.grad = second
    with pytest.warns(UserWarning, match="a basis was kept"):
        optimizer.step()
    assert torch.equal(state["basis_left"], before)
    assert int(state["kept_bases"]) == 1
    assert torch.isfinite(parameter).all()


def test_covariance_source_diagonalises_the_average_not_the_last_gradient():
    gradients = [gradient(6, 10, seed) for seed in range(5)]
    parameter = torch.nn.Parameter(torch.zeros(6, 10, dtype=torch.float64))
    options = METHODS["adadiag++"].resolve({
        "source": "covariance",
        "period": 4,
        "betas": (0.9, 0.5),
    })
    optimizer = Composed([parameter], 1e-2, **options)
    C, D = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(10, 10, dtype=torch.float64)
    for G in gradients:
        C, D = 0.5 * C + 0.5 * G @ G.mT, 0.5 * D + 0.5 * G.mT @ G
        parameter.grad = G
        optimizer.step()
    state = optimizer.state[parameter]
    for basis, average in ((state["basis_left"], C), (state["basis_right"], D)):
        rotated = basis.mT @ average @ basis
        torch.testing.assert_close(rotated, torch.diag(rotated.diagonal()), rtol=0, atol=1e-12)
        torch.testing.assert_close(
            canonical_signs(basis)[:, :6],
            canonical_signs(gram_basis(average))[:, :6],
            rtol=0,
            atol=1e-6,
        )


def test_reset_restarts_moments_and_their_clock():
    options = {"period": 3, "on_refresh": "reset", "early_refresh": False}
    gradients = [gradient(6, 10, seed, torch.float32) for seed in range(4)]
    _, state, _ = _step("adadiag", gradients, **options)
    projected = state["basis_left"].mT @ gradients[-1]
    torch.testing.assert_close(state["exp_avg"], projected)
    assert (int(state["restart"]), int(state["step"])) == (3, 4)


@pytest.mark.parametrize(("basis_optimizer", "ratio"), [("adam", 5.0), ("sgd", 200.0)])
def test_online_pca_follows_a_moving_subspace_and_stays_nearly_orthonormal(basis_optimizer, ratio):
    generator = torch.Generator().manual_seed(0)
    left = orthonormalised(torch.randn(16, 3, generator=generator))
    parameter = torch.nn.Parameter(torch.zeros(16, 24))
    given = {"rank": 3, "basis_optimizer": basis_optimizer, "basis_lr_ratio": ratio}
    optimizer = Composed([parameter], 1e-3, **METHODS["osd"].resolve(given))
    for _ in range(400):
        left = orthonormalised(left + 0.01 * torch.randn(16, 3, generator=generator))
        parameter.grad = left @ torch.randn(3, 24, generator=generator)
        optimizer.step()
    P = orthonormalised(optimizer.state[parameter]["basis_left"])
    kept = (P.mT @ parameter.grad).square().sum() / parameter.grad.square().sum()
    start = orthonormalised(torch.randn(16, 3, generator=torch.Generator().manual_seed(0)))
    frozen = (start.mT @ parameter.grad).square().sum() / parameter.grad.square().sum()
    assert kept > 0.95 > 0.8 > frozen
    assert optimizer.diagnostics()["max_orthonormality_error"] < 0.5


def _moved(ratio, **options):
    gradients = [gradient(6, 10, seed, torch.float32) for seed in range(2)]
    _, state, optimizer = _step("osd", gradients, rank=3, basis_lr_ratio=ratio, **options)
    return state["basis_left"].clone(), optimizer


@pytest.mark.parametrize("basis_optimizer", ["adam", "sgd"])
def test_the_rate_of_the_basis_is_its_ratio_times_the_weights_rate(basis_optimizer):
    # The second of the gradients is the first that moves P: by a multiple of the rate.
    bases = {ratio: _moved(ratio, basis_optimizer=basis_optimizer)[0] for ratio in (0.0, 1.0, 5.0)}
    ends = {ratio: basis - bases[0.0] for ratio, basis in bases.items()}
    assert ends[1.0].abs().max() > 1e-4
    torch.testing.assert_close(ends[5.0], 5 * ends[1.0], rtol=0, atol=1e-6)


def test_a_capped_rate_of_the_basis_is_the_cap_and_is_reported():
    capped, optimizer = _moved(5.0, basis_lr_cap=0.02)  # of 0.05
    as_low, _ = _moved(2.0)
    torch.testing.assert_close(capped, as_low, rtol=0, atol=1e-6)
    assert optimizer.diagnostics()["capped_basis_lrs"] == 1
    assert "basis_lr_cap: 0.02" in repr(optimizer)
    assert _moved(1.0, basis_lr_cap=0.02)[1].diagnostics()["capped_basis_lrs"] == 0


def test_retraction_restores_orthonormality():
    gradients = [gradient(6, 10, seed, torch.float32) for seed in range(6)]
    _, _, optimizer = _step("osd", gradients, rank=3, retract_every=3)
    assert optimizer.diagnostics()["max_orthonormality_error"] < 1e-5
