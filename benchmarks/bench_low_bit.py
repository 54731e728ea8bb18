"""How far a step with 8-bit moments is from the same step in full precision.

    python benchmarks/bench_low_bit.py

The tiny byte LLaMA is trained by AdamW. At every step its gradients go to further optimizers too, each on a copy of the
weights, with moments in 8 bits, in bfloat16 and in full: same gradients, so what differs is what the moments forgot.
Printed is ||step - full step|| / ||full step|| over all matrices, and over embedding and head.
"""

import argparse
import copy
import statistics
from collections import defaultdict

import torch
from common.conditions import load_example
from torch import Tensor, nn

from subopt.optimizers import create, parameter_roles

COMPARED = (
    ("adamw", "8bit"),
    ("adamw", "bf16"),
    ("galore", "8bit"),
    ("osd", "8bit"),
    ("adadiag++", "8bit"),
)
LR = 1e-3


class Follower:
    """A copy of the model that takes the steps a method makes of another model's gradients."""

    def __init__(self, model: nn.Module, method: str, state_dtype: str) -> None:
        self.model = copy.deepcopy(model)
        self.optimizer = create(method, self.model, lr=LR, state_dtype=state_dtype)

    def step(self, model: nn.Module) -> list[Tensor]:
        """Step with the gradients of `model`; return by how much each parameter moved."""
        before = [parameter.detach().clone() for parameter in self.model.parameters()]
        for own, other in zip(self.model.parameters(), model.parameters(), strict=True):
            own.grad = None if other.grad is None else other.grad.clone()
        self.optimizer.step()
        after = self.model.parameters()
        return [new.detach() - old for new, old in zip(after, before, strict=True)]


def relative_error(low: list[Tensor], full: list[Tensor]) -> float:
    """||low - full|| / ||full||, all tensors taken together."""
    wrong = sum(float((a - b).square().sum()) for a, b in zip(low, full, strict=True))
    return (wrong / sum(float(b.square().sum()) for b in full)) ** 0.5


def members(model: nn.Module) -> dict[str, list[int]]:
    """The positions of the matrices among a model's parameters, and of embedding and head."""
    described = {item.name: item for item in parameter_roles(model)}
    items = [described[name] for name, _ in model.named_parameters()]
    return {
        "matrices": [i for i, item in enumerate(items) if item.role == "matrix"],
        "embedding and head": [
            i for i, item in enumerate(items) if item.role == "fallback" and len(item.shape) > 1
        ],
    }


def measure(steps: int, batch_size: int) -> dict[tuple[str, str, str], list[float]]:
    """Return each step's error by method, storage and kind of parameter."""
    example = load_example("llama_bytes")
    torch.manual_seed(0)
    model = example.build_model("tiny")
    optimizer = create("adamw", model, lr=LR)
    kinds = members(model)
    full = {method: Follower(model, method, "fp32") for method, _ in COMPARED}
    low = {pair: Follower(model, *pair) for pair in COMPARED}
    errors: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for _, batch in zip(range(steps), example.batches(batch_size), strict=False):
        optimizer.zero_grad()
        example.loss(model, batch).backward()
        exact = {method: follower.step(model) for method, follower in full.items()}
        for (method, storage), follower in low.items():
            moved = follower.step(model)
            for kind, chosen in kinds.items():
                sides = ([side[i] for i in chosen] for side in (moved, exact[method]))
                errors[method, storage, kind].append(relative_error(*sides))
        optimizer.step()
    return errors


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=2, help="windows of 256 bytes")
    arguments = parser.parse_args()
    print("| method | moments in | of | step 2 | median | last ten | largest |")
    print("|---|---|---|---|---|---|---|")
    for key, found in measure(arguments.steps, arguments.batch_size).items():
        numbers = found[1], statistics.median(found), statistics.median(found[-10:]), max(found)
        cells = [*key, *(f"{100 * number:.2f} %" for number in numbers)]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
