"""How far a step with 8-bit moments is from the same step in full precision.

    python benchmarks/bench_low_bit.py --steps 60

The tiny byte LLaMA is trained by AdamW. At every step its gradients go to pairs of optimizers too, one with 8-bit
moments and one without, each on a copy of the weights: same gradients, so what differs is what the moments forgot.
Printed is ||step - exact step|| / ||exact step|| over all matrices, and over embedding and head.
"""

import argparse
import copy
import statistics
from collections import defaultdict

import torch
from _common import load_example
from torch import Tensor, nn

from subopt.optimizers import create, treatments

PAIRS = {"adamw": "adamw-8bit", "galore": "galore-8bit", "osd": "osd-8bit", "adadiag++": None}
LR = 1e-3


class Follower:
    """A copy of the model that takes the steps a method makes of another model's gradients."""

    def __init__(self, model: nn.Module, method: str, options: dict[str, str]) -> None:
        self.model = copy.deepcopy(model)
        self.optimizer = create(method, self.model, lr=LR, **options)

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


def measure(steps: int, batch_size: int) -> dict[tuple[str, str], list[float]]:
    """Return each step's error by method and treatment."""
    example = load_example("llama_bytes")
    torch.manual_seed(0)
    model = example.build_model("tiny")
    optimizer = create("adamw", model, lr=LR)
    described = {item.name: item for item in treatments(model)}
    names = [name for name, _ in model.named_parameters()]
    kinds = {
        "matrices": [described[n].treatment == "matrix" for n in names],
        "embedding and head": [
            described[n].treatment == "fallback" and len(described[n].shape) == 2 for n in names
        ],
    }
    pairs = {
        method: (
            Follower(model, low or method, {} if low else {"state_dtype": "8bit"}),
            Follower(model, method, {}),
        )
        for method, low in PAIRS.items()
    }
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _, batch in zip(range(steps), example.batches(batch_size), strict=False):
        optimizer.zero_grad()
        example.loss(model, batch).backward()
        for method, (low, full) in pairs.items():
            moved = low.step(model), full.step(model)
            for kind, members in kinds.items():
                chosen = [[t for t, m in zip(side, members, strict=True) if m] for side in moved]
                errors[method, kind].append(relative_error(*chosen))
        optimizer.step()
    return errors


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=2, help="windows of 256 bytes")
    arguments = parser.parse_args()
    print("| moments in 8 bits | of | step 2 | median | last ten | largest |")
    print("|---|---|---|---|---|---|")
    for (method, kind), found in measure(arguments.steps, arguments.batch_size).items():
        numbers = (
            found[1], statistics.median(found), statistics.median(found[-10:]), max(found),
        )  # fmt: skip
        print(f"| {method} | {kind} | " + " | ".join(f"{100 * x:.2f} %" for x in numbers) + " |")


if __name__ == "__main__":
    main()
