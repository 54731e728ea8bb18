"""What PyTorch asks of an optimizer's step, for every bundled method."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import Parameter
from torch.optim import lr_scheduler
from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_optimizers import optims
from torch.testing._internal.common_utils import TestCase

from .infos import INFOS, inputs
from .problems import (
    advance,
    assert_same,
    closure_of,
    copies,
    least_squares,
    parameters,
    set_gradients,
)


class TestStepping(TestCase):
    @optims(INFOS)
    def test_goes_in_the_right_direction(self, device, dtype, optim_info):
        """The loss falls, or rises with maximize, over 8 closure steps: every input, and parameters with gaps."""
        choices = [(True, chosen) for chosen in inputs(optim_info, device)]
        for contiguous, chosen in [*choices, (False, choices[0][1])]:
            params, loss = least_squares(device, dtype, contiguous=contiguous)
            assert params[0].is_contiguous() == contiguous
            optimizer = optim_info.optim_cls(params, **chosen.kwargs)
            before = float(loss().detach())
            for _ in range(8):
                optimizer.step(closure_of(optimizer, loss))
            after, ascends = float(loss().detach()), chosen.kwargs.get("maximize", False)
            assert (after > before) if ascends else (after < before), chosen.desc

    @optims(INFOS)
    def test_schedulers_act_by_learning_rate_and_betas_alone(self, device, dtype, optim_info):
        """Under each scheduler, groups with lr as number and as tensor step as if lr and betas were set by hand."""
        rates = (0.01, torch.tensor(0.02))
        for make_schedulers in optim_info.scheduler_inputs:
            scheduled, by_hand = ([parameters(device, dtype)[0] for _ in rates] for _ in "ab")
            first, second = (
                optim_info.optim_cls([
                    {"params": [parameter], "lr": copy.deepcopy(lr)}
                    for parameter, lr in zip(params, rates, strict=True)
                ])
                for params in (scheduled, by_hand)
            )
            schedulers = [make(first) for make in make_schedulers]
            for step in range(3):
                for group, seen in zip(second.param_groups, first.param_groups, strict=True):
                    assert type(group["lr"]) is type(seen["lr"])
                    group.update(lr=copy.deepcopy(seen["lr"]), betas=seen["betas"])
                advance(first, scheduled, [step])
                advance(second, by_hand, [step])
                for scheduler in schedulers:
                    plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
                    scheduler.step(*((1.0,) if plateau else ()))
            assert_same(scheduled, by_hand, type(schedulers[0]).__name__)

    @optims(INFOS)
    def test_nothing_moves_while_a_scheduler_says_zero(self, device, dtype, optim_info):
        """Under a schedule of 0, lr, 0 only the second step moves, for a number and for a tensor."""
        for lr in (0.01, torch.tensor(0.01)):
            params = parameters(device, dtype)
            optimizer = optim_info.optim_cls(params, lr=lr, weight_decay=0.1)
            scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: float(step == 1))
            for step in range(3):
                before = copies(params)
                advance(optimizer, params, [step])
                stays = [torch.equal(a, b) for a, b in zip(params, before, strict=True)]
                assert stays == [step != 1] * len(params)
                scheduler.step()

    @optims(INFOS, dtypes=[torch.float64])
    def test_tensor_lr(self, device, dtype, optim_info):
        """A learning rate in a tensor is the same number, and is read anew at every step."""
        for shape in ((), (1,)):
            by_number, by_tensor = (parameters(device, dtype) for _ in range(2))
            lr = torch.full(shape, 0.01, dtype=dtype)
            first = optim_info.optim_cls(by_number, lr=0.01, weight_decay=0.1)
            second = optim_info.optim_cls(by_tensor, lr=lr, weight_decay=0.1)
            for step in range(3):
                advance(first, by_number, [step])
                advance(second, by_tensor, [step])
            # Only the order of the products with lr differs.
            torch.testing.assert_close(by_tensor, by_number, rtol=1e-9, atol=1e-12)
            before = copies(by_tensor)
            lr.fill_(0.0)
            advance(second, by_tensor, [3])
            assert_same(by_tensor, before)

    @optims(INFOS)
    def test_closures(self, device, dtype, optim_info):
        """A closure runs once per step, with gradients on whatever the caller's mode, and its loss is returned."""
        by_closure, by_hand = (least_squares(device, dtype) for _ in range(2))
        first, second = (optim_info.optim_cls(params) for params, _ in (by_closure, by_hand))
        returned, modes = [], []

        def closure():
            modes.append(torch.is_grad_enabled())
            returned.append(closure_of(first, by_closure[1])())
            return returned[-1]

        for grad_mode in (torch.enable_grad, torch.no_grad, torch.enable_grad):
            with grad_mode():
                before = torch.is_grad_enabled()
                loss = first.step(closure)
                assert torch.is_grad_enabled() == before
            assert loss is returned[-1]
            closure_of(second, by_hand[1])()
            assert second.step() is None
        assert modes == [True] * 3
        assert_same(by_closure[0], by_hand[0])

    @optims(INFOS)
    def test_a_closure_that_fails_changes_nothing(self, device, dtype, optim_info):
        """An error inside the closure reaches the caller before anything moves."""
        params = parameters(device, dtype)
        optimizer = optim_info.optim_cls(params)

        def closure():
            raise KeyError("no batch")

        with pytest.raises(KeyError, match="no batch"):
            optimizer.step(closure)
        assert_same(params, parameters(device, dtype))
        assert len(optimizer.state) == 0

    @optims(INFOS)
    def test_is_noop_without_gradients(self, device, dtype, optim_info):
        """Parameters without a gradient, frozen integers and empty ones stay without state; others step as if alone."""
        for chosen in inputs(optim_info, device):
            params, alone = (parameters(device, dtype) for _ in range(2))
            frozen = Parameter(torch.ones(3, device=device, dtype=torch.int64), requires_grad=False)
            empty = Parameter(torch.ones(0, 3, device=device, dtype=dtype))
            optimizer = optim_info.optim_cls([*params, frozen, empty], **chosen.kwargs)
            optimizer.step()
            assert_same(params, alone, chosen.desc)
            assert len(optimizer.state) == 0
            empty.grad = torch.ones_like(empty)
            set_gradients(alone, 0)
            params[0].grad = alone[0].grad.clone()
            alone[1].grad = None
            optimizer.step()
            optim_info.optim_cls(alone, **chosen.kwargs).step()
            assert_same(params, alone, chosen.desc)
            assert list(optimizer.state) == params[:1]
            assert_same(frozen, torch.ones_like(frozen))

    @optims(INFOS)
    def test_is_noop_for_zero_gradients(self, device, dtype, optim_info):
        """Gradients of zero move nothing before or after others, except by weight decay."""
        for chosen in inputs(optim_info, device):
            params = parameters(device, dtype)
            optimizer = optim_info.optim_cls(params, **chosen.kwargs)
            lr, decay = (float(optimizer.param_groups[0][key]) for key in ("lr", "weight_decay"))
            for _ in range(2):
                for parameter in params:
                    parameter.grad = torch.zeros_like(parameter)
                optimizer.step()
            shrunk = [start.detach() * (1 - lr * decay) ** 2 for start in parameters(device, dtype)]
            tolerance = {"rtol": 1e-6, "atol": 0} if decay else {"rtol": 0, "atol": 0}
            torch.testing.assert_close([p.detach() for p in params], shrunk, **tolerance)
            advance(optimizer, params, range(2))
            for parameter in params:
                assert torch.isfinite(parameter).all(), chosen.desc

    @optims(INFOS)
    def test_gradients_are_only_read(self, device, dtype, optim_info):
        """A step leaves gradients as they were, and keeps nothing that lies in their memory."""
        for chosen in inputs(optim_info, device):
            params = parameters(device, dtype)
            optimizer = optim_info.optim_cls(params, **chosen.kwargs)
            for step in range(2):
                set_gradients(params, step)
                before = [parameter.grad.clone() for parameter in params]
                optimizer.step()
                assert_same([p.grad for p in params], before, chosen.desc)
            for parameter in params:
                held = {value.data_ptr() for value in optimizer.state[parameter].values()}
                assert parameter.grad.data_ptr() not in held, chosen.desc
                assert parameter.data_ptr() not in held, chosen.desc

    @optims(INFOS)
    def test_maximize_is_descent_on_the_negative(self, device, dtype, optim_info):
        """With maximize, a gradient moves parameters as its negative does without."""
        up, down = (parameters(device, dtype) for _ in range(2))
        first = optim_info.optim_cls(up, maximize=True, weight_decay=0.1)
        second = optim_info.optim_cls(down, weight_decay=0.1)
        for step in range(3):
            set_gradients(up, step)
            for mirrored, parameter in zip(down, up, strict=True):
                mirrored.grad = -parameter.grad
            first.step()
            second.step()
        assert_same(up, down)


instantiate_device_type_tests(TestStepping, globals(), only_for=("cpu", "cuda"))
