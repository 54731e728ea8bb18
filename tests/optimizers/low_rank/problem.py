"""Two small layers, their DLRT optimizer, and a batch: what the tests of dynamical low-rank training share."""

import torch
from torch import nn

from subopt.optimizers.methods.low_rank import DLRT_METHOD

FULL = {"rank": 1.0, "tau": 0.0}  # of every layer, and nothing is cut


def network(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(10, 12, dtype=dtype), nn.Tanh(), nn.Linear(12, 8, bias=False, dtype=dtype)
    )


def batch(dtype=torch.float64, rows=32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 10, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randn(rows, 8, generator=generator, dtype=torch.float64).to(dtype)


def make(model, lr=0.05, names=("0.weight", "2.weight"), rest=None, **options):
    """Replace the named layers and return their optimizer; `rest` are the options of the other parameters."""
    common = {key: options.pop(key) for key in ("weight_decay", "maximize") if key in options}
    resolved = DLRT_METHOD.resolve(options)
    successors = DLRT_METHOD.replace(model, dict.fromkeys(names, resolved))
    pairs = [pair for group in successors.values() for pair in group]
    factors = {id(parameter) for _, parameter in pairs}
    groups = [{"params": pairs, **resolved, **common, "lr": lr}]
    others = [pair for pair in model.named_parameters() if id(pair[1]) not in factors]
    if others:
        groups.append({"params": others, **common, "lr": lr, "moments": "sgd", **(rest or {})})
    return DLRT_METHOD.optimizer(groups, model)


def closure_of(model, optimizer, x, y, seen=None):
    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        if seen is not None:
            seen.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        return loss

    return closure


def train(model, optimizer, steps, x=None, y=None):
    x, y = (x, y) if x is not None else batch(next(model.parameters()).dtype)
    return [
        float(optimizer.step(closure_of(model, optimizer, x, y)).detach()) for _ in range(steps)
    ]


def weights(model):
    return [value.clone() for value in DLRT_METHOD.dense_state_dict(model).values()]


def state_tensors(optimizer):
    return [value for state in optimizer.state.values() for value in state.values()]
