"""Input spectra against the singular values of the inputs themselves, collected and unfolded by hand."""

import math
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from subopt.profilers.gradients import activations as module
from subopt.profilers.gradients.activations import watched_inputs
from subopt.profilers.timing.stopwatch import Stopwatch


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def weights(model):
    return [name for name, p in model.named_parameters(remove_duplicate=False) if p.dim() > 1]


def watched(model, *calls, names=None):
    """Spectra of the inputs that the calls bring about."""
    with watched_inputs(model, weights(model) if names is None else names, Stopwatch()) as grams:
        for call in calls:
            call(model)
        return grams.result()


def check(found, X):
    """Every number against a float64 SVD of X, positions x width."""
    energy = [float(s) ** 2 for s in torch.linalg.svdvals(X.double())]
    energy += [0.0] * (X.shape[1] - len(energy))
    total = sum(energy)
    shares = [e / total for e in energy]
    assert (found.positions, found.width) == X.shape
    assert found.stable_rank == pytest.approx(total / energy[0], rel=1e-5)
    entropy = -sum(e * math.log(e) for e in shares if e > 1e-14)
    assert found.effective_rank == pytest.approx(math.exp(entropy), rel=1e-5)
    for share, rank in found.rank_at_energy.items():
        held = [sum(shares[:r]) for r in range(1, len(shares) + 1)]
        assert rank == 1 + sum(h < float(share) for h in held)
    d = X.shape[1]
    assert set(found.energy_at_rank) == {str(max(1, d // i)) for i in (16, 8, 4, 2)}
    for rank, held in found.energy_at_rank.items():
        assert held == pytest.approx(sum(shares[: int(rank)]), abs=1e-6)


def uneven(*shape):
    """Inputs with a mean and unequal variances."""
    return 0.5 + torch.randn(shape) * torch.linspace(0.1, 2, shape[-1])


def test_a_linear_layers_input_over_two_passes():
    model, X = nn.Linear(24, 5), [uneven(3, 7, 24), uneven(2, 24)]
    found = watched(model, *(lambda model, x=x: model(x) for x in X))
    assert list(found) == ["weight"]
    check(found["weight"], torch.cat([x.flatten(0, -2) for x in X]))


@pytest.mark.parametrize("positions", [1, 3])
def test_fewer_positions_than_width(positions):
    X = uneven(positions, 16)
    check(watched(nn.Linear(16, 4), lambda model: model(X))["weight"], X)


def test_one_input_without_a_batch():
    X = uneven(16)
    check(watched(nn.Linear(16, 4), lambda model: model(X))["weight"], X[None])


def by_hand(X, conv):
    """Every window of a padded batch, by loops: rows of in / groups * kernel numbers."""
    padding = conv._reversed_padding_repeated_twice
    X = F.pad(X, padding, mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode)
    sizes = [
        (length - d * (k - 1) - 1) // s + 1
        for length, k, s, d in zip(
            X.shape[2:], conv.kernel_size, conv.stride, conv.dilation, strict=True
        )
    ]
    rows = []
    width = X.shape[1] // conv.groups
    for b, g, *place in product(
        range(len(X)), range(conv.groups), *(range(size) for size in sizes)
    ):
        row = []
        for c, *offset in product(range(width), *(range(k) for k in conv.kernel_size)):
            index = [
                p * s + o * d
                for p, s, o, d in zip(place, conv.stride, offset, conv.dilation, strict=True)
            ]
            row.append(float(X[(b, g * width + c, *index)]))
        rows.append(row)
    return torch.tensor(rows)


CONVS = {
    "1d": (lambda: nn.Conv1d(4, 3, 3, padding=2, stride=2), (2, 4, 9)),
    "2d": (lambda: nn.Conv2d(3, 4, (3, 2), padding=1), (2, 3, 5, 6)),
    "3d": (lambda: nn.Conv3d(2, 3, 2, dilation=2), (2, 2, 4, 4, 3)),
    "same": (lambda: nn.Conv2d(3, 4, (2, 3), padding="same"), (1, 3, 4, 5)),
    "reflected": (lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), (2, 2, 5, 5)),
    "circular": (lambda: nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"), (2, 2, 6)),
    "groups": (lambda: nn.Conv2d(6, 9, 3, groups=3, stride=2), (2, 6, 7, 7)),
    "depthwise": (lambda: nn.Conv1d(5, 5, 3, groups=5), (2, 5, 6)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("build", "shape"), CONVS.values(), ids=CONVS)
def test_a_convolutions_input_is_what_its_kernel_sees(build, shape):
    conv, X = build(), uneven(*shape)
    rows = by_hand(X, conv)
    # The loops see what torch's own convolution does.
    weight = conv.weight.detach().flatten(1).chunk(conv.groups)
    places = rows.reshape(shape[0], conv.groups, -1, rows.shape[1])
    output = torch.cat([w @ places[:, g].mT for g, w in enumerate(weight)], 1)
    torch.testing.assert_close(output + conv.bias[:, None], conv(X).flatten(2))
    check(watched(conv, lambda model: model(X))["weight"], rows)


def test_a_picture_without_a_batch():
    conv, X = nn.Conv2d(2, 3, 3), uneven(2, 5, 5)
    check(watched(conv, lambda model: model(X))["weight"], by_hand(X[None], conv))


class Conv1D(nn.Module):
    """As transformers' GPT-2 has it: a linear layer whose weight is inputs x outputs."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))

    def forward(self, x):
        return x @ self.weight


def test_transformers_linear_layer():
    X = uneven(5, 7, 16)
    check(watched(Conv1D(3, 16), lambda model: model(X))["weight"], X.flatten(0, 1))
    library = pytest.importorskip("transformers.pytorch_utils")
    check(watched(library.Conv1D(3, 16), lambda model: model(X))["weight"], X.flatten(0, 1))


class Attention(nn.Module):
    """Three layers of one input, the third of which may get another."""

    def __init__(self, width=16):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x, context=None):
        return self.q(x) + self.k(x) + self.v(x if context is None else context)


class Counted:
    """Counts the input matrices that products are made of."""

    def __init__(self, monkeypatch):
        self.calls, original = 0, module._sampled

        def sampled(*arguments):
            self.calls += 1
            return original(*arguments)

        monkeypatch.setattr(module, "_sampled", sampled)


def test_layers_with_one_input_share_its_product(monkeypatch):
    counted, X = Counted(monkeypatch), uneven(9, 16)
    found = watched(Attention(), lambda model: model(X))
    assert counted.calls == 1
    assert found["q.weight"] == found["k.weight"] == found["v.weight"]
    check(found["v.weight"], X)


def test_another_input_is_not_taken_for_a_shared_one(monkeypatch):
    counted, X, Y = Counted(monkeypatch), uneven(9, 16), uneven(9, 16)
    found = watched(Attention(), lambda model: model(X, Y))
    assert counted.calls == 2
    check(found["k.weight"], X)
    check(found["v.weight"], Y)


def test_an_input_changed_in_place_is_another_one():
    model, X = Attention(), uneven(9, 16)
    before = X.clone()

    def call(model):
        model.q(X)
        X.mul_(torch.linspace(0, 1, 16))
        model.k(X)

    found = watched(model, call)
    check(found["q.weight"], before)
    check(found["k.weight"], X)


def test_a_new_tensor_in_the_memory_of_an_old_one_is_another_one():
    model = Attention()
    inputs = []

    def call(model):
        for layer in (model.q, model.k, model.v) * 3:
            x = uneven(9, 16)
            inputs.append(x.clone())
            layer(x)
            del x

    found = watched(model, call)
    for i, name in enumerate("qkv"):
        check(found[f"{name}.weight"], torch.cat(inputs[i::3]))


def test_equal_inputs_unfolded_differently_are_not_shared():
    model = nn.ModuleList([nn.Conv1d(2, 2, 3), nn.Conv1d(2, 2, 3, padding=1)])
    X = uneven(2, 2, 8)
    found = watched(model, lambda model: [conv(X) for conv in model])
    for i, conv in enumerate(model):
        check(found[f"{i}.weight"], by_hand(X, conv))


def test_a_layer_called_twice_in_a_pass_adds_up():
    layer = nn.Linear(16, 16)
    X = uneven(6, 16)
    inner = []

    def call(model):
        inner.append(torch.tanh(model(X)).detach())
        model(inner[0])

    check(watched(layer, call)["weight"], torch.cat([X, inner[0]]))
    check(watched(layer, lambda model: (model(X), model(X)))["weight"], torch.cat([X, X]))


def test_tied_weights_and_modules_are_found_by_the_name_that_was_asked_for():
    embedding, head = nn.Embedding(11, 16), nn.Linear(16, 11, bias=False)
    head.weight = embedding.weight
    model, X = nn.ModuleDict({"embedding": embedding, "head": head}), uneven(7, 16)
    found = watched(model, lambda model: model["head"](X), names=["embedding.weight"])
    assert list(found) == ["embedding.weight"]
    check(found["embedding.weight"], X)


def test_only_named_layers_are_watched_and_no_hook_stays():
    model, X = Attention(), uneven(5, 16)
    assert list(watched(model, lambda model: model(X), names=["k.weight"])) == ["k.weight"]
    with pytest.raises(KeyboardInterrupt), watched_inputs(model, weights(model), Stopwatch()):
        raise KeyboardInterrupt
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_keyword_inputs_are_seen():
    X = uneven(5, 16)
    check(watched(nn.Linear(16, 2), lambda model: model(input=X))["weight"], X)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    X = uneven(20, 16).to(dtype)
    check(watched(nn.Linear(16, 2, dtype=dtype), lambda model: model(X))["weight"], X)


def test_products_are_exact_under_autocast():
    X = uneven(20, 16)

    def call(model):
        with torch.autocast("cpu", torch.bfloat16):
            model(X)

    check(watched(nn.Linear(16, 2), call)["weight"], X)


def test_inference_mode_inside_a_model():
    X = uneven(9, 16)

    def call(model):
        with torch.inference_mode():
            model(X.clone())

    check(watched(Attention(), call)["q.weight"], X)


def test_many_positions_are_sampled_without_touching_the_models_randomness(monkeypatch):
    monkeypatch.setattr(module, "MOST_POSITIONS", 500)
    conv, X = nn.Conv2d(2, 3, 3), uneven(4, 2, 40, 40)
    state = torch.get_rng_state()
    found = watched(conv, lambda model: model(X), lambda model: model(X))["weight"]
    assert torch.equal(torch.get_rng_state(), state)
    assert found.positions == 1000
    monkeypatch.undo()
    exact = watched(conv, lambda model: model(X[:1]))["weight"]
    # 1,000 of 5,776 windows: shares of the energy are right to 1 / sqrt(1000).
    for rank, share in exact.energy_at_rank.items():
        assert found.energy_at_rank[rank] == pytest.approx(share, abs=0.05)


def test_sampled_positions_are_distinct_input_vectors(monkeypatch):
    monkeypatch.setattr(module, "MOST_POSITIONS", 6)
    # Orthogonal inputs: of 6 distinct ones the energies are all alike.
    X = torch.eye(8).reshape(2, 4, 8)
    found = watched(nn.Linear(8, 2), lambda model: model(X))["weight"]
    assert (found.positions, found.stable_rank) == (6, pytest.approx(6))


def test_nothing_to_see():
    X = uneven(5, 16)
    linear = nn.Linear(16, 2)
    assert watched(linear) == {}
    assert watched(linear, lambda model: model(torch.zeros(3, 16))) == {}
    assert watched(linear, lambda model: model(torch.zeros(0, 16))) == {}
    assert watched(linear, lambda model: model(torch.full((3, 16), math.nan))) == {}
    bad = X.clone()
    bad[2, 3] = math.inf
    check(watched(linear, lambda model: (model(bad), model(X)))["weight"], X)
    assert watched(nn.Embedding(4, 8), lambda model: model(torch.tensor([1]))) == {}
    assert watched(nn.ConvTranspose1d(4, 3, 2), lambda model: model(uneven(1, 4, 5))) == {}
    with torch._subclasses.FakeTensorMode():
        fake = nn.Linear(16, 2)
        assert watched(fake, lambda model: model(torch.ones(3, 16))) == {}


def test_wide_layers_are_left_out(monkeypatch):
    monkeypatch.setattr(module, "WIDEST", 15)
    model = nn.ModuleList([nn.Linear(16, 4), nn.Linear(15, 4), nn.Conv1d(8, 2, 2), Conv1D(3, 16)])

    def call(model):
        for layer, x in zip(model, (16, 15, None, 16), strict=True):
            layer(uneven(2, 8, 5) if x is None else uneven(3, x))

    assert list(watched(model, call)) == ["1.weight"]


def test_a_pass_repeated_for_checkpointing_is_counted_once():
    model, X = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)), uneven(5, 16)

    def call(model):
        checkpoint(model, X.clone().requires_grad_(), use_reentrant=False).sum().backward()

    check(watched(model, call)["0.weight"], X)


def test_a_compiled_model_runs_and_lacks_inputs():
    model, X = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)), uneven(5, 16)
    expected = model(X)
    with watched_inputs(model, weights(model), Stopwatch()) as grams:
        compiled = torch.compile(model, backend="eager")
        torch.testing.assert_close(compiled(X), expected)
        assert grams.result() == {}
    torch._dynamo.reset()


def test_time_is_counted_under_its_name():
    watch, model = Stopwatch(), nn.Linear(16, 2)
    with watched_inputs(model, ["weight"], watch) as grams:
        model(uneven(3, 16))
        assert grams.result()
        assert grams.result() == {}  # the sums are gone
    assert set(watch.seconds) == {"activations"}
    assert watch.seconds["activations"] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_inputs_have_the_same_spectra(monkeypatch):
    conv, X = nn.Conv2d(3, 4, 3, padding=1), uneven(2, 3, 6, 6)
    check(watched(conv.cuda(), lambda model: model(X.cuda()))["weight"], by_hand(X, conv))
    monkeypatch.setattr(module, "MOST_POSITIONS", 20)
    assert watched(conv, lambda model: model(X.cuda()))["weight"].positions == 20
