"""Layers that hold U, S and V: they compute what the dense layer does, and never form its weight."""

import copy
import io
import pickle
from collections import Counter

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from subopt.errors import OptionError
from subopt.optimizers.low_rank.conv import LowRankConv
from subopt.optimizers.low_rank.convert import (
    dense_state_dict,
    ranks,
    replace_layers,
    to_dense,
    to_two_layers,
)
from subopt.optimizers.low_rank.linear import LowRankLinear, gradients_of, truncated_factors
from subopt.optimizers.state.storage_tracker import StorageTracker

# torch pads an even kernel's input in another way than ours, and says that this costs it a copy
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

CONVS = {
    "plain": (nn.Conv2d, {"kernel_size": 3}),
    "strided": (nn.Conv2d, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)}),
    "dilated": (nn.Conv2d, {"kernel_size": 3, "dilation": 2, "padding": 2, "bias": False}),
    "same": (nn.Conv2d, {"kernel_size": (4, 3), "padding": "same"}),
    "valid": (nn.Conv2d, {"kernel_size": 3, "padding": "valid"}),
    "reflect": (nn.Conv2d, {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}),
    "circular": (nn.Conv2d, {"kernel_size": 3, "padding": "same", "padding_mode": "circular"}),
    "pointwise": (nn.Conv2d, {"kernel_size": 1}),
    "1d": (nn.Conv1d, {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"}),
    "3d": (nn.Conv3d, {"kernel_size": 2, "stride": 2}),
}
SIZES = {nn.Conv1d: (9,), nn.Conv2d: (9, 8), nn.Conv3d: (6, 5, 4)}


def make(name, rank=3, dtype=torch.float64):
    """A low-rank layer, the dense one it stands for, and an input that requires a gradient."""
    torch.manual_seed(0)
    if name == "linear":
        dense, x = nn.Linear(7, 6), torch.randn(5, 7)
    elif name == "linear, no bias, 3-D":
        dense, x = nn.Linear(7, 6, bias=False), torch.randn(2, 5, 7)
    elif name == "linear, one sample":
        dense, x = nn.Linear(7, 6), torch.randn(7)
    else:
        kind, settings = CONVS[name.removesuffix(", one sample")]
        dense, x = kind(4, 6, **settings), torch.randn(2, 4, *SIZES[kind])
        x = x[0] if name.endswith("one sample") else x
    dense = dense.to(dtype)
    kind = LowRankLinear if isinstance(dense, nn.Linear) else LowRankConv
    layer = kind.from_dense(dense, rank)
    layer.S.data.copy_(
        torch.randn(rank, rank)
    )  # the singular values' diagonal would hide a transposition
    return layer, layer.to_dense(), x.to(dtype).requires_grad_()


LAYERS = ["linear", "linear, no bias, 3-D", "linear, one sample", *CONVS, "plain, one sample"]


def backward(layer, x):
    """The output, the input's gradient, and the layer's gradients by name, for a loss that is not symmetric."""
    x.grad = None
    layer.zero_grad()
    y = layer(x)
    weights = torch.linspace(0.5, 2, y.numel(), dtype=torch.float64).reshape(y.shape)
    (weights.to(y.dtype) * y).square().sum().backward()
    return y.detach(), x.grad, {name: p.grad for name, p in layer.named_parameters()}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_the_bases_are_those_of_the_dense_layer(name):
    layer, dense, x = make(name)
    y, dx, expected = backward(dense, x)
    G = expected["weight"].flatten(1)
    with gradients_of([layer], "bases"):
        y_low, dx_low, held = backward(layer, x)
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(y_low, y, **close)
    torch.testing.assert_close(dx_low, dx, **close)
    torch.testing.assert_close(held["U"], G @ layer.V, **close)
    torch.testing.assert_close(held["V"], G.mT @ layer.U, **close)
    assert held["S"] is None
    if "bias" in expected:
        torch.testing.assert_close(held["bias"], expected["bias"], **close)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_the_core_and_plain_autograd_are_those_of_the_dense_layer(name):
    layer, dense, x = make(name)
    y, dx, expected = backward(dense, x)
    G = expected["weight"].flatten(1)
    close = {"rtol": 1e-10, "atol": 1e-10}
    U, S, V = layer.factors
    with gradients_of([layer], "core"):
        y_low, dx_low, held = backward(layer, x)
    torch.testing.assert_close(y_low, y, **close)
    torch.testing.assert_close(dx_low, dx, **close)
    torch.testing.assert_close(held["S"], U.mT @ G @ V, **close)
    assert held["U"] is None
    assert held["V"] is None
    _, dx_low, held = backward(layer, x)
    torch.testing.assert_close(dx_low, dx, **close)
    torch.testing.assert_close(held["U"], G @ V @ S.mT, **close)
    torch.testing.assert_close(held["S"], U.mT @ G @ V, **close)
    torch.testing.assert_close(held["V"], G.mT @ U @ S, **close)


def test_an_input_without_a_gradient_costs_none():
    layer, _, x = make("plain")
    with gradients_of([layer], "bases"):
        layer(x.detach()).sum().backward()
    assert layer.U.grad.shape == layer.U.shape


@pytest.mark.parametrize("which", ["autograd", "bases", "core"])
@pytest.mark.parametrize("name", ["linear", "conv"])
def test_no_tensor_of_the_dense_size_is_ever_made(name, which):
    factors = [torch.randn(96, 2), torch.eye(2), torch.randn(108, 2)]
    if name == "linear":
        layer, x = LowRankLinear(*factors), torch.randn(4, 108)
    else:
        settings = {"in_channels": 12, "out_channels": 96, "kernel_size": (3, 3)}
        layer, x = LowRankConv(*factors, None, settings), torch.randn(1, 12, 5, 5)
    sizes = Counter()

    class Sizes(StorageTracker):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = super().__torch_dispatch__(func, types, args, kwargs)
            for leaf in torch.utils._pytree.tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    sizes[leaf.untyped_storage().nbytes() // leaf.element_size()] += 1
            return result

    with Sizes(), gradients_of([layer], which):
        layer(x).square().sum().backward()
    assert max(sizes) < 96 * 108 / 4
    with Sizes():
        assert layer.weight.numel() == 96 * 108  # the tracker sees one when there is one
    assert max(sizes) == 96 * 108


def test_the_core_pass_does_not_keep_the_input():
    layer, _, x = make("linear")
    kept = []
    with (
        gradients_of([layer], "core"),
        torch.autograd.graph.saved_tensors_hooks(kept.append, lambda value: value),
    ):
        layer(x).sum()
    assert all(tensor.data_ptr() != x.data_ptr() for tensor in kept)


def test_the_mode_ends_with_its_block_even_by_an_error():
    layer, _, _ = make("linear")
    seen = []

    def evaluation():
        with gradients_of([layer], "core"):
            seen.append(layer.gradients)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        evaluation()
    assert seen == ["core"]
    assert layer.gradients == "autograd"


@pytest.mark.parametrize("name", ["linear", "plain"])
@pytest.mark.parametrize("which", ["autograd", "bases", "core"])
def test_autocast_computes_in_bfloat16_and_leaves_float32_gradients(name, which):
    layer, dense, x = make(name, dtype=torch.float32)
    results = []
    for low, passed in ((dense, None), (layer, which)):
        with torch.autocast("cpu", torch.bfloat16), gradients_of([layer], passed or "autograd"):
            y, _, held = backward(low, x)
        assert y.dtype == torch.bfloat16
        results.append((y, held))
    (y, expected), (y_low, held) = results
    torch.testing.assert_close(y_low.float(), y.float(), rtol=0.05, atol=0.05)
    G, (U, _, V) = expected["weight"].flatten(1), layer.factors
    gradients = {"U": G @ V, "V": G.mT @ U} if which == "bases" else {"S": U.mT @ G @ V}
    for factor, gradient in gradients.items():
        assert held[factor].dtype == torch.float32
        error = torch.linalg.matrix_norm(held[factor] - gradient)
        assert error < 0.05 * torch.linalg.matrix_norm(gradient)  # bfloat16 has 8 bits


def test_factors_are_the_best_approximation_and_own_their_memory():
    W = torch.randn(9, 6)
    factors = truncated_factors(W, 4)
    U, S, V = factors
    sigma = torch.linalg.svdvals(W)
    error = torch.linalg.matrix_norm(W - U @ S @ V.mT)
    torch.testing.assert_close(error, torch.linalg.vector_norm(sigma[4:]))
    for factor in factors:
        assert factor.dtype == W.dtype
        assert factor.untyped_storage().nbytes() == factor.numel() * 4
    full = truncated_factors(W, 6)
    torch.testing.assert_close(full[0] @ full[1] @ full[2].mT, W)


def test_a_convolution_with_groups_is_refused():
    with pytest.raises(ValueError, match="groups=2"):
        LowRankConv.from_dense(nn.Conv2d(4, 6, 3, groups=2), 2)


def network():
    torch.manual_seed(0)
    double = {"dtype": torch.float64}
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, **double), nn.Tanh(), nn.Flatten(),
        nn.Linear(8 * 4 * 4, 12, bias=False, **double), nn.Tanh(), nn.Linear(12, 5, **double),
    )  # fmt: skip


