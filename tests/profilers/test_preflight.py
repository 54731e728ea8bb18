"""What the pre-flight reports, what it refuses, and that it leaves the model alone."""

from __future__ import annotations

import pytest
import torch

from subopt.errors import PreflightError, UserCodeError
from subopt.profilers.preflight import preflight
from subopt.profilers.target.load import load_target

HEAD = "import torch\nfrom torch import nn\n"
BODY = HEAD + "def build_model():\n    return {model}\ndef loss(model, batch):\n    return {loss}\n"
X = torch.linspace(-1, 1, 12).reshape(4, 3)


@pytest.fixture
def check(tmp_path):
    """Return a function that runs the pre-flight and returns its checks by name."""

    def run(model="nn.Linear(3, 2)", loss="model(batch).square().mean()", *, source=None, batch=X):
        (tmp_path / "model.py").write_text(source or BODY.format(model=model, loss=loss))
        target = load_target("model.py", base=tmp_path)
        result = preflight(target.data, target.build_model(), batch)
        return {found.name: (found.ok, found.detail) for found in result}

    return run


def test_a_plain_model_passes_every_check(check):
    assert check("nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))") | {
        "loss": None
    } == {
        "parameters": (True, "2 matrices, 4 left to the fallback, 0 frozen"),
        "loss": None,
        "gradients": (True, "every trainable parameter"),
        "tied parameters": (True, "none"),
        "buffers": (True, "3, 40 B"),
        "data-dependent operations": (True, "none"),
    }


def test_the_loss_is_reported(check):
    ok, detail = check(loss="model(batch).sum() * 0 + 2.5")["loss"]
    assert ok
    assert detail == "2.5: a scalar, finite, needs grad"


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        ("nn.Linear(3, 2)", "model(batch)", r"not a scalar: it has shape \(4, 2\)"),
        (
            "nn.Linear(3, 2)",
            "model(batch).mean() * float('nan')",
            "the loss of the first batch is nan",
        ),
        (
            "nn.Linear(3, 2)",
            "model(batch).mean() * float('inf')",
            "the loss of the first batch is -?inf",
        ),
        ("nn.Linear(3, 2)", "model(batch).mean().detach()", "needs no gradient"),
        ("nn.Linear(3, 2)", "(model(batch).mean() > 0).sum()", "dtype torch.int64"),
        (
            "nn.Linear(3, 2)",
            "torch.ones((), requires_grad=True) * 2",
            "no parameter of the model gets",
        ),
        (
            "nn.LayerNorm(3)",
            "model(batch).mean()",
            "none of the 2 parameters of model.py is a matrix",
        ),
        ("nn.ReLU()", "model(batch).mean()", "none of the 0 parameters"),
        ("nn.Linear(3, 2).requires_grad_(False)", "model(batch).mean()", "2 are frozen"),
    ],
)
def test_what_cannot_be_trained_is_refused(check, model, loss, message):
    with pytest.raises(PreflightError, match=message) as caught:
        check(model, loss)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_their_error_in_forward_is_theirs(check):
    with pytest.raises(UserCodeError, match=r"loss\(model, batch\) failed: RuntimeError"):
        check("nn.Linear(9, 2)")


def test_an_error_in_their_backward_is_theirs(check):
    source = HEAD + (
        "class Broken(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, x): return x.clone()\n"
        "    @staticmethod\n    def backward(ctx, g): raise ValueError('backwards')\n"
        "def build_model(): return nn.Linear(3, 2)\n"
        "def loss(model, batch): return Broken.apply(model(batch)).mean()\n"
    )
    with pytest.raises(UserCodeError, match="backwards"):
        check(source=source)


def test_parameters_without_a_gradient_are_named(check):
    ok, detail = check(
        "nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])", "model[0](batch).mean()"
    )["gradients"]
    assert not ok
    assert detail == "none for 1.weight, 1.bias"


def test_long_lists_are_shortened(check):
    checks = check("nn.ModuleList([nn.Linear(3, 2) for _ in range(5)])", "model[0](batch).mean()")
    assert checks["gradients"][1] == "none for 1.weight, 1.bias, 2.weight, 2.bias and 4 more"


def test_a_gradient_that_is_not_finite_is_reported(check):
    ok, detail = check(loss="(model(batch) * 0).sqrt().sum()")["finite gradients"]
    assert not ok
    assert "weight" in detail


def test_tied_parameters_are_named(check):
    source = HEAD + (
        "def build_model():\n"
        "    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))\n"
        "    model[1].weight = model[0].weight\n    return model\n"
        "def loss(model, batch): return model(batch).mean()\n"
    )
    assert check(source=source)["tied parameters"] == (True, "0.weight = 1.weight")


@pytest.mark.parametrize(
    ("loss", "operation"),
    [
        ("model(batch[batch[:, 0] > 0]).mean()", "aten.nonzero"),
        ("model(batch).mean() * (1 if batch.sum() > 9 else 2)", "aten._local_scalar_dense"),
    ],
)
def test_data_dependent_operations_are_reported_with_their_line(check, loss, operation):
    ok, detail = check(loss=loss)["data-dependent operations"]
    assert not ok
    assert detail.startswith(operation)
    assert "model.py:6 in loss" in detail


def test_a_model_that_cannot_be_copied_is_reported_and_not_refused(check):
    source = HEAD + (
        "class Net(nn.Linear):\n"
        "    def __deepcopy__(self, memo): raise RuntimeError('no copies')\n"
        "def build_model(): return Net(3, 2)\n"
        "def loss(model, batch): return model(batch).mean()\n"
    )
    ok, detail = check(source=source)["data-dependent operations"]
    assert not ok
    assert detail.startswith("could not be looked for")


def test_an_operation_that_cannot_be_simulated_is_one_line(check, capfd):
    source = HEAD + (
        "def build_model(): return nn.Linear(3, 2)\n"
        "def loss(model, batch):\n    batch.numpy()\n    return model(batch).mean()\n"
    )
    ok, detail = check(source=source)["data-dependent operations"]
    assert not ok
    assert detail == "could not be looked for: model.py:5 in loss: batch.numpy()"
    assert capfd.readouterr().err == ""


def test_tensors_outside_parameters_and_buffers_do_not_disturb(check):
    source = HEAD + (
        "from functools import lru_cache\n"
        "@lru_cache\ndef table(size): return torch.arange(size, dtype=torch.float32)\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self):\n        super().__init__(3, 2)\n"
        "        self.shift, self.more = torch.ones(3), [torch.ones(3)]\n"
        "    def forward(self, x): return super().forward(x + self.shift + self.more[0] + table(3))\n"
        "def build_model(): return Net()\n"
        "def loss(model, batch): return model(batch).mean()\n"
    )
    assert check(source=source)["data-dependent operations"] == (True, "none")


def test_the_model_and_the_generator_are_left_as_they_were(tmp_path):
    (tmp_path / "model.py").write_text(
        BODY.format(
            model="nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))",
            loss="model(batch).mean()",
        )
    )
    target = load_target("model.py", base=tmp_path)
    model = target.build_model()
    model[0].weight.grad = torch.full((4, 3), 7.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    preflight(target.data, model, X)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.full((4, 3), 7.0))
    assert model[3].weight.grad is None
    assert not model[3].weight._post_accumulate_grad_hooks


def test_sparse_gradients_are_looked_at(check):
    checks = check(
        "nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 4))",
        "model(batch).mean()",
        batch=torch.tensor([0, 1, 1]),
    )
    assert checks["gradients"] == (True, "every trainable parameter")
