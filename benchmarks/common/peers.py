"""Other implementations from PyPI, at settings equal to ours. Imported when made: a missing one is a row that says so.

The authors' own code of Online Subspace Descent, SOAP and Distributed Shampoo is not on PyPI and so not here.
"""

import importlib.metadata
import re
from collections.abc import Callable
from pathlib import Path

import torch
from common.contenders import LR, PERIOD, Entry, Make
from torch import nn

Parameters = list[nn.Parameter]
PEERS = Path(__file__).parents[1] / "peers.txt"


def versions() -> dict[str, str]:
    """The installed version of every package in peers.txt."""
    found = {}
    for line in PEERS.read_text(encoding="utf-8").splitlines():
        if name := re.match(r"[\w-]+", line):
            try:
                found[name[0]] = importlib.metadata.version(name[0])
            except importlib.metadata.PackageNotFoundError:
                found[name[0]] = "missing"
    return found


def every(phase: int) -> Callable[[int], bool]:
    """Refreshes at the steps, from 0, that are `phase` modulo PERIOD."""
    return lambda index: index % PERIOD == phase


def torch_entry(name: str, make: Make) -> Entry:
    """One of torch.optim."""
    return Entry(name, "torch", make)


class LookingAdamW(torch.optim.AdamW):
    """Torch's, after reading every gradient once: the least that finding one that is not finite takes."""

    def step(self, closure: None = None) -> None:
        """Read, then step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                flat = parameter.grad.reshape(-1)
                float(torch.dot(flat, flat))
        super().step(closure)


FOREACH, FUSED = "AdamW, foreach", "AdamW, fused"
FUSED_LOOKING = "AdamW, fused, every gradient read before"
TORCH = {
    entry.name: entry
    for entry in (
        torch_entry(FOREACH, lambda ps: torch.optim.AdamW(ps, lr=LR, foreach=True)),
        torch_entry(FUSED, lambda ps: torch.optim.AdamW(ps, lr=LR, fused=True)),
        torch_entry(FUSED_LOOKING, lambda ps: LookingAdamW(ps, lr=LR, fused=True)),
        torch_entry("Adafactor", lambda ps: torch.optim.Adafactor(ps, lr=LR)),
        torch_entry("Muon", lambda ps: torch.optim.Muon(ps, lr=LR)),
    )
}


def _rank(parameters: Parameters) -> int:
    return min(parameters[0].shape) // 4


def _galore(parameters: Parameters) -> torch.optim.Optimizer:
    from galore_torch import GaLoreAdamW

    group = {
        "params": parameters,
        "rank": _rank(parameters),
        "update_proj_gap": PERIOD,
        "scale": 0.25,
        "proj_type": "std",
    }
    return GaLoreAdamW([group], lr=LR, no_deprecation_warning=True)


def _apollo(parameters: Parameters) -> torch.optim.Optimizer:
    from apollo_torch import APOLLOAdamW

    group = {
        "params": parameters,
        "rank": _rank(parameters),
        "update_proj_gap": PERIOD,
        "scale": 1,
        "proj_type": "std",
        "proj": "random",
        "scale_type": "channel",
    }
    return APOLLOAdamW([group], lr=LR)


def _po_galore(parameters: Parameters) -> torch.optim.Optimizer:
    from pytorch_optimizer import GaLore

    group = {
        "params": parameters,
        "rank": _rank(parameters),
        "update_proj_gap": PERIOD,
        "scale": 0.25,
        "projection_type": "std",
    }
    return GaLore([group], lr=LR)


def _po_soap(parameters: Parameters) -> torch.optim.Optimizer:
    from pytorch_optimizer import SOAP

    return SOAP(parameters, lr=LR, precondition_frequency=PERIOD)


def _po_shampoo(parameters: Parameters) -> torch.optim.Optimizer:
    from pytorch_optimizer import ScalableShampoo

    # Step by step as ours: preconditioned from the first step on, in blocks of 512, grafted to RMSProp's step (3).
    return ScalableShampoo(
        parameters,
        lr=LR,
        start_preconditioning_step=1,
        preconditioning_compute_steps=PERIOD,
        block_size=512,
        graft_type=3,
        nesterov=False,
    )


def _po_lion(parameters: Parameters) -> torch.optim.Optimizer:
    from pytorch_optimizer import Lion

    return Lion(parameters, lr=LR)


def _po_adafactor(parameters: Parameters) -> torch.optim.Optimizer:
    from pytorch_optimizer import AdaFactor

    return AdaFactor(parameters, lr=LR, momentum_dtype=torch.float32)


def _po_adafactor_without_momentum(parameters: Parameters) -> torch.optim.Optimizer:
    from pytorch_optimizer import AdaFactor

    return AdaFactor(parameters, lr=LR, betas=(None, 0.999))


def _heavyball_soap(parameters: Parameters) -> torch.optim.Optimizer:
    import heavyball

    heavyball.utils.compile_mode = None  # its compilation takes minutes on two cores
    return heavyball.SOAP(
        parameters,
        lr=LR,
        precondition_frequency=PERIOD,
        use_precond_schedule=False,
        max_precond_dim=10_000,
    )


def _bnb_lion(parameters: Parameters) -> torch.optim.Optimizer:
    import bitsandbytes

    return bitsandbytes.optim.Lion32bit(parameters, lr=LR)


def _bnb_adamw(parameters: Parameters) -> torch.optim.Optimizer:
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(parameters, lr=LR)


def _torchao_adamw(parameters: Parameters) -> torch.optim.Optimizer:
    from torchao.optim import AdamW8bit

    return AdamW8bit(parameters, lr=LR)


GALORE_TORCH, PO_GALORE = "GaLore, galore-torch", "GaLore, pytorch_optimizer"
PO_SOAP, HEAVYBALL_SOAP = "SOAP, pytorch_optimizer", "SOAP, heavyball"
PO_LION, BNB_LION = "Lion, pytorch_optimizer", "Lion, bitsandbytes"
PO_ADAFACTOR = "Adafactor, pytorch_optimizer"
PO_ADAFACTOR_NOMOM = "Adafactor without momentum, pytorch_optimizer"
PO_SHAMPOO = "Shampoo, pytorch_optimizer"

OTHERS = {
    entry.name: entry
    for entry in (
        Entry(GALORE_TORCH, "galore-torch", _galore, 200, every(0)),
        Entry(PO_GALORE, "pytorch_optimizer", _po_galore, 200, every(PERIOD - 1)),
        Entry("APOLLO, apollo-torch", "apollo-torch", _apollo, 200, every(0)),
        Entry(PO_SOAP, "pytorch_optimizer", _po_soap, 10, every(0)),
        Entry(HEAVYBALL_SOAP, "heavyball", _heavyball_soap, 10, "slow"),
        Entry(PO_SHAMPOO, "pytorch_optimizer", _po_shampoo, 10, every(PERIOD - 1)),
        Entry(PO_LION, "pytorch_optimizer", _po_lion),
        Entry(BNB_LION, "bitsandbytes", _bnb_lion),
        Entry(PO_ADAFACTOR, "pytorch_optimizer", _po_adafactor),
        Entry(PO_ADAFACTOR_NOMOM, "pytorch_optimizer", _po_adafactor_without_momentum),
        Entry("AdamW 8-bit, bitsandbytes", "bitsandbytes", _bnb_adamw),
        Entry("AdamW 8-bit, torchao", "torchao", _torchao_adamw),
    )
}
