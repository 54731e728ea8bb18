"""Curves in double logarithms as SVG, drawn here so that a page needs nothing to show them."""

import math
from collections.abc import Callable, Sequence

import numpy as np

Points = Sequence[tuple[float, float]]
Place = Callable[[float, float], tuple[float, float]]

COLOURS = ("#2563a8", "#c2410c", "#15803d", "#7e22ce", "#57534e", "#0e7490", "#be123c", "#4d7c0f")
WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 200, 34, 44


def exponent(points: Points) -> float:
    """Slope of a line through the points in double logarithms; nan of fewer than two."""
    if len(points) < 2:
        return math.nan
    x, y = np.log(np.array(points, dtype=float)).T
    return float(np.polyfit(x, y, 1)[0])


def plot(
    title: str, x_name: str, y_name: str, curves: dict[str, Points], fitted_from: float = 0
) -> str:
    """Draw named curves with their exponents; every x that occurs is marked, and every power of ten of y.

    Exponents are fitted to the points from x = `fitted_from` on.
    """
    points = [point for curve in curves.values() for point in curve]
    (x_low, x_high), (y_low, y_high) = (limits([p[axis] for p in points]) for axis in (0, 1))

    def place(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / x_low) / math.log(x_high / x_low)
        up = math.log(y / y_low) / math.log(y_high / y_low)
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * across,
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * up,
        )

    drawn = axes(place, sorted({x for x, _ in points}), (y_low, y_high))
    for colour, curve in zip(COLOURS, curves.values(), strict=False):
        placed = [place(*point) for point in curve]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
    drawn += legend({
        name: exponent([point for point in curve if point[0] >= fitted_from])
        for name, curve in curves.items()
    })
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-weight="bold">{title}</text>',
        f'<text x="{LEFT - 46}" y="{TOP - 2}">{y_name}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{x_name}</text>',
        *drawn,
        "</svg>",
        "",
    ])


def limits(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest, apart even where they are equal, with a little room."""
    low, high = min(values), max(values)
    return low / 1.1, high * 1.1


def axes(place: Place, xs: Sequence[float], y_limits: tuple[float, float]) -> list[str]:
    """Ticks at the given x and at powers of ten of y, with lines across."""
    low, high = y_limits
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    drawn = [f'<path d="M{LEFT} {TOP} V{bottom} H{right}" fill="none" stroke="#888"/>']
    for x in xs:
        across, _ = place(x, low)
        drawn.append(f'<text x="{across:.1f}" y="{bottom + 16}" text-anchor="middle">{x:g}</text>')
    for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
        _, up = place(xs[0], 10.0**power)
        drawn += [
            f'<path d="M{LEFT} {up:.1f} H{right}" stroke="#ddd"/>',
            f'<text x="{LEFT - 6}" y="{up + 4:.1f}" text-anchor="end">{10.0**power:g}</text>',
        ]
    return drawn


def legend(exponents: dict[str, float]) -> list[str]:
    """The names beside the plot, each with its exponent."""
    drawn = []
    for index, (name, power) in enumerate(exponents.items()):
        y = TOP + 12 + 18 * index
        drawn += [
            f'<path d="M{WIDTH - RIGHT + 10} {y - 4} h16" stroke="{COLOURS[index]}" stroke-width="2"/>',
            f'<text x="{WIDTH - RIGHT + 32}" y="{y}">{name}, {power:.2f}</text>',
        ]
    return drawn
