"""Dtypes and strides of what a step is given, for every bundled method."""

from __future__ import annotations

import torch
from torch.nn import Parameter
from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_optimizers import optims
from torch.testing._internal.common_utils import TestCase

from .infos import INFOS, smooth
from .problems import advance, assert_same, parameters, set_gradients


class TestTensors(TestCase):
    @optims(INFOS)
    def test_dtypes_mix(self, device, dtype, optim_info):
        """Parameters of four dtypes in one group step as each would alone, and keep their dtype."""
        dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
        together, alone = ([parameters(device, each)[0] for each in dtypes] for _ in range(2))
        optimizer = optim_info.optim_cls(together)
        for step in range(3):
            for parameter in together:
                set_gradients([parameter], step)
            optimizer.step()
        for parameter in alone:
            advance(optim_info.optim_cls([parameter]), [parameter], range(3))
        assert_same(together, alone)

    @optims(INFOS, dtypes=[torch.float64])
    def test_strides_do_not_matter(self, device, dtype, optim_info):
        """Transposed, spread out and broadcast gradients and parameters step like contiguous ones."""
        results = []
        for layout in ("contiguous", "transposed", "spread"):
            value = parameters(device, dtype)[0].detach()
            gradients = [_laid_out(value.cos(), layout), _laid_out(value.sin(), layout)]
            # Rank one, so last: at a refresh, most of a basis fitted to it would be arbitrary.
            column = value.cos()[:, :1].expand_as(value)
            gradients.append(column.contiguous() if layout == "contiguous" else column)
            parameter = Parameter(_laid_out(value, layout))
            optimizer = optim_info.optim_cls([parameter], lr=0.01, **smooth(optim_info))
            for gradient in gradients:
                parameter.grad = gradient
                optimizer.step()
            results.append(parameter.detach().contiguous())
        # BLAS and reductions may add in another order.
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=1e-9, atol=1e-9)

    @optims(INFOS)
    def test_the_default_dtype_does_not_matter(self, device, dtype, optim_info):
        """Under any torch default dtype, steps and the dtypes of the state are the same."""
        results = []
        before = torch.get_default_dtype()
        for default in (torch.float32, torch.float64, torch.bfloat16):
            params, gradients = (parameters(device, dtype) for _ in range(2))
            torch.set_default_dtype(default)
            try:
                optimizer = optim_info.optim_cls(params)
                for factor in (1.0, -0.5, 2.0):
                    for parameter, gradient in zip(params, gradients, strict=True):
                        parameter.grad = gradient.detach().cos() * factor
                    optimizer.step()
            finally:
                torch.set_default_dtype(before)
            results.append([params, optimizer.state_dict()])
        assert_same(results[1], results[0])
        assert_same(results[2], results[0])


def _laid_out(value, layout):
    """The same values with other strides."""
    if layout == "transposed":
        return value.mT.contiguous().mT
    if layout == "spread":
        return torch.stack([value, value], dim=-1)[..., 0]
    return value.contiguous()


instantiate_device_type_tests(TestTensors, globals(), only_for=("cpu", "cuda"))
