"""A page for every method, from its record in the method table and the published numbers about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from tables import table

from subopt.optimizers import METHODS, Method
from subopt.recipes.evidence.published import load_evidence
from subopt.units import format_bytes

SHAPES = ((512, 512), (1024, 4096), (4096, 11008))
BASELINE = "adamw"
CAPABILITIES = {
    "refreshes": "Some steps decompose a matrix and take longer than the others.",
    "rank": "It has a rank.",
    "projects": "Its moments live in a subspace of the gradient's, of that rank.",
    "bf16_parameters": "It takes bfloat16 weights.",
    "closure": "`step(closure)` evaluates the loss once and returns it.",
    "needs_closure": "It needs `step(closure)`, which it calls more than once: the loss is evaluated again and again "
    "on the same batch.",
    "waits_for_device": "Every step reads numbers off the device, and so waits for it.",
}
FALLBACKS = {"adamw": "AdamW", "adamw-nomom": "AdamW without momentum"}


def pages() -> dict[str, str]:
    """Return the pages of all methods, in the method table's order, and their index."""
    return {"methods/index.md": _index()} | {
        f"methods/{name}.md": _page(method) for name, method in METHODS.items()
    }


def _index() -> str:
    rows = [
        (f"[`{name}`]({name}.md)", method.summary, method.state_formula, _bytes(method, SHAPES[1]))
        for name, method in METHODS.items()
    ]
    head = ("method", "what it does", "state", f"bytes for {_shape(SHAPES[1])}")
    return (
        "# Methods\n\n"
        "State is in numbers per m x n matrix, m <= n, as the papers count; bytes are what subopt keeps for a float32 "
        "matrix at the method's defaults, counters and float32 bases included. What the method leaves alone, such as "
        "embeddings, heads, norms and biases, goes to its fallback. `subopt methods` prints these for any shape.\n\n"
        + table(head, rows, align="lllr")
    )


def _page(method: Method) -> str:
    parts = [
        f"# {method.name}",
        f"{method.summary[0].upper()}{method.summary[1:]}.",
        f"From: {method.paper}; {method.section}.",
        _use(method),
        _options(method),
        _memory(method),
        _needs(method),
        _published(method),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _use(method: Method) -> str:
    extra = ""
    if method.defaults.get("state_dtype") == "8bit" or method.fixed.get("state_dtype") == "8bit":
        extra = "\n\nIt needs `pip install 'subopt[lowbit]'`."
    return (
        f"## Use\n\nIn a [recipe](../recipe-file.md):\n\n```yaml\n{_recipe_lines(method)}\n```\n\n"
        f"In Python, and so in a [Trainer, in Lightning or in a loop of your own](../elsewhere.md):\n\n"
        f"```python\n{_python_lines(method)}\n```{extra}"
    )


def _some_options(method: Method) -> dict[str, Any]:
    """The options most worth seeing, the rank and the period, with their defaults."""
    shown = [key for key in ("rank", "period") if key in method.tunable]
    return {key: method.defaults[key] for key in shown if method.defaults[key] is not None}


def _recipe_lines(method: Method) -> str:
    options = ", ".join(f"{key}: {_yaml(value)}" for key, value in _some_options(method).items())
    lines = ["optimizer:", f"  method: {method.name}", "  lr: 0.001"]
    return "\n".join([*lines, f"  options: {{{options}}}"] if options else lines)


def _python_lines(method: Method) -> str:
    options = "".join(f", {key}={value!r}" for key, value in _some_options(method).items())
    return (
        "from subopt.optimizers import create\n\n"
        f'optimizer = create("{method.name}", model, lr=1e-3{options})'
    )


def _yaml(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return str(value)


def _options(method: Method) -> str:
    rows = [
        (f"`{key}`", f"`{_yaml(method.defaults[key])}`", option.meaning, option.allowed)
        for key, option in method.settable.items()
    ]
    text = "## Options\n\n" + table(("option", "default", "meaning", "allowed"), rows)
    if method.fixed:
        fixed = ", ".join(f"`{key}: {_yaml(value)}`" for key, value in method.fixed.items())
        text += f"\nWhat makes it this method and cannot be set: {fixed}."
    return text


def _memory(method: Method) -> str:
    rows = [_costs(method, shape) for shape in SHAPES]
    head = ("float32 matrix", "state", "AdamW's", "share", "FLOPs of a step")
    formula = f"Numbers per m x n matrix, m <= n: {method.state_formula}.\n\n"
    note = ""
    if method.layers:
        note = (
            "\nIt replaces layers, so weights and gradients change their size too. The state is counted at the largest "
            "rank that the options allow."
        )
    return (
        "## Memory and work\n\n"
        f"{formula}{table(head, rows, align='lrrrr')}\n"
        "At the default options. "
        f"FLOPs include a refresh, spread over its period; an m x n by n x n product is 2mn^2.{note}"
    )


def _costs(method: Method, shape: tuple[int, ...]) -> tuple[str, ...]:
    state, baseline = method.state_bytes(shape), METHODS[BASELINE].state_bytes(shape)
    return (
        _shape(shape),
        format_bytes(state),
        format_bytes(baseline),
        f"{state / baseline:.2f}",
        f"{method.step_flops(shape):.2g}",
    )


def _bytes(method: Method, shape: tuple[int, ...]) -> str:
    return format_bytes(method.state_bytes(shape, torch.float32))


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _needs(method: Method) -> str:
    facts = [words for key, words in CAPABILITIES.items() if key in method.capabilities]
    if "needs_closure" in method.capabilities:
        facts.remove(CAPABILITIES["closure"])
    if method.layers:
        kinds = " and ".join(sorted(method.layers))
        facts.append(
            f"It puts layers of its own in the place of plain {kinds} ones: look parameters up after `create`."
        )
    facts.append(
        f"Embeddings, output head, norms and biases are trained by {FALLBACKS[method.fallback]}; "
        "`fallback` in the recipe gives that a learning rate of its own."
    )
    return "## What to know\n\n" + "\n".join(f"- {fact}" for fact in facts)


def _published(method: Method) -> str:
    rows = list(_results(method.name))
    evidence = load_evidence()
    rates = [rate for rate in evidence.rates if method.name in rate.methods]
    parts = ["## What is published"]
    if rows:
        head = ("setting", "metric", method.name, "AdamW", "where")
        parts.append(table(head, rows, align="llrrl"))
    else:
        parts.append("No comparison with AdamW that could be taken over as a number.")
    if rates:
        listed = "; ".join(
            f"{rate.lr:g} on {rate.model} ({rate.paper.authors} {rate.paper.year}, {rate.place})"
            for rate in rates
        )
        parts.append(f"Learning rates: {listed}.")
    elif method.name in evidence.relative_rates:
        relative = evidence.relative_rates[method.name]
        parts.append(f"Learning rate: {relative.factor:g} times AdamW's ({relative.source}).")
    parts.append(
        "All of it is in `recipes/evidence/sources`, which "
        "[`published_file.py`](../../recipes/evidence/published_file.py) reads."
    )
    return "\n\n".join(parts)


def _results(name: str) -> Iterator[tuple[str, ...]]:
    for result in load_evidence().results:
        if result.method == name and name != BASELINE:
            baseline = "" if result.baseline_value is None else f"{result.baseline_value:g}"
            if result.baseline != BASELINE:
                baseline += f" ({load_evidence().other_methods[result.baseline]})"
            where = f"{result.paper.authors} {result.paper.year}, {result.place}"
            setting = f"{result.model}, {result.task}"
            yield setting, result.metric, f"{result.value:g}", baseline, where
