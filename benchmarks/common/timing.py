"""Times: of one call on a device, and what a report says of many."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch


def elapsed_ms(run: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds that a call takes: by the clock on a CPU, between two events on a GPU."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))
    begin_s = time.perf_counter()
    run()
    return round(1e3 * (time.perf_counter() - begin_s), 4)


def median(values: Sequence[float]) -> float | None:
    """The median, or None of nothing."""
    return statistics.median(values) if values else None


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """What a quarter and three quarters of the values lie below."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def shown_ms(values: Sequence[float]) -> str:
    """The median and, in brackets, the quartiles, in milliseconds; a dash of nothing."""
    if not values:
        return "–"
    low, high = quartiles(values)
    middle = statistics.median(values)
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def ratio(value: float | None, to: float | None) -> float | None:
    """A quotient, or None where either is unknown."""
    return None if value is None or not to else value / to


def shown(value: float | None, digits: int = 2) -> str:
    """A number, or a dash for what was not measured."""
    return "–" if value is None else f"{value:.{digits}f}"
