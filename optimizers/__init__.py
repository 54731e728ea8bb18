"""placeholder."""

if __name__ != "subopt.optimizers":
    raise ImportError(
        "this folder is the package 'subopt.optimizers': install subopt with 'make install' and import that"
    )
