"""What PyTorch asks of an optimizer's constructor and its groups, for every bundled method."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch.nn import Parameter
from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optims
from torch.testing._internal.common_utils import TestCase

from .infos import IMPLEMENTATIONS, INFOS, inputs
from .problems import advance, assert_same, copies, parameters, set_gradients


class TestConstruction(TestCase):
    @optims(INFOS)
    def test_inputs_leave_implementations_to_the_tests(self, device, dtype, optim_info):
        """No valid input chooses an implementation (foreach, fused, differentiable)."""
        for chosen in inputs(optim_info, device):
            assert set(chosen.kwargs) & set(IMPLEMENTATIONS) == set()

    @optims(INFOS)
    def test_errors(self, device, dtype, optim_info):
        """Every error input is refused, by the error and message it should be."""
        for wrong in optim_info.optim_error_inputs_func(device=device, dtype=dtype):
            given = wrong.optimizer_error_input
            params = parameters(device, dtype) if given.params is None else given.params
            if issubclass(wrong.error_type, Warning):
                with pytest.warns(wrong.error_type, match=wrong.error_regex):
                    optim_info.optim_cls(params, **given.kwargs)
            elif wrong.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR:
                with pytest.raises(wrong.error_type, match=wrong.error_regex):
                    optim_info.optim_cls(params, **given.kwargs)
            else:
                optimizer = optim_info.optim_cls(params, **given.kwargs)
                with pytest.raises(wrong.error_type, match=wrong.error_regex):
                    optimizer.step()

    @optims(INFOS)
    def test_can_be_printed(self, device, dtype, optim_info):
        """repr names every option of every group."""
        for chosen in inputs(optim_info, device):
            params = parameters(device, dtype)
            optimizer = optim_info.optim_cls(params, **chosen.kwargs)
            before = repr(optimizer)
            for key in optimizer.param_groups[0].keys() - {"params"}:
                assert f"    {key}: " in before, chosen.desc
            assert before.count("Parameter Group") == 1

    @optims(INFOS)
    def test_groups_step_like_separate_optimizers(self, device, dtype, optim_info):
        """Groups with their own learning rate, weight decay and direction step as optimizers of their own would."""
        own = [{"lr": 0.0}, {"lr": 0.1}, {"weight_decay": 0.5}, {"lr": 0.1, "maximize": True}]
        starts = [parameters(device, dtype) for _ in own]
        together = [copies(params) for params in starts]
        groups = [{"params": p, **o} for p, o in zip(together, own, strict=True)]
        optimizer = optim_info.optim_cls(groups)
        for step in range(3):
            for params in together:
                set_gradients(params, step)
            optimizer.step()
        for params, settings in zip(starts, own, strict=True):
            advance(optim_info.optim_cls(params, **settings), params, range(3))
        assert_same(together, starts)
        # Nothing moves at a learning rate of 0.
        assert_same(together[0], parameters(device, dtype))

    @optims(INFOS)
    def test_changing_a_group_leaves_the_defaults(self, device, dtype, optim_info):
        """Changing a group changes neither the defaults nor other groups, and acts from the next step."""
        for lr in (0.01, torch.tensor(0.01)):
            first, second = (parameters(device, dtype) for _ in range(2))
            optimizer = optim_info.optim_cls([{"params": first}, {"params": second}], lr=lr)
            before = deepcopy(optimizer.defaults)
            optimizer.param_groups[0] |= {"lr": 0.0, "weight_decay": 0.7}
            advance(optimizer, [*first, *second], range(2))
            assert_same(first, parameters(device, dtype))
            assert not torch.equal(second[0], first[0])
            assert optimizer.defaults == before

    @optims(INFOS)
    def test_a_group_can_be_added_later(self, device, dtype, optim_info):
        """A group added after some steps starts afresh and does not disturb the first."""
        first, second = (parameters(device, dtype) for _ in range(2))
        optimizer = optim_info.optim_cls(first)
        advance(optimizer, first, range(2))
        optimizer.add_param_group({"params": iter(second), "weight_decay": 0.3})
        for step in range(2):
            set_gradients(first, step + 2)
            set_gradients(second, step)
            optimizer.step()
        alone, late = (parameters(device, dtype) for _ in range(2))
        advance(optim_info.optim_cls(alone), alone, range(4))
        advance(optim_info.optim_cls(late, weight_decay=0.3), late, range(2))
        assert_same([first, second], [alone, late])

    @optims(INFOS)
    def test_a_refused_group_is_not_kept(self, device, dtype, optim_info):
        """A group that cannot be added leaves the optimizer as it was."""
        params = parameters(device, dtype)
        optimizer = optim_info.optim_cls(params)
        spare = torch.nn.Parameter(torch.ones(2, 2, device=device, dtype=dtype))
        complex_weight = Parameter(torch.ones(2, 2, device=device, dtype=torch.complex64))
        for group, error, pattern in (
            ({"params": [complex_weight]}, RuntimeError, "complex parameters are not supported"),
            ({"params": [params[0]]}, ValueError, "appear in more than one parameter group"),
            ({"params": [spare], "lr": -1.0}, ValueError, "Invalid lr"),
            ({"params": [spare * 2]}, ValueError, "non-leaf"),
            ({"params": {spare}}, TypeError, "ordered collections"),
            ([spare], TypeError, "param_group must be a dict"),
        ):
            with pytest.raises(error, match=pattern):
                optimizer.add_param_group(group)
            assert len(optimizer.param_groups) == 1
        advance(optimizer, params, range(1))

    @optims(INFOS)
    def test_named_parameters_step_like_unnamed_ones(self, device, dtype, optim_info):
        """(name, parameter) pairs are trained like parameters, and the names are kept."""
        named, unnamed = (parameters(device, dtype) for _ in range(2))
        pairs = [(f"layer.{index}", parameter) for index, parameter in enumerate(named)]
        optimizer = optim_info.optim_cls(pairs)
        assert optimizer.param_groups[0]["param_names"] == [name for name, _ in pairs]
        advance(optimizer, named, range(2))
        advance(optim_info.optim_cls(unnamed), unnamed, range(2))
        assert_same(named, unnamed)


instantiate_device_type_tests(TestConstruction, globals(), only_for=("cpu", "cuda"))