def low_rank(rank=3, max_rank=1.0):
    model, x = network(), torch.randn(2, 3, 4, 4).double()
    options = {"rank": rank, "max_rank": max_rank}
    successors = replace_layers(model, dict.fromkeys(["0.weight", "3.weight", "5.weight"], options))
    return model, x, successors


def test_replacing_leaves_biases_and_the_rest_alone_and_names_the_factors():
    before = network()
    bias = before[5].bias
    successors = replace_layers(before, {"5.weight": {"rank": 2, "max_rank": None}})
    assert [name for name, _ in successors["5.weight"]] == ["5.U", "5.S", "5.V"]
    parameters = dict(before.named_parameters())
    assert all(parameters[name] is value for name, value in successors["5.weight"])
    assert before[5].bias is bias
    assert isinstance(before[3], nn.Linear)
    assert ranks(before) == {"5": 2}


def test_layers_stay_in_training_or_in_evaluation():
    model = network().eval()
    replace_layers(model, {"5.weight": {"rank": 2, "max_rank": None}})
    assert not model[5].training
    assert not to_two_layers(model)[5].training


def test_at_full_rank_the_network_computes_what_it_did():
    model, x, _ = low_rank(rank=None)
    torch.testing.assert_close(model(x), network()(x))
    assert ranks(model) == {"0": 8, "3": 12, "5": 5}


