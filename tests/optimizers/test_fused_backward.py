"""Updates in the backward pass: the ordinary step's trajectory bit for bit, with one layer's gradient alive."""

import pytest
import torch
from torch import nn

from subopt.errors import OptionError, PreflightError
from subopt.optimizers import METHODS, FusedBackward, create
from subopt.optimizers.state.storage_tracker import StorageTracker

TAKEN = [name for name, method in METHODS.items() if "needs_closure" not in method.capabilities]
# Of each method the defaults and the last of its other option sets: how a step is ended is not the methods'.
CASES = [
    (name, options)
    for name in TAKEN
    for options in METHODS[name].test_inputs[:1] + METHODS[name].test_inputs[1:][-1:]
]


class Net(nn.Module):
    """Tied weights, a weight used twice, a convolution, dropout, biases and norms."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(13, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.twice = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 13)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        hidden = self.conv(self.embed(ids).transpose(1, 2)).transpose(1, 2)
        hidden = self.drop(torch.tanh(self.twice(torch.tanh(self.twice(self.norm(hidden))))))
        return self.head(hidden)


def loss_of(model, step):
    torch.manual_seed(step)  # of the dropout
    ids = torch.randint(0, 13, (4, 6))
    return nn.functional.cross_entropy(model(ids).flatten(0, 1), (ids * 5 + 2).flatten() % 13)


def trained(method, options, *, fused, steps=5, dtype=torch.float32, spoil=None):
    """Train with a learning rate that changes each step; return the model and the optimizer."""
    torch.manual_seed(3)
    model = Net().to(dtype)
    optimizer = create(method, model, lr=1e-2, weight_decay=0.1, **options)
    updates = FusedBackward(optimizer)
    if fused:
        updates.attach()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        loss = loss_of(model, step)
        if spoil == step:
            loss = loss + (model.twice.weight.sum() * 0).abs().sqrt() * 0  # NaN for one weight
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def assert_the_same(first, second):
    (model, optimizer), (other, others) = first, second
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    state, others = optimizer.state_dict()["state"], others.state_dict()["state"]
    assert state.keys() == others.keys()
    for key, kept in state.items():
        for name, value in kept.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(others[key][name])), name


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_the_trajectory_is_the_ordinary_steps_bit_for_bit(name, options):
    if METHODS[name].missing_extra(options):
        pytest.skip(f"needs the extra '{METHODS[name].missing_extra(options)}'")
    plain, fused = (trained(name, options, fused=fused) for fused in (False, True))
    assert_the_same(plain, fused)
    assert all(p.grad is None for p in fused[0].parameters())


def test_bf16_weights_and_gradients_that_are_not_finite_go_the_same_way():
    plain, fused = (
        trained("adadiag", {"period": 2}, fused=fused, dtype=torch.bfloat16, spoil=2)
        for fused in (False, True)
    )
    assert_the_same(plain, fused)
    assert fused[1].diagnostics()["nonfinite_gradients"] == 1


def test_a_tied_weight_moves_once_a_step():
    model, optimizer = trained("adamw", {}, fused=True, steps=3)
    assert int(optimizer.state[model.embed.weight]["step"]) == 3
    assert int(optimizer.state[model.twice.weight]["step"]) == 3


def test_the_norm_is_that_of_all_gradients():
    torch.manual_seed(0)
    model = Net()
    loss_of(model, 0).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    expected = torch.nn.utils.get_total_norm(gradients)
    model.zero_grad()
    torch.manual_seed(0)
    model = Net()
    optimizer = create("adamw", model)
    fused = FusedBackward(optimizer)
    fused.attach()
    loss_of(model, 0).backward()
    assert fused.gradient_norm() == pytest.approx(float(expected), rel=1e-6)
    optimizer.step()
    assert fused.gradient_norm() == 0


def test_one_layers_gradient_is_alive_at_a_time():
    """What a backward pass adds: the gradient being made and the one being used, and the update's temporaries."""
    width, layers = 64, 12
    largest = width * width * 4

    def added(*, fused):
        model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
        optimizer = create("adamw", model)
        updates = FusedBackward(optimizer)
        if fused:
            updates.attach()
        for _ in range(2):  # the first step makes the state
            kept = [value for state in optimizer.state.values() for value in state.values()]
            with StorageTracker() as tracker:
                tracker.file([*model.parameters(), *kept], "held")
                loss = model(torch.ones(2, width)).square().mean()
                before = tracker.live_bytes.total()
                tracker.reset_peak()
                loss.backward()
                peak = tracker.peak_bytes.total()
            optimizer.step()
            optimizer.zero_grad()
        return peak - before

    update = METHODS["adamw"].transient_bytes((width, width))
    assert added(fused=True) <= 2 * largest + update
    assert added(fused=False) >= (layers - 1) * largest


def test_a_second_backward_pass_in_one_step_is_refused():
    model = Net()
    optimizer = create("adamw", model)
    fused = FusedBackward(optimizer)
    fused.attach()
    loss_of(model, 0).backward()
    with pytest.raises(PreflightError, match="second gradient in one step"):
        loss_of(model, 1).backward()
    fused.detach()
    model.zero_grad()
    loss_of(model, 1).backward()
    loss_of(model, 2).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_sparse_gradient_is_refused():
    model = nn.Embedding(5, 4, sparse=True)
    FusedBackward(create("adamw", model)).attach()
    with pytest.raises(PreflightError, match="sparse gradients"):
        model(torch.arange(3)).sum().backward()


def test_a_state_loaded_in_between_is_followed():
    whole = trained("adadiag++", {"period": 2}, fused=True, steps=6)
    model, optimizer = trained("adadiag++", {"period": 2}, fused=True, steps=3)
    again = Net()
    again.load_state_dict(model.state_dict())
    other = create("adadiag++", again, lr=1.0, weight_decay=0.1, period=2)
    fused = FusedBackward(other)
    fused.attach()
    fused.attach()
    other.load_state_dict(optimizer.state_dict())
    for step in range(3, 6):
        for group in other.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        loss_of(again, step).backward()
        other.step()
    assert_the_same(whole, (again, other))


def test_a_method_that_evaluates_the_loss_itself_is_refused():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with pytest.raises(OptionError, match="DLRT evaluates the loss") as caught:
        FusedBackward(create("dlrt", model))
    assert "fused_backward: false" in caught.value.hint
