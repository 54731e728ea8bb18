"""A small model with an optimizer and a closure, for methods that put their own layers into a model."""

from __future__ import annotations

import copy

import torch
from torch import nn

from subopt.optimizers import create


class Run:
    """A small model, the method's optimizer of it, and the closure that evaluates its loss."""

    def __init__(self, name, *, lr=0.01, sign=1.0, dtype=torch.float32, **options):
        generator = torch.Generator().manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4)).to(dtype)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
        self.x, self.y = (torch.randn(32, n, generator=generator).to(dtype) for n in (6, 4))
        self.sign = sign
        self.optimizer = create(name, self.model, lr=lr, **options)

    def loss(self):
        return self.sign * (self.model(self.x) - self.y).square().mean()

    def closure(self):
        self.optimizer.zero_grad()
        value = self.loss()
        value.backward()
        return value

    def advance(self, steps):
        for _ in range(steps):
            self.optimizer.step(self.closure)
        return self

    def value(self):
        """The loss, as a number."""
        with torch.no_grad():
            return float(self.loss())

    def everything(self):
        """All that a checkpoint would hold."""
        return copy.deepcopy([self.model.state_dict(), self.optimizer.state_dict()])

    def successor(self, state):
        """A copy of the model with a new optimizer of the same groups, which has loaded this state."""
        other = copy.copy(self)
        other.optimizer = copy.deepcopy(self.optimizer)
        other.model = other.optimizer.model
        other.optimizer.state.clear()
        for group in other.optimizer.param_groups:
            group["lr"] = 0.5
        other.optimizer.load_state_dict(state)
        return other
