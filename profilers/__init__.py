"""placeholder."""

if __name__ != "subopt.profilers":
    raise ImportError(
        "this folder is the package 'subopt.profilers': install subopt with 'make install' and import that"
    )