def test_what_cannot_be_low_rank_is_refused_by_name():
    model = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4))
    options = {"rank": 1, "max_rank": None}
    for name in ("0.weight", "1.bias"):
        with pytest.raises(OptionError, match=f"'{name}' is not the weight of a layer"):
            replace_layers(model, {name: options})
    with pytest.raises(OptionError, match="is not the weight of a layer"):
        replace_layers(nn.Linear(4, 4), {"weight": options})


def test_a_layer_with_hooks_is_refused_rather_than_losing_them():
    model = network()
    model[5].register_forward_hook(lambda *_: None)
    with pytest.raises(OptionError, match="the layer '5' has hooks"):
        replace_layers(model, {"5.weight": {"rank": 2, "max_rank": None}})


def test_torchs_transformer_layer_works_in_training_and_on_its_fast_path():
    """In evaluation torch reads `linear1.weight` instead of calling the layer."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    options = {"rank": 4, "max_rank": None}
    replace_layers(layer, {"linear1.weight": options, "linear2.weight": options})
    x = torch.randn(2, 5, 8).double()
    training = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), training)


@pytest.mark.parametrize("export", [to_dense, to_two_layers])
def test_exports_compute_the_same_with_torchs_layers_only(export):
    model, x, _ = low_rank()
    expected, elements = model.eval()(x), sum(p.numel() for p in model.parameters())
    exported = export(copy.deepcopy(model))
    torch.testing.assert_close(exported(x), expected, rtol=1e-12, atol=1e-12)
    assert not exported.training
    modules = [m for m in exported.modules() if next(m.parameters(recurse=False), None) is not None]
    assert all(type(module).__module__.startswith("torch.nn") for module in modules)
    held = sum(p.numel() for p in exported.parameters())
    if export is to_dense:
        assert held == sum(p.numel() for p in network().parameters())
        assert exported.state_dict().keys() == network().state_dict().keys()
    else:
        assert held == elements - 3 * 3**2
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("export", [to_dense, to_two_layers])
def test_a_layer_by_itself_is_exported_too(name, export):
    layer, _, x = make(name)
    torch.testing.assert_close(export(layer)(x), layer(x), rtol=1e-12, atol=1e-12)


def test_the_dense_state_dict_loads_into_the_model_as_it_was():
    model, x, _ = low_rank()
    before = network()
    state = dense_state_dict(model)
    assert list(state) == list(before.state_dict())
    before.load_state_dict(state)
    torch.testing.assert_close(before(x), model(x))


def test_a_state_dict_of_another_rank_loads_and_one_of_another_size_does_not():
    model, x, _ = low_rank(rank=2)
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    saved.seek(0)
    other, _, _ = low_rank(rank=4)
    parameters = list(other.parameters())
    other(x).sum().backward()
    other.load_state_dict(torch.load(saved, weights_only=True))
    assert ranks(other) == {"0": 2, "3": 2, "5": 2}
    assert torch.equal(other(x), model(x))
    assert all(a is b for a, b in zip(parameters, other.parameters(), strict=True))
    assert other[0].U.grad is None
    small = LowRankLinear.from_dense(nn.Linear(6, 6), 2)
    with pytest.raises(RuntimeError, match="size mismatch for U"):
        small.load_state_dict(LowRankLinear.from_dense(nn.Linear(6, 5), 3).state_dict())


def test_gradients_of_a_new_rank_are_taken_while_an_old_graph_is_alive():
    layer, _, x = make("linear")
    kept = layer(x)  # its graph expects gradients of rank 3
    layer.hold(*truncated_factors(torch.randn(6, 7).double(), 5))
    layer(x).sum().backward()
    assert layer.U.grad.shape == (6, 5)
    assert kept.shape == (5, 6)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
def test_copies_compute_the_same_and_share_nothing(duplicate):
    model, x, _ = low_rank()
    twin = duplicate(model)
    assert torch.equal(twin(x), model(x))
    with torch.no_grad():
        twin[5].S.zero_()
    assert not torch.equal(twin(x), model(x))


@pytest.mark.parametrize("which", ["autograd", "bases", "core"])
def test_layers_run_on_fake_and_meta_tensors(which):
    with FakeTensorMode():
        model, x, _ = low_rank()
        layers = [model[0], model[3], model[5]]
        with gradients_of(layers, which):
            model(x).sum().backward()
        held = layers[0].S if which == "core" else layers[0].U
        assert held.grad.shape == held.shape
    layer, _, x = make("plain")
    with gradients_of([layer.to("meta")], which):
        assert layer(x.to("meta")).shape == (2, 6, 7, 6)


def test_the_weight_can_be_looked_at_but_not_trained():
    layer, dense, _ = make("plain")
    torch.testing.assert_close(layer.weight, dense.weight.detach())
    assert not layer.weight.requires_grad


def test_a_printed_layer_shows_its_size_and_rank():
    assert repr(make("linear")[0]) == "LowRankLinear((6, 7), rank=3, bias=True)"
