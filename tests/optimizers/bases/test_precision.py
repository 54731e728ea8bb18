"""Rotations at reduced precision: within their stated error, for products with bases alone, and nothing after them."""

import pytest
import torch

from subopt.optimizers import METHODS, Composed, composition
from subopt.optimizers.updates.precision import PRECISIONS, rotations

ROTATED = [name for name, method in METHODS.items() if "rotations" in method.tunable]
M, N = 96, 160
BACKEND = torch.backends.mkldnn.matmul


def stepped(name, dtype=torch.float32, steps=3, **options):
    """Weights and bases after some steps that refresh no basis but the first."""
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(M, N, dtype=dtype))
    resolved = METHODS[name].resolve({"rank": 8} if "rank" in METHODS[name].tunable else {})
    optimizer = Composed([parameter], 1e-3, **composition.resolved(options, resolved))
    for _ in range(steps):
        parameter.grad = torch.randn(M, N, generator=generator).to(dtype)
        optimizer.step()
    return parameter.detach(), optimizer.state[parameter]


@pytest.fixture
def torchs_setting():
    before = BACKEND.fp32_precision
    yield BACKEND
    BACKEND.fp32_precision = before


def relative(error, whole):
    return float(torch.linalg.vector_norm(error) / torch.linalg.vector_norm(whole))


def test_every_method_with_a_basis_has_the_option():
    with_basis = {
        name
        for name, method in METHODS.items()
        if method.fixed.get("basis", "identity") != "identity"
    }
    assert set(ROTATED) == with_basis
    assert len(ROTATED) > 8


@pytest.mark.parametrize("shape", [(64, 512, 1376), (128, 300, 300)])
def test_a_product_is_within_the_stated_error(shape):
    r, m, n = shape
    generator = torch.Generator().manual_seed(1)
    G = torch.randn(m, n, generator=generator)
    P, _ = torch.linalg.qr(torch.randn(m, r, generator=generator))
    exact = P.double().mT @ G.double()
    with rotations("reduced", G.device):
        reduced = P.mT @ G
    with rotations("full", G.device):
        full = P.mT @ G
    assert relative(reduced - exact, exact) < 2**-8
    assert relative(full - exact, exact) < 1e-6
    assert torch.equal(P.mT @ G, full)


@pytest.mark.parametrize("before", ["none", "ieee", "bf16"])
def test_torchs_own_setting_comes_back_even_after_an_error(torchs_setting, before):
    torchs_setting.fp32_precision = before

    def fail_inside():
        with rotations("reduced", torch.device("cpu")):
            assert BACKEND.fp32_precision == "bf16"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert BACKEND.fp32_precision == before


@pytest.mark.parametrize("device", ["meta", "mps"])
def test_a_device_without_reduced_products_is_left_alone(device):
    before = BACKEND.fp32_precision
    with rotations("reduced", torch.device(device)):
        assert BACKEND.fp32_precision == before


@pytest.mark.parametrize("name", ROTATED)
def test_steps_are_those_at_full_precision_but_for_the_error(name):
    """With plain moments, which do not divide: Adam scales what is left of a small coordinate to whole units."""
    moments = {"moments": "momentum", "betas": (0.9, 0.999), "eps": 1e-8}
    before = BACKEND.fp32_precision
    full, state = stepped(name, **moments)
    reduced, reduced_state = stepped(name, rotations="reduced", **moments)
    # Two roundings of each product, of a projection and of a lift, and two sides at most.
    assert relative(reduced - full, full) < 4 * 2**-8
    for key, value in state.items():
        assert reduced_state[key].dtype == value.dtype
    assert BACKEND.fp32_precision == before


@pytest.mark.parametrize("tall", [False, True])
def test_weights_that_a_product_is_added_to_are_not_rounded(tall):
    """They are larger than a step by far: rounded to bfloat16 they would lose more than it brings."""
    shape = (N, M) if tall else (M, N)
    generator = torch.Generator().manual_seed(2)
    weights, G = (torch.randn(shape, generator=generator) for _ in range(2))
    moved = []
    for precision in PRECISIONS:
        parameter = torch.nn.Parameter(weights.clone())
        options = METHODS["galore"].resolve({"rank": 32, "rotations": precision})
        optimizer = Composed([parameter], 1e-4, **options)
        parameter.grad = G.clone()
        optimizer.step()
        moved.append(parameter.detach() - weights)
    assert relative(moved[1] - moved[0], moved[0]) < 0.1
    assert relative(weights - weights.bfloat16().float(), moved[0]) > 1


@pytest.mark.gpu
def test_tf32_on_a_gpu():
    device = torch.device("cuda")
    generator = torch.Generator().manual_seed(1)
    G = torch.randn(512, 1376, generator=generator)
    P, _ = torch.linalg.qr(torch.randn(512, 128, generator=generator))
    exact = P.double().mT @ G.double()
    before = torch.backends.cuda.matmul.fp32_precision
    with rotations("reduced", device):
        reduced = P.to(device).mT @ G.to(device)
    assert 1e-6 < relative(reduced.cpu() - exact, exact) < 2**-9
    assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.parametrize("name", ROTATED)
def test_float64_is_as_it_was(name):
    full, _ = stepped(name, torch.float64)
    reduced, _ = stepped(name, torch.float64, rotations="reduced")
    assert torch.equal(full, reduced)


@pytest.mark.parametrize("name", ["galore", "adadiag", "adadiag++"])
def test_bases_are_fitted_at_full_precision(name):
    _, full = stepped(name, steps=1)
    _, reduced = stepped(name, steps=1, rotations="reduced")
    for key in ("basis_left", "basis_right"):
        if key in full:
            assert torch.equal(full[key], reduced[key])


def test_the_product_with_a_basis_is_what_is_reduced(monkeypatch):
    """On hardware without bfloat16 the numbers would not tell."""
    seen = []
    multiply, add_product = torch.Tensor.__matmul__, torch.addmm

    def watched(left, right):
        seen.append((tuple(left.shape), BACKEND.fp32_precision))
        return multiply(left, right)

    def watched_addmm(W, left, right, **keywords):
        seen.append(("lift", BACKEND.fp32_precision))
        return add_product(W, left, right, **keywords)

    before = BACKEND.fp32_precision
    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    monkeypatch.setattr(torch, "addmm", watched_addmm)
    stepped("galore", steps=2, rotations="reduced", early_refresh=False)
    rotated = [precision for what, precision in seen if what in {"lift", (8, M)}]
    assert rotated == ["bf16"] * 4
    others = [precision for what, precision in seen if what not in {"lift", (8, M)}]
    assert set(others) == {before}


@pytest.mark.parametrize("value", ["half", 1, None])
def test_another_precision_is_refused(value):
    with pytest.raises(ValueError, match="rotations"):
        METHODS["galore"].resolve({"rotations": value})
    assert value not in PRECISIONS
