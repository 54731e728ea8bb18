"""Deciding what to train with, the recipe file that says it, and training from it."""

if __name__ != "subopt.recipes":
    raise ImportError(
        "this folder is the package 'subopt.recipes': install subopt with 'make install' and import that"
    )
