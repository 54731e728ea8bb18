"""What the records of the method table share."""

from __future__ import annotations

from typing import Any

from .table import Method

ADAM = ("betas", "eps", "state_dtype")
BAD_BETAS = ({"betas": (1.0, 0.999)}, "Invalid betas")
BAD_PERIOD = ({"period": 0}, "Invalid period")


def record(name: str, summary: str, paper: str, section: str, **rest: Any) -> Method:
    """Return a record whose tests try at least the defaults, and at least refuse betas of 1."""
    rest.setdefault("error_inputs", (BAD_BETAS,))
    rest.setdefault("test_inputs", ({},))
    rest["capabilities"] = frozenset({"bf16_parameters", "closure", *rest.get("capabilities", ())})
    return Method(name=name, summary=summary, paper=paper, section=section, **rest)
