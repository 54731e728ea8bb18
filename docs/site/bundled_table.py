"""The table of bundled recipes, from the recipes themselves."""

from __future__ import annotations

from tables import table

from subopt.recipes.recipe.bundled import bundled_names, load_bundled


def bundled_table() -> str:
    """Return a row for every bundled recipe."""
    rows = []
    for name in bundled_names():
        bundled = load_bundled(name)
        method = bundled.recipe.optimizer.method
        rows.append((
            f"`{name}`",
            f"[{method}](methods/{method}.md)",
            f"{bundled.recipe.optimizer.lr:g}",
            bundled.made_for,
            bundled.source,
        ))
    return table(("recipe", "method", "learning rate", "made for", "published"), rows)
