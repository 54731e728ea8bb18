"""Sizes and durations as people write them. A leaf: imports nothing of ours but the errors."""

from __future__ import annotations

import re

from .errors import UsageError

_FACTORS = {"": 2**30}
for _power, _letter in enumerate("KMGT", start=1):
    _FACTORS |= {
        _letter: 2 ** (10 * _power),
        f"{_letter}IB": 2 ** (10 * _power),
        f"{_letter}B": 10 ** (3 * _power),
    }
_MOST_BYTES = 2.0**63  # more than anything has


def parse_size(text: str) -> int:
    """Return the bytes in a size: `24G` and `24GiB` are 24 * 2**30, `24GB` is 24 * 10**9, `24` is GiB.

    Raises:
        UsageError: The text is not a positive size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    size = float(match[1]) * _FACTORS.get(match[2].upper(), 0) if match else 0.0
    if not 1 <= size < _MOST_BYTES:
        raise UsageError(
            f"'{text}' is not a memory size",
            "write it like 24G or 24GiB (2^30 bytes each), or 24GB (10^9)",
        )
    return int(size)


def format_bytes(count: int | None) -> str:
    """Return bytes with a binary unit and three digits at most, such as `1.44 GiB`; a dash for None."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 999.5:
            return _three_digits(value, unit)
        value /= 1024
    return _three_digits(value, "TiB")


def _three_digits(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value:.0f} B"
    return f"{value:.3g} {unit}" if abs(value) < 100 else f"{value:.0f} {unit}"


def format_ms(milliseconds: float | None) -> str:
    """Return a duration such as `0.42 ms`, `310 ms`, `4.1 s` or `2 h 05 min`; a dash for None."""
    if milliseconds is None:
        return "-"
    if milliseconds < 999.5:
        return f"{milliseconds:.2g} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 99.5:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
